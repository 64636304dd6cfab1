package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/bootlock/bootlock/test/freeport"
	"github.com/bootlock/bootlock/test/pgserver"
)

// BinDir returns the folder of the newest server binaries on this machine.
func BinDir() (string, error) { return pgserver.FirstBinDir(binDirs()) }

var binDirs = pgserver.BinDirs

// portTries: between choosing a free port and using it, someone else may take it.
const portTries = 3

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
	for try := 1; ; try++ {
		s, err := startCluster(ctx, bin, opts.Settings)
		if err == nil {
			return s, nil
		}
		if try == portTries || !strings.Contains(err.Error(), "could not bind") {
			return nil, fmt.Errorf("with %s: %w", bin, err)
		}
	}
}

func startCluster(ctx context.Context, bin string, own map[string]string) (*Server, error) {
	port, err := freeport.Find()
	if err != nil {
		return nil, err
	}
	cluster, err := pgserver.Start(bin, settings(map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(port),
		"unix_socket_directories": "",
	}, own)...)
	if err != nil {
		return nil, err
	}
	s := &Server{
		DSN:     dsnURL(net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), cluster.Password),
		Origin:  "local binaries in " + bin,
		logText: func(context.Context) (string, error) { return cluster.Log() },
		stop:    cluster.Stop,
	}
	s.Version, err = pgserver.Await(ctx, s.DSN, cluster.Ended)
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}
