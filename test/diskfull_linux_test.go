package test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/advisorylock/locktrace"
	"github.com/bootlock/bootlock/schemaguard"
	"github.com/bootlock/bootlock/test/await"
	"github.com/bootlock/bootlock/test/locktest"
	"github.com/bootlock/bootlock/test/replica"
	"github.com/bootlock/bootlock/test/sqltest"
)

// A lock writes nothing, so that a full disk takes nobody's lock away and keeps nobody
// from one. The migration that needs the next segment of the log ends the server with
// it. Once there is room and the server is back, one of those who waited migrates.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	server := replica.NewFiles(t).StartOne(t, "restart_after_crash=off", "max_wal_size=32MB", "wal_recycle=off")
	disk := newDisk(t, server)
	server.StartAgain(t)
	admin := sqltest.Open(t, "pgx", server.DSN())

	locker, lasting := locktest.Lasting(advisorylock.Locker{})
	guard := schemaguard.Guard{Serialize: true, Trace: locker.Trace}
	migrating, full := make(chan struct{}), make(chan struct{})
	first := await.Go(func() error {
		return guard.Ensure(t.Context(), sqltest.Open(t, "pgx", server.DSN()), "app", func(ctx context.Context, db *sql.DB) error {
			close(migrating)
			<-full
			_, err := db.ExecContext(ctx, "CREATE TABLE app.t AS SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")
			return err
		})
	})
	await.Value(t, migrating)
	migrated := make(chan struct{}, 100)
	var others []<-chan error
	for i := range 6 {
		db := sqltest.Open(t, drivers[i%len(drivers)], server.DSN())
		others = append(others, await.Go(func() error {
			return guard.Ensure(t.Context(), db, "app", func(ctx context.Context, db *sql.DB) error {
				if _, err := db.ExecContext(ctx, "SELECT FROM app.t"); err == nil {
					return nil
				}
				migrated <- struct{}{}
				_, err := db.ExecContext(ctx, "CREATE TABLE app.t ()")
				return err
			})
		}))
	}
	for range others {
		await.Value(t, lasting)
	}

	disk.fill(t)
	for _, driver := range drivers {
		if err := advisorylock.Hold(t.Context(), sqltest.Open(t, driver, server.DSN()), leaseKey, locktest.None); err != nil {
			t.Errorf("a lock while the disk is full: %v", err)
		}
	}
	close(full)
	locktest.WantStep(t, await.Value(t, first), locktrace.Migrate)
	server.Gone(t)
	disk.empty(t)
	server.StartAgain(t)
	lost := 0
	for _, other := range others {
		err := await.Value(t, other)
		if errors.Is(err, advisorylock.ErrLost) { // the server crashed once more, which is no failure of ours
			lost++
		} else if err != nil {
			t.Errorf("got %v from a waiter; want nil", err)
		}
	}
	if got := len(migrated); got != 1+lost {
		t.Errorf("%d waiters migrated, %d of them until the server crashed again; want one more", got, lost)
	}
	testDB{admin: admin, dsn: server.DSN()}.holdsNoLock(t)
}

const diskSize = 64 << 20

// disk is a small file system for the log of a server.
type disk struct{ filler string }

// newDisk ends the server and moves its log there.
func newDisk(t *testing.T, server *replica.Server) disk {
	t.Helper()
	server.End(t, syscall.SIGINT)
	wal := filepath.Join(server.Dir(), "pg_wal")
	old := wal + ".old"
	if err := errors.Join(os.Rename(wal, old), os.Mkdir(wal, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("bootlock", wal, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
		t.Skipf("not tested: no file system can be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(wal, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", `cp -a "$0"/. "$1" && chown --reference="$0" "$1"`, old, wal).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return disk{filler: filepath.Join(wal, "filler")}
}

func (d disk) fill(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(d.filler, make([]byte, diskSize), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v; want ENOSPC", err)
	}
}

func (d disk) empty(t *testing.T) {
	t.Helper()
	if err := os.Remove(d.filler); err != nil {
		t.Fatal(err)
	}
}
