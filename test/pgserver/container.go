package pgserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bootlock/bootlock/test/freeport"
)

// Container is a server in a container, which the docker command runs.
type Container struct {
	DSN string // of the database postgres, as a superuser

	stdin io.Closer
	said  output
	ended chan struct{}
}

// Process 1 ends with the server or with its standard input, and everything else in the
// container with it. The input ends in Stop, and however this process ends.
const containerScript = `exec 3<&0; docker-entrypoint.sh postgres "$@" & cat <&3 >/dev/null & wait -n`

// StartContainer starts the server of an image on the loopback interface, and gets the
// image if need be. It does not wait until the server answers; see [Await].
func StartContainer(ctx context.Context, image string, args ...string) (*Container, error) {
	if err := PingDocker(ctx); err != nil {
		return nil, err
	}
	if docker(ctx, "image", "inspect", image) != nil {
		if err := docker(ctx, "pull", "--quiet", image); err != nil {
			return nil, err
		}
	}
	port, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	host, bind := "127.0.0.1", "127.0.0.1:"
	if u, err := url.Parse(os.Getenv("DOCKER_HOST")); err == nil && u.Hostname() != "" {
		host, bind = u.Hostname(), "" // a daemon on another machine publishes the port there
	}
	password := rand.Text()
	cmd := exec.Command("docker", append([]string{
		"run", "--rm", "--interactive", "--env", "POSTGRES_PASSWORD", "--publish", fmt.Sprintf("%s%d:5432", bind, port),
		"--entrypoint", "bash", image, "-c", containerScript, "bash",
	}, args...)...)
	cmd.Env = append(os.Environ(), "POSTGRES_PASSWORD="+password) // arguments are for all to see
	c := &Container{DSN: LoopbackDSN(net.JoinHostPort(host, strconv.Itoa(port)), password), ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &c.said, &c.said
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// LoopbackDSN is the URL of the database postgres at a host and port, as a superuser.
func LoopbackDSN(hostport, password string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password), Host: hostport, Path: "/postgres", RawQuery: "sslmode=disable",
	}).String()
}

// PingDocker returns an error if there is no docker command, or no daemon behind it.
func PingDocker(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // a daemon may be dead and its socket still there
	defer cancel()
	if err := docker(ctx, "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Errorf("no Docker daemon answers: %w", err)
	}
	return nil
}

func docker(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Log returns what the server has logged so far.
func (c *Container) Log() (string, error) { return c.said.String(), nil }

// Ended returns what the server or the docker command said last, once it has exited.
func (c *Container) Ended() error {
	select {
	case <-c.ended:
		return fmt.Errorf("the container ended: %s", strings.TrimSpace(c.said.String()))
	default:
		return nil
	}
}

// Stop ends the server at once, and removes its data.
func (c *Container) Stop() error {
	_ = c.stdin.Close()
	select {
	case <-c.ended:
		return nil
	case <-time.After(20 * time.Second):
		return errors.New("the container has not ended within 20 s")
	}
}

// output keeps what a command writes, and may be read meanwhile.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
