package main

import (
	"regexp"
	"slices"
	"strings"
)

// plan says what to measure.
type plan struct {
	sizes   []int // numbers of processes
	rounds  int
	short   bool
	seconds int // how long the slow migration takes
	only    *regexp.Regexp
	modes   []mode // nil: all
}

// fewRounds is what the second drivers and the special cases get.
const fewRounds = 3

func (p plan) roundsOf(l library) int {
	switch {
	case l.folder == "slow" || l.special != "" && p.short:
		return 1
	case l.second || l.special != "":
		return min(p.rounds, fewRounds)
	}
	return p.rounds
}

func (p plan) sizesOf(l library) []int {
	few := p.sizes[:min(2, len(p.sizes))]
	switch {
	case l.folder == "slow":
		return few[len(few)-1:]
	case l.special != "":
		return few
	}
	return p.sizes
}

// modesOf leaves out what l cannot do, what takes long and shows little.
func (p plan) modesOf(l library, n int) []mode {
	return slices.DeleteFunc([]mode{readme, schemaFirst, schemaOnly, serialize, once}, func(m mode) bool {
		switch {
		case m == once && l.guard.UpToDate == nil, m == schemaOnly && !l.ownLock, p.modes != nil && !slices.Contains(p.modes, m):
			return true
		case l.second:
			return !m.guarded()
		case strings.HasPrefix(l.special, lockers):
			return m == serialize || m == once // they poll, and that takes its time
		case l.folder == "slow":
			return m == schemaFirst || m == schemaOnly // Ensure leaves it to golang-migrate's own lock
		}
		return m == schemaFirst && p.short && n < slices.Max(p.sizes)
	})
}
