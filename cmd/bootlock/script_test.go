//go:build unix

package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/bootlock/bootlock/advisorylock"
	"github.com/bootlock/bootlock/test/freeport"
	"github.com/bootlock/bootlock/test/pgtest"
)

var update = flag.Bool("update", false, "rewrite the files that scripts compare with")

// withServer stops the server of the tests when they are over.
type withServer struct{ *testing.M }

func (m withServer) Run() int {
	defer pgtest.Shutdown()
	return m.M.Run()
}

func TestMain(m *testing.M) {
	testscript.Main(withServer{m}, map[string]func(){"bootlock": main})
}

// TestScripts runs testdata/*.txtar. Each has a database of its own, which
// DATABASE_URL names, and these commands besides testscript's own:
//
//	exits CODE COMMAND…      run a command to its end, and check its exit code
//	until PATTERN CODE COMMAND…
//	                         the same again and again until its output matches
//	start NAME COMMAND…      start a command
//	signal NAME SIGNAL       send it a signal
//	ends NAME CODE           wait for its end, and check its exit code
//	says NAME TEXT           wait until it has written text to stdout or stderr
//	held LOCK | wanted LOCK | free LOCK
//	                         wait until the server says so
//	terminate LOCK           end the session that holds it
//	proxy                    put a proxy in front of the server: PROXY_URL
//	proxy open|freeze|close  let it through, or pass nothing on, or cut all
//	appears FILE             wait for a file
//	fake                     start a server that keeps no lock: FAKE_URL
func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("psql"); err != nil {
		t.Fatalf("the scripts need psql: %v", err)
	}
	server := pgtest.Shared(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup:               func(env *testscript.Env) error { return setUp(env, server) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     command("CODE COMMAND…", exits),
			"until":     command("PATTERN CODE COMMAND…", untilOutput),
			"start":     command("NAME COMMAND…", startProcess),
			"signal":    command("NAME SIGNAL", signalProcess),
			"ends":      command("NAME CODE", endProcess),
			"says":      command("NAME TEXT", says),
			"held":      lockState(func(holders, _ int) bool { return holders > 0 }),
			"wanted":    lockState(func(_, waiters int) bool { return waiters > 0 }),
			"free":      lockState(func(holders, waiters int) bool { return holders+waiters == 0 }),
			"terminate": command("LOCK", terminate),
			"proxy":     command("…", proxyCommand),
			"appears":   command("FILE", appears),
			"fake":      command("", fake),
		},
	})
}

// command checks that there is an argument for each word of usage, or more if it ends
// with an ellipsis.
func command(usage string, run func(ts *testscript.TestScript, args []string)) func(*testscript.TestScript, bool, []string) {
	least, more := len(strings.Fields(strings.TrimSuffix(usage, "…"))), strings.HasSuffix(usage, "…")
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < least || len(args) > least && !more {
			ts.Fatalf("got arguments %q; want %s", args, usage)
		}
		run(ts, args)
	}
}

// patience is how long a script waits for what must happen.
const patience = 60 * time.Second

type stateKey struct{}

type scriptState struct {
	db        *sql.DB
	dsn       string
	processes map[string]*background
	proxy     *proxy
}

func stateOf(ts *testscript.TestScript) *scriptState {
	return ts.Value(stateKey{}).(*scriptState)
}

func setUp(env *testscript.Env, server *pgtest.Server) error {
	dsn, drop, err := server.CreateDatabase(context.Background(), "script")
	if err != nil {
		return err
	}
	env.Defer(drop)
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return err
	}
	env.Defer(func() { db.Close() })
	state := &scriptState{db: db, dsn: dsn, processes: map[string]*background{}}
	env.Defer(func() {
		for _, p := range state.processes {
			_ = p.cmd.Process.Kill()
		}
		if state.proxy != nil {
			state.proxy.end()
		}
	})
	env.Values[stateKey{}] = state

	u, err := url.Parse(dsn)
	if err != nil {
		return fmt.Errorf("the scripts need a DSN that is a URL: %w", err)
	}
	password, _ := u.User.Password()
	health, err := freeAddress()
	if err != nil {
		return err
	}
	env.Vars = append(env.Vars,
		"DATABASE_URL="+dsn,
		"DBHOST="+u.Hostname(), "DBPORT="+u.Port(), "DBUSER="+u.User.Username(), "DBPASSWORD="+password,
		"DBNAME="+strings.TrimPrefix(u.Path, "/"),
		"HEALTH="+health,
	)
	return nil
}

