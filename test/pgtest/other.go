//go:build !unix

package pgtest

import (
	"context"
	"errors"
	"runtime"
)

var errNotUnix = errors.New("servers on this machine are not started on " + runtime.GOOS)

func startLocal(context.Context, Options) (*Server, error) { return nil, errNotUnix }

// ServerDir is for Unix only.
func ServerDir() (string, error) { return "", errNotUnix }

// RunServer is for Unix only.
func RunServer(string, string, ...string) (stop func() error, err error) { return nil, errNotUnix }

// watchContainer does nothing here: without a shell, the container's own time
// limit is what is left when this process is killed.
func watchContainer(_, _ string) (done func(), err error) { return func() {}, nil }
