package test

import (
	"bufio"
	"database/sql"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/bootlock/bootlock/test/await"
)

// children are the programs that tests start as processes of their own: the test binary
// again, with the program's name, and the driver and DSN of its pool, in the environment.
var children = map[string]func(db *sql.DB) error{}

const envChild = "BOOTLOCK_TEST_CHILD"

func runChild(name string) error {
	db, err := sql.Open(os.Getenv("DRIVER"), os.Getenv("DSN"))
	if err != nil {
		return err
	}
	defer db.Close()
	return children[name](db)
}

// program is a child process, told by its input and heard by its output.
type program struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed at the end of the output
}

// start runs one of children in a process of its own.
func start(t *testing.T, name string, env ...string) *program {
	t.Helper()
	if children[name] == nil {
		t.Fatalf("no child program %q", name)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: exec.CommandContext(t.Context(), self, "-test.run=^$"), lines: make(chan string, 100)}
	p.cmd.Env = append(os.Environ(), append(env, envChild+"="+name)...)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() { _ = p.end(syscall.SIGKILL) })
	return p
}

// say writes a line to the program.
func (p *program) say(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		t.Fatalf("say %q: %v", line, err)
	}
}

// hear waits for a line that starts with want, and returns it.
func (p *program) hear(t *testing.T, want string) string {
	t.Helper()
	line := await.Value(t, p.lines)
	if !strings.HasPrefix(line, want) {
		t.Fatalf("got %q from the process; want %q", line, want)
	}
	return line
}

func (p *program) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// finish ends the program by the end of its input; it must have no complaint.
func (p *program) finish(t *testing.T) {
	t.Helper()
	if err := p.end(0); err != nil {
		t.Errorf("the process: %v", err)
	}
}

func (p *program) end(s syscall.Signal) error {
	_ = p.in.Close()
	if s != 0 {
		_ = p.cmd.Process.Signal(s)
	}
	for range p.lines { // the pipe must be read to its end first
	}
	return p.cmd.Wait()
}
