package recdriver

import (
	"errors"
	"fmt"
)

// SQLError is an error of the server as pgx and lib/pq since 1.10 have it: with
// a method SQLState. It is used as a value.
type SQLError struct {
	Code       string // SQLSTATE
	Message    string // if empty, the usual one for Constraint
	Constraint string
}

// Error returns the message and the code.
func (e SQLError) Error() string { return fmt.Sprintf("ERROR: %s (SQLSTATE %s)", e.text(), e.Code) }

func (e SQLError) text() string {
	if e.Message == "" && e.Constraint != "" {
		return fmt.Sprintf("duplicate key value violates unique constraint %q", e.Constraint)
	}
	return e.Message
}

// SQLState returns the five characters of the code.
func (e SQLError) SQLState() string { return e.Code }

// LegacySQLError is an error of the server as lib/pq before 1.10 and its forks
// have it: the code is reached through Get only. It is used as a value.
type LegacySQLError SQLError

// Error returns the message, without the code.
func (e LegacySQLError) Error() string { return "pq: " + SQLError(e).text() }

// Get returns the code for 'C', as the protocol names it, and nothing else.
func (e LegacySQLError) Get(k byte) string {
	if k == 'C' {
		return e.Code
	}
	return ""
}

// hasState reports whether err comes from the server rather than the driver.
func hasState(err error) bool {
	var s interface{ SQLState() string }
	var legacy interface{ Get(byte) string }
	return errors.As(err, &s) || errors.As(err, &legacy)
}
