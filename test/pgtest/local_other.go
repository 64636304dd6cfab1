//go:build !unix

package pgtest

import (
	"context"
	"errors"
	"runtime"
)

func startLocal(_ context.Context, opts Options) (*Server, error) {
	if _, err := chooseBinDir(opts); err != nil {
		return nil, err
	}
	return nil, errors.New("starting local server binaries is not supported on " + runtime.GOOS)
}
