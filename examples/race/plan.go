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
	modes   *regexp.Regexp
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
	switch l.folder {
	case "slow":
		return []int{slices.Max(p.sizes[:min(2, len(p.sizes))])}
	case "concurrently", "goosesession", "goosetable":
		return p.sizes[:min(2, len(p.sizes))]
	}
	return p.sizes
}

// modesOf leaves out what l cannot do, what takes long and shows little, and, in
// the short form, what is only for comparison.
func (p plan) modesOf(l library, n int) []mode { //nolint:cyclop // a case for each way to run a library
	all := []mode{readme, schemaFirst, schemaOnly, serialize, once, blocking}
	return slices.DeleteFunc(all, func(m mode) bool {
		switch {
		case m == once && l.guard.UpToDate == nil, m == schemaOnly && !l.ownLock, !p.modes.MatchString(string(m)):
			return true
		case l.second:
			return !m.guarded()
		case strings.HasPrefix(l.special, lockers):
			return m != readme && m != schemaFirst && m != schemaOnly // they poll, and that takes its time
		case l.folder == "slow":
			return m != readme && m != serialize && m != once // Ensure leaves it to golang-migrate's own lock
		}
		if m == schemaFirst && p.short && n < slices.Max(p.sizes) {
			return true
		}
		compared := l.special != "" || n == slices.Max(p.sizes)
		return m == blocking && (p.short || !compared)
	})
}
