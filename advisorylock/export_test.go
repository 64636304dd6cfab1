package advisorylock

import "database/sql"

// What the tests, which otherwise see no more than a user does, need to know.

const (
	Burst   = burst
	EndTime = endTime
)

// Registered reports whether the process still knows anything of db.
func Registered(db *sql.DB) bool {
	registry.Lock()
	defer registry.Unlock()
	return registry.of[db] != nil
}

// Keys returns how many keys of db the process knows of.
func Keys(db *sql.DB) int {
	registry.Lock()
	defer registry.Unlock()
	if p := registry.of[db]; p != nil {
		return len(p.keys)
	}
	return 0
}
