package advisorylock

import "database/sql"

// What the tests, which otherwise see no more than a user does, need to know.

const (
	Patience    = patience
	ReportEvery = reportEvery
	LookUpTime  = lookUpTime
	EndTime     = endTime
)

// Comment makes a name fit for an SQL comment.
var Comment = comment

// Registered reports whether the process still knows anything of db.
func Registered(db *sql.DB) bool {
	pools.Lock()
	defer pools.Unlock()
	return pools.of[db] != nil
}

// Keys returns how many keys of db the process knows of.
func Keys(db *sql.DB) int {
	pools.Lock()
	defer pools.Unlock()
	if p := pools.of[db]; p != nil {
		return len(p.keys)
	}
	return 0
}
