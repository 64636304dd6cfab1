package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"

	"github.com/bootlock/bootlock/test/freeport"
	"github.com/bootlock/bootlock/test/pgserver"
)

// BinDir returns the folder of the newest server binaries on this machine.
func BinDir() (string, error) { return pgserver.FirstBinDir(binDirs()) }

var binDirs = pgserver.BinDirs

func startDocker(ctx context.Context, opts Options) (*Server, error) {
	image := cmp.Or(os.Getenv(EnvImage), DefaultImage)
	return started(ctx, "docker image "+image, func() (string, instance, error) {
		c, err := pgserver.StartContainer(ctx, image, settings(opts.Settings)...)
		if err != nil {
			return "", nil, err
		}
		return c.DSN, c, nil
	})
}

func startLocal(ctx context.Context, opts Options) (*Server, error) {
	bin := opts.BinDir
	if bin == "" {
		var err error
		if bin, err = BinDir(); err != nil {
			return nil, err
		}
	} else if !pgserver.HasBinaries(bin) {
		return nil, fmt.Errorf("%s does not hold initdb and postgres", bin)
	}
	return started(ctx, "local binaries in "+bin, func() (string, instance, error) {
		port, err := freeport.Find()
		if err != nil {
			return "", nil, err
		}
		c, err := pgserver.Start(bin, settings(map[string]string{
			"listen_addresses":        "127.0.0.1",
			"port":                    strconv.Itoa(port),
			"unix_socket_directories": "",
		}, opts.Settings)...)
		if err != nil {
			return "", nil, err
		}
		return pgserver.LoopbackDSN(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), c.Password), c, nil
	})
}

// instance is a server that this process runs.
type instance interface {
	Log() (string, error)
	Ended() error
	Stop() error
}

// Between choosing a free port and using it, another process may take it.
const portTries = 3

var portTaken = regexp.MustCompile(`could not bind|Bind for|: bind: `) // the words of servers, and of Docker

// started returns a server once it answers.
func started(ctx context.Context, origin string, start func() (dsn string, own instance, err error)) (*Server, error) {
	for try := 1; ; try++ {
		dsn, own, err := start()
		if err != nil {
			return nil, err
		}
		version, err := pgserver.Await(ctx, dsn, own.Ended)
		if err == nil {
			return &Server{DSN: dsn, Origin: origin, Version: version, own: own}, nil
		}
		err = errors.Join(err, own.Stop())
		if try == portTries || !portTaken.MatchString(err.Error()) {
			return nil, fmt.Errorf("%s: %w", origin, err)
		}
	}
}
