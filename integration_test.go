package bootlock_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The tests on a real PostgreSQL are in test, a module of its own, so that no
// driver takes part in the version selection of who requires this one. Without a
// server they fail and say how to get one, so they run only where there is one.
func TestIntegration(t *testing.T) {
	if testing.Short() {
		t.Skip("not tested with -short: what needs a PostgreSQL server")
	}
	if _, err := os.Stat("test/go.mod"); errors.Is(err, fs.ErrNotExist) {
		t.Skip("not tested outside the repository: what needs a PostgreSQL server")
	}
	if !haveServer(t) {
		t.Skip("not tested: there is no PostgreSQL server here; scripts/ensure-server.sh can get one")
	}
	noteInputs(t)
	cmd := exec.Command("go", "test", "-timeout", "20m", "./...")
	cmd.Dir = "test"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("go test in the folder test: %v", err)
	}
}

// haveServer reports whether the tests would find a server.
func haveServer(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("scripts/ensure-server.sh", "-look").CombinedOutput()
	t.Logf("%s", out)
	return err == nil
}

// noteInputs looks at all that the other module's tests depend on, for go test to
// notice when a result that it has cached is out of date.
func noteInputs(t *testing.T) {
	t.Helper()
	for _, name := range []string{"BOOTLOCK_TEST_DSN", "BOOTLOCK_TEST_ORIGIN", "BOOTLOCK_POSTGRES_IMAGE", "BOOTLOCK_REQUIRE_DOCKER", "BOOTLOCK_REQUIRE_PGBOUNCER"} {
		os.Getenv(name)
	}
	err := filepath.WalkDir("test", func(string, fs.DirEntry, error) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
}
