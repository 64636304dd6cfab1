//go:build unix

package pgtest

import (
	"os"
	"os/exec"

	"github.com/bootlock/bootlock/test/pgserver"
)

// A line on the pipe means that there is nothing left to do. The second try is
// for a container that was still being made when this process was killed.
const containerScript = `
read -r _ && exit 0
docker rm --force --volumes "$1"
sleep 5
docker rm --force --volumes "$1"
`

// watchContainer removes the container when this process ends before done is
// called. It takes the docker command; without it the container's own time limit
// is what is left.
func watchContainer(endpoint, name string) (done func(), err error) {
	if _, err := exec.LookPath("docker"); err != nil {
		return func() {}, nil
	}
	cmd := exec.Command("/bin/sh", "-c", containerScript, "bootlock-pgtest", name)
	// The command may have a context of its own, with another daemon.
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+endpoint)
	stop, err := pgserver.Watch(cmd)
	return func() { _ = stop() }, err
}
