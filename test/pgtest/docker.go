package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"

	"github.com/bootlock/bootlock/test/pgserver"
)

const (
	pingTimeout = 1500 * time.Millisecond // a daemon may be dead and its socket still there

	// containerLimit is how long a container lives if nobody removes it.
	containerLimit = time.Hour
)

// connectDocker returns a pool whose daemon answers. close leaves no idle
// connection, with its goroutines, behind.
func connectDocker(ctx context.Context) (pool *dockertest.Pool, closeIdle func(), err error) {
	pool, err = dockertest.NewPool("")
	if err != nil {
		return nil, nil, fmt.Errorf("no Docker daemon answers: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := pool.Client.PingWithContext(ctx); err != nil {
		return nil, nil, fmt.Errorf("no Docker daemon answers: %w", err)
	}
	return pool, pool.Client.HTTPClient.CloseIdleConnections, nil
}

func startDocker(ctx context.Context, opts Options) (*Server, error) {
	pool, closeIdle, err := connectDocker(ctx)
	if err != nil {
		return nil, err
	}
	defer closeIdle()

	image := os.Getenv(EnvImage)
	if image == "" {
		image = DefaultImage
	}
	repository, tag := docker.ParseRepositoryTag(image)

	// A daemon on another machine publishes the port there.
	host, bind := "127.0.0.1", "127.0.0.1"
	if u, err := url.Parse(pool.Client.Endpoint()); err == nil && u.Scheme != "unix" && u.Scheme != "npipe" && u.Hostname() != "" {
		host, bind = u.Hostname(), ""
	}
	name := "bootlock-pgtest-" + random(6)
	password := random(16)
	done, err := watchContainer(pool.Client.Endpoint(), name)
	if err != nil {
		return nil, err
	}
	res, err := pool.RunWithOptions(&dockertest.RunOptions{
		Name:         name,
		Repository:   repository,
		Tag:          tag,
		Env:          []string{"POSTGRES_PASSWORD=" + password},
		Cmd:          append([]string{"postgres"}, settings(opts.Settings)...),
		ExposedPorts: []string{"5432/tcp"},
		PortBindings: map[docker.Port][]docker.PortBinding{"5432/tcp": {{HostIP: bind}}},
	}, func(hc *docker.HostConfig) {
		hc.AutoRemove = true
		hc.PublishAllPorts = false // it would publish on every interface
	})
	remove := func() error {
		defer closeIdle()
		defer done()
		return removeContainer(pool, name)
	}
	if err != nil { // it may be that the image is neither there nor can be pulled
		return nil, errors.Join(fmt.Errorf("image %s: %w", image, err), remove())
	}
	expire(ctx, pool, name, containerLimit)

	s := &Server{
		DSN:     dsnURL(net.JoinHostPort(host, res.GetPort("5432/tcp")), password),
		Origin:  "docker image " + image,
		logText: func(ctx context.Context) (string, error) { return containerLog(ctx, pool, name) },
		stop:    remove,
	}
	var said string // the log goes when the container does
	s.Version, err = pgserver.Await(ctx, s.DSN, func() error {
		if text, err := containerLog(ctx, pool, name); err == nil {
			said = text
		}
		c, err := pool.Client.InspectContainerWithContext(name, ctx)
		if err == nil && c.State.Running {
			return nil
		}
		return fmt.Errorf("the container ended: %s", strings.TrimSpace(said))
	})
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return s, nil
}

// expire asks the daemon to end the container after limit, for the case that
// everything else fails. [dockertest.Resource.Expire] does the same, with a
// goroutine and a connection that wait for it to happen; but the daemon goes on
// when the client has hung up. The signal that comes first is SIGWINCH
// (dockertest sees to that), which the server ignores.
func expire(ctx context.Context, pool *dockertest.Pool, name string, limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 200*time.Millisecond)
	defer cancel()
	_ = pool.Client.StopContainerWithContext(name, uint(limit/time.Second), ctx)
}

// removeContainer returns when the container is gone. The daemon may be removing
// it already, because it removes containers that end.
func removeContainer(pool *dockertest.Pool, name string) error {
	var err error
	for range 100 {
		err = pool.Client.RemoveContainer(docker.RemoveContainerOptions{ID: name, Force: true, RemoveVolumes: true})
		var gone *docker.NoSuchContainer
		if errors.As(err, &gone) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("the container %s is still there: %w", name, err)
}

func containerLog(ctx context.Context, pool *dockertest.Pool, name string) (string, error) {
	defer pool.Client.HTTPClient.CloseIdleConnections()
	var b bytes.Buffer
	err := pool.Client.Logs(docker.LogsOptions{
		Context: ctx, Container: name, OutputStream: &b, ErrorStream: &b, Stdout: true, Stderr: true,
	})
	return b.String(), err
}
