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
func (e SQLError) Error() string {
	return fmt.Sprintf("ERROR: %s (SQLSTATE %s)", message(e.Message, e.Constraint), e.Code)
}

// SQLState returns the five characters of the code.
func (e SQLError) SQLState() string { return e.Code }

// LegacySQLError is an error of the server as lib/pq before 1.10 and its forks
// have it: the fields are reached through Get only. It is used as a value.
type LegacySQLError struct {
	Code       string // SQLSTATE
	Message    string // if empty, the usual one for Constraint
	Constraint string
}

// Error returns the message, without the code.
func (e LegacySQLError) Error() string { return "pq: " + message(e.Message, e.Constraint) }

// Get returns the field that the protocol names with k: 'C' the code, 'M' the
// message, 'n' the constraint, 'S' the severity.
func (e LegacySQLError) Get(k byte) string {
	switch k {
	case 'C':
		return e.Code
	case 'M':
		return message(e.Message, e.Constraint)
	case 'n':
		return e.Constraint
	case 'S':
		return "ERROR"
	}
	return ""
}

func message(text, constraint string) string {
	if text == "" && constraint != "" {
		return fmt.Sprintf("duplicate key value violates unique constraint %q", constraint)
	}
	return text
}

// hasState reports whether err comes from the server rather than the driver.
func hasState(err error) bool {
	var s interface{ SQLState() string }
	var legacy interface{ Get(byte) string }
	return errors.As(err, &s) || errors.As(err, &legacy)
}
