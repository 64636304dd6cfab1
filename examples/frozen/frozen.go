//go:build unix

// Command frozen shows what a lease cannot do, and what Fence does. Two processes
// migrate one after the other. The first is frozen in the middle, as by a debugger,
// a full disk or a suspended machine; its lease ends, and the second one migrates
// and finishes. Then the first one thaws and goes on where it was, an instant before
// it learns that its lock is gone.
//
//	$ DATABASE_URL=postgres://… go run ./frozen
//	without Fence: the first process wrote late: the plan is that of first
//	with Fence:    the first process was refused: the plan is that of second
package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/bootlock/bootlock/advisorylock"
)

var key = advisorylock.KeyOf("examples/frozen")

// migrate is what each process does. Its transactions ask the server whether the
// lock is still there if fenced is true.
func migrate(ctx context.Context, db *sql.DB, name string, fenced bool, pause func()) error {
	locker := advisorylock.Locker{TTL: time.Second}
	return locker.Hold(ctx, db, key, func(ctx context.Context) error {
		if _, err := db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS settings (id int PRIMARY KEY, plan text)"); err != nil {
			return err
		}
		pause()
		// A context that has ended would stop what follows, if it were looked at in
		// time. What a process does in the instant after its thaw, it does without.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() //nolint:errcheck // after the commit there is nothing to roll back
		if fenced {
			if err := advisorylock.Fence(ctx, tx); err != nil {
				return err
			}
		}
		_, err = tx.ExecContext(ctx, "INSERT INTO settings VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET plan = excluded.plan", name)
		if err != nil {
			return err
		}
		return tx.Commit()
	})
}

// first is the first process. It pauses until its input ends.
func first(ctx context.Context) error {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer db.Close()
	err = migrate(ctx, db, "first", os.Getenv("FENCED") == "true", func() {
		fmt.Println("in the middle")
		_, _ = io.Copy(io.Discard, os.Stdin)
	})
	// It has lost its lock in either case. Whether it has written is for the table
	// to tell.
	if errors.Is(err, advisorylock.ErrLost) {
		return nil
	}
	return err
}

// show runs the first process, is the second one itself, and returns whose plan there
// is in the end.
func show(ctx context.Context, dsn string, fenced bool) (plan string, err error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return "", err
	}
	defer db.Close()
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn, "FENCED="+strconv.FormatBool(fenced))
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		return "", err
	}
	defer func() {
		_ = cmd.Process.Kill() // unless it has come to its end
		_ = cmd.Wait()
	}()
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return "", fmt.Errorf("the first process did not come to the middle: %w", err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return "", err
	}
	// The second one has the lock when the lease of the first is over.
	if err := migrate(ctx, db, "second", fenced, func() {}); err != nil {
		return "", err
	}
	if err := errors.Join(cmd.Process.Signal(syscall.SIGCONT), in.Close(), cmd.Wait()); err != nil {
		return "", err
	}
	err = db.QueryRowContext(ctx, "SELECT plan FROM settings").Scan(&plan)
	return plan, err
}

func main() {
	log.SetFlags(0)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if os.Getenv("FENCED") != "" {
		if err := first(ctx); err != nil {
			log.Fatal(err)
		}
		return
	}
	for _, fenced := range []bool{false, true} {
		plan, err := show(ctx, os.Getenv("DATABASE_URL"), fenced)
		if err != nil {
			log.Fatal(err)
		}
		with, what := "without Fence:", "wrote late"
		if fenced {
			with = "with Fence:   "
		}
		if plan == "second" {
			what = "was refused"
		}
		fmt.Printf("%s the first process %s: the plan is that of %s\n", with, what, plan)
	}
}