func freeAddress() (string, error) {
	port, err := freeport.Find()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

func exits(ts *testscript.TestScript, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if want := args[0]; strconv.Itoa(code) != want {
		ts.Fatalf("got exit code %d; want %s", code, want)
	}
}

// untilOutput is for what a slow machine may show a little later.
func untilOutput(ts *testscript.TestScript, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	until(ts, func() bool {
		exits(ts, args[1:])
		return pattern.MatchString(ts.ReadFile("stdout") + ts.ReadFile("stderr"))
	}, func() string { return "the output never matched " + args[0] })
}

type background struct {
	cmd    *exec.Cmd
	stdout string // the names of files
	stderr string
	ended  chan struct{}
}

func startProcess(ts *testscript.TestScript, args []string) {
	name := args[0]
	p := &background{
		cmd:    exec.Command(args[1], args[2:]...),
		stdout: ts.MkAbs(name + ".stdout"), stderr: ts.MkAbs(name + ".stderr"),
		ended: make(chan struct{}),
	}
	p.cmd.Dir = ts.MkAbs(".")
	ts.Check(ts.Exec("env")) // testscript shows the script's environment name by name only
	p.cmd.Env = slices.DeleteFunc(strings.Split(ts.ReadFile("stdout"), "\n"), func(v string) bool { return strings.HasSuffix(v, "=") })
	out, err := os.Create(p.stdout)
	ts.Check(err)
	errOut, err := os.Create(p.stderr)
	ts.Check(err)
	p.cmd.Stdout, p.cmd.Stderr = out, errOut
	ts.Check(p.cmd.Start())
	go func() {
		_ = p.cmd.Wait()
		_ = out.Close()
		_ = errOut.Close()
		close(p.ended)
	}()
	stateOf(ts).processes[name] = p
}

func processOf(ts *testscript.TestScript, name string) *background {
	p := stateOf(ts).processes[name]
	if p == nil {
		ts.Fatalf("no process %q was started", name)
	}
	return p
}

func signalProcess(ts *testscript.TestScript, args []string) {
	number := unix.SignalNum("SIG" + args[1])
	if number == 0 {
		ts.Fatalf("no signal %s", args[1])
	}
	ts.Check(processOf(ts, args[0]).cmd.Process.Signal(number))
}

func endProcess(ts *testscript.TestScript, args []string) {
	p := processOf(ts, args[0])
	select {
	case <-p.ended:
	case <-time.After(patience):
		ts.Fatalf("%s does not end; it said:\n%s", args[0], p.said())
	}
	ts.Logf("%s said:\n%s", args[0], p.said())
	if got, want := strconv.Itoa(p.cmd.ProcessState.ExitCode()), args[1]; got != want {
		ts.Fatalf("got exit code %s (%v) of %s; want %s", got, p.cmd.ProcessState, args[0], want)
	}
}

func (p *background) said() string {
	out, _ := os.ReadFile(p.stdout)
	errOut, _ := os.ReadFile(p.stderr)
	return string(out) + string(errOut)
}

func says(ts *testscript.TestScript, args []string) {
	p := processOf(ts, args[0])
	until(ts, func() bool { return strings.Contains(p.said(), args[1]) },
		func() string { return fmt.Sprintf("got %q of %s; want %q in it", p.said(), args[0], args[1]) })
}

func appears(ts *testscript.TestScript, args []string) {
	until(ts, func() bool { _, err := os.Stat(ts.MkAbs(args[0])); return err == nil },
		func() string { return "no file " + args[0] })
}

func until(ts *testscript.TestScript, ok func() bool, why func() string) {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("%s", why())
		}
	}
}

func lockState(ok func(holders, waiters int) bool) func(*testscript.TestScript, bool, []string) {
	return command("LOCK", func(ts *testscript.TestScript, args []string) {
		var sessions []advisorylock.Session
		until(ts, func() bool {
			var err error
			sessions, err = advisorylock.Sessions(context.Background(), stateOf(ts).db, advisorylock.KeyOf(args[0]))
			ts.Check(err)
			holders := 0
			for _, s := range sessions {
				if s.Granted {
					holders++
				}
			}
			return ok(holders, len(sessions)-holders)
		}, func() string { return fmt.Sprintf("got %v for lock %s", sessions, args[0]) })
	})
}

func terminate(ts *testscript.TestScript, args []string) {
	db := stateOf(ts).db
	sessions, err := advisorylock.Sessions(context.Background(), db, advisorylock.KeyOf(args[0]))
	ts.Check(err)
	ended := false
	for _, s := range sessions {
		if s.Granted {
			_, err := db.ExecContext(context.Background(), s.TerminateSQL())
			ts.Check(err)
			ended = true
		}
	}
	if !ended {
		ts.Fatalf("nobody holds %s", args[0])
	}
}
