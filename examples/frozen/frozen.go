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
	"log"
	"os"
	"os/exec"
	"strings"
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
		ctx = context.WithoutCancel(ctx)
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

// child is one of the two processes. It pauses until it is told to go on.
func child(name string) error {
	db, err := sql.Open("pgx", os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer db.Close()
	in := bufio.NewScanner(os.Stdin)
	err = migrate(context.Background(), db, name, os.Getenv("FENCE") == "1", func() {
		fmt.Println("in the middle")
		in.Scan()
	})
	// The first one has lost its lock in either case. Whether it has written
	// is for the table to tell.
	if errors.Is(err, advisorylock.ErrLost) {
		return nil
	}
	return err
}

// show runs the two processes and returns whose plan there is in the end.
func show(ctx context.Context, dsn string, fenced bool) (plan string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	start := func(name string) (p *process, err error) {
		p = &process{cmd: exec.CommandContext(ctx, self, name)}
		p.cmd.Env = append(os.Environ(), "DATABASE_URL="+dsn, "FENCE=0", "FROZEN="+name)
		if fenced {
			p.cmd.Env = append(p.cmd.Env, "FENCE=1")
		}
		return p, p.start()
	}

	first, err := start("first")
	if err != nil {
		return "", err
	}
	defer first.kill()
	if err := first.signal(syscall.SIGSTOP); err != nil {
		return "", err
	}
	second, err := start("second") // has the lock when the lease of the first is over
	if err != nil {
		return "", err
	}
	defer second.kill()
	if err := second.goOn(); err != nil {
		return "", err
	}
	if err := first.signal(syscall.SIGCONT); err != nil {
		return "", err
	}
	if err := first.goOn(); err != nil {
		return "", err
	}

	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return "", err
	}
	defer db.Close()
	err = db.QueryRowContext(ctx, "SELECT plan FROM settings").Scan(&plan)
	return plan, err
}

// process is one that has come to the middle.
type process struct {
	cmd *exec.Cmd
	in  *os.File
}

func (p *process) start() error {
	in, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // the process has its own
	p.in, p.cmd.Stdin, p.cmd.Stderr = w, in, os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && strings.TrimSpace(line) != "in the middle" {
		err = fmt.Errorf("the process said %q", line)
	}
	return err
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// goOn lets the process go on and waits for its end.
func (p *process) goOn() error {
	if err := p.in.Close(); err != nil {
		return err
	}
	return p.cmd.Wait()
}

// kill ends a process that has not come to its end.
func (p *process) kill() {
	_ = p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func main() {
	log.SetFlags(0)
	if name := os.Getenv("FROZEN"); name != "" {
		if err := child(name); err != nil {
			log.Fatalf("%s: %v", name, err)
		}
		return
	}
	for _, fenced := range []bool{false, true} {
		plan, err := show(context.Background(), os.Getenv("DATABASE_URL"), fenced)
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
