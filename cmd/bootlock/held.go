package main

import (
	"os"
	"slices"
	"strings"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
)

// heldVariable tells COMMAND, and any bootlock in it, which locks it runs under:
// DATABASE:KEY, separated by spaces.
const heldVariable = "BOOTLOCK_HELD"

// heldWith is the value of heldVariable for COMMAND: what this process runs under
// itself, and keys.
func heldWith(database string, keys []advisorylock.Key) string {
	words := strings.Fields(os.Getenv(heldVariable))
	for _, key := range keys {
		words = append(words, database+":"+key.String())
	}
	return strings.Join(words, " ")
}

// checkNesting refuses a lock that this process, or the COMMAND that it is in, runs under.
func checkNesting(database, what string, keys ...advisorylock.Key) error {
	held := strings.Fields(os.Getenv(heldVariable))
	for _, key := range keys {
		if slices.Contains(held, database+":"+key.String()) {
			return usage("this command already runs under %s: it would wait for itself; leave out the inner bootlock, or use another lock", what)
		}
	}
	return nil
}

// inside says what a wait may be for that somebody else has, where this process is in
// a COMMAND that runs under other locks: two such commands may wait for each other.
func inside(holders []locktrace.Session) string {
	if len(holders) == 0 || os.Getenv(heldVariable) == "" {
		return ""
	}
	return "; this command runs under another lock, which the holder may be waiting for: take both in one run, by --lock A --lock B"
}
