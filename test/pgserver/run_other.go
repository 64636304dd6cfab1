//go:build !unix

package pgserver

import (
	"errors"
	"runtime"
)

var errNotUnix = errors.New("servers on this machine are not started on " + runtime.GOOS)

// Dir is for Unix only.
func Dir() (string, error) { return "", errNotUnix }

// Run is for Unix only.
func Run(string, string, ...string) (stop func() error, err error) { return nil, errNotUnix }
