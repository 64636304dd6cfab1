#!/usr/bin/env bash
# Makes sure that a Docker daemon answers on this machine. Installs Debian's
# engine and starts it when need be; does nothing when one answers already.
#
# The process id of a daemon that this script started goes to the file named by
# BOOTLOCK_DOCKERD_PIDFILE, so that the caller can stop what it did not find.
set -euo pipefail

say() { printf 'docker-engine: %s\n' "$*" >&2; }

# A daemon may be dead and its socket still there: do not wait for ever.
answers() { timeout 5 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

if answers; then
	say "a daemon answers already"
	exit 0
fi

if [ "$(id -u)" != 0 ]; then
	say "no Docker daemon answers, and installing one takes root"
	exit 1
fi

if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
	if ! command -v apt-get >/dev/null; then
		say "no dockerd and no apt-get: install a Docker engine by hand"
		exit 1
	fi
	say "installing docker.io"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# dockerd needs iptables, and pulling needs the certificates. Where systemd
	# runs, the package starts a daemon itself, which is as good as ours.
	apt-get install -y -qq --no-install-recommends docker.io iptables ca-certificates >/dev/null
fi

if answers; then
	say "the package started a daemon"
	exit 0
fi

log=$(mktemp "${TMPDIR:-/tmp}/bootlock-dockerd.XXXXXX.log")

# start [argument...]: one try; true when the daemon answers.
start() {
	say "starting dockerd $* (log: $log)"
	# A session of its own: the daemon outlives this script and its terminal.
	setsid dockerd "$@" >>"$log" 2>&1 </dev/null &
	pid=$!
	for _ in $(seq 60); do
		if answers; then
			if [ -n "${BOOTLOCK_DOCKERD_PIDFILE:-}" ]; then
				echo "$pid" >"$BOOTLOCK_DOCKERD_PIDFILE"
			fi
			say "dockerd runs as process $pid"
			return 0
		fi
		kill -0 "$pid" 2>/dev/null || return 1
		sleep 0.5
	done
	say "dockerd has not answered within 30 s; stopping it"
	kill "$pid"
	wait "$pid" || true
	return 1
}

# Kernels without overlayfs, or with /var/lib/docker on an overlay, need vfs.
start || start --storage-driver=vfs || {
	say "dockerd did not start:"
	tail -n 20 "$log" >&2
	exit 1
}
