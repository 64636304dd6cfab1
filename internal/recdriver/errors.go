package recdriver

import "fmt"

// SQLError is an error of the server as pgx and lib/pq since 1.10 have it: with
// a method SQLState. It is used as a value.
type SQLError struct {
	Code       string // SQLSTATE
	Message    string // if empty, the usual one for Constraint
	Constraint string
}

// Error returns the message and the code.
func (e SQLError) Error() string {
	text := e.Message
	if text == "" && e.Constraint != "" {
		text = fmt.Sprintf("duplicate key value violates unique constraint %q", e.Constraint)
	}
	return fmt.Sprintf("ERROR: %s (SQLSTATE %s)", text, e.Code)
}

// SQLState returns the five characters of the code.
func (e SQLError) SQLState() string { return e.Code }
