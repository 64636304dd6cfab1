package scale

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// meter reads how much CPU time has been used by this process, the poolers that it has
// started, and the server.
type meter struct{ self, server int }

// newMeter is for the server of db.
func newMeter(ctx context.Context, db *sql.DB) (*meter, error) {
	var backend int
	if err := db.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&backend); err != nil {
		return nil, err
	}
	all, err := processes()
	if err != nil {
		return nil, err
	}
	p, ok := all[backend]
	if !ok {
		return nil, errors.New("scale: the server is not on this machine")
	}
	return &meter{self: os.Getpid(), server: p.parent}, nil
}

func (m *meter) read() (c Cost, err error) {
	all, err := processes()
	if err != nil {
		return c, err
	}
	for id, p := range all {
		switch {
		case id == m.self:
			c.Client += p.used
		case id == m.server:
			c.Server += p.used + p.children
		case p.parent == m.server:
			c.Server += p.used
		case p.name == "pgbouncer" && below(all, id, m.self):
			c.Pooler += p.used
		}
	}
	return c, nil
}

// used is what a process of Linux has used, with those of its children that have ended.
type used struct {
	name           string
	parent         int
	used, children time.Duration
}

func below(all map[int]used, id, ancestor int) bool {
	for p, ok := all[id]; ok; p, ok = all[p.parent] {
		if p.parent == ancestor {
			return true
		}
	}
	return false
}

func processes() (map[int]used, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(files) == 0 {
		return nil, errors.Join(err, errors.New("scale: CPU times are read in /proc, as Linux has it"))
	}
	all := map[int]used{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		id, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if all[id], err = parseStat(string(text)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// tick is the unit of the times in /proc, whatever the kernel's own is.
const tick = 10 * time.Millisecond

// parseStat reads a line of /proc/pid/stat, see proc(5): the name in brackets, state,
// parent, …, and as fields 14 to 17 the ticks in user and in kernel mode, its own and
// those of its children that it has waited for.
func parseStat(line string) (u used, err error) {
	open, closing := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || closing < open {
		return u, fmt.Errorf("scale: not a line of /proc: %q", line)
	}
	fields := strings.Fields(line[closing+1:])
	if len(fields) < 15 {
		return u, fmt.Errorf("scale: not a line of /proc: %q", line)
	}
	u.name = line[open+1 : closing]
	numbers := make([]int, 0, 5)
	for _, at := range []int{1, 11, 12, 13, 14} {
		n, err := strconv.Atoi(fields[at])
		if err != nil {
			return u, err
		}
		numbers = append(numbers, n)
	}
	u.parent = numbers[0]
	u.used = time.Duration(numbers[1]+numbers[2]) * tick
	u.children = time.Duration(numbers[3]+numbers[4]) * tick
	return u, nil
}
