//go:build !unix

package pgtest

// watchContainer does nothing here: without a shell, the container's own time
// limit is what is left when this process is killed.
func watchContainer(_, _ string) (done func(), err error) { return func() {}, nil }
