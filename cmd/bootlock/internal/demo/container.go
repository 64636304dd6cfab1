package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"

	"github.com/bootlock/bootlock/test/pgserver"
)

// lifetime, in seconds, ends a container that nobody has removed, since the demo
// was killed.
const lifetime = "3600"

// startContainer starts the server with the docker command, on the loopback
// interface.
func startContainer(ctx context.Context) (*server, error) {
	name, password := "bootlock-demo-"+strings.ToLower(rand.Text()[:10]), rand.Text()
	args := []string{
		"run", "--detach", "--rm", "--name", name, "--env", "POSTGRES_PASSWORD", "--publish", "127.0.0.1::5432",
		"--entrypoint", "timeout", image, lifetime, "docker-entrypoint.sh", "postgres",
	}
	if _, err := docker(ctx, password, append(args, settings...)...); err != nil {
		return nil, err
	}
	remove := func() { _, _ = docker(context.WithoutCancel(ctx), "", "rm", "--force", "--volumes", name) }
	published, err := docker(ctx, "", "port", name, "5432/tcp")
	if err != nil {
		remove()
		return nil, err
	}
	address, _, _ := strings.Cut(published, "\n")
	s := &server{origin: "the image " + image, stop: remove}
	s.dsn = (&url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", password), Host: address, Path: "/postgres", RawQuery: "sslmode=disable",
	}).String()
	if s.version, err = pgserver.Await(ctx, s.dsn, func() error { return nil }); err != nil {
		remove()
		return nil, err
	}
	return s, nil
}

// docker runs the docker command. The password goes by the environment: its
// arguments are for all to see.
func docker(ctx context.Context, password string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	if password != "" {
		cmd.Env = append(cmd.Environ(), "POSTGRES_PASSWORD="+password)
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("there is no docker command")
	}
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(said.String()))
	}
	return strings.TrimSpace(out.String()), nil
}
