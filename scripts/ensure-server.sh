#!/usr/bin/env bash
# Makes sure that the tests find a PostgreSQL: the server in BOOTLOCK_TEST_DSN, a
# Docker image, or local server binaries, in the order of test/pgtest. If there is
# none of them, it tries to install one; with -look it fails instead.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
image=${BOOTLOCK_POSTGRES_IMAGE:-postgres:17}
origin=${BOOTLOCK_TEST_ORIGIN:-}

say() { printf 'ensure-server: %s\n' "$*" >&2; }

may() { [ -z "$origin" ] || [ "$origin" = "$1" ]; }

docker_answers() {
	command -v docker >/dev/null && timeout 5 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# local_server prints the folder of the server binaries; see test/pgserver/pgserver.go.
local_server() {
	local dir
	for dir in "$(pg_config --bindir 2>/dev/null)" \
		/usr/lib/postgresql/*/bin \
		"$(dirname "$(readlink -f "$(command -v postgres || echo /)")")" \
		/usr/pgsql-*/bin /usr/libexec/postgresql* \
		/opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin \
		/home/linuxbrew/.linuxbrew/opt/*sql*/bin \
		/Applications/Postgres.app/Contents/Versions/*/bin /usr/local/pgsql/bin; do
		if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
			printf '%s\n' "$dir"
			return 0
		fi
	done
	return 1
}

if may dsn && [ -n "${BOOTLOCK_TEST_DSN:-}" ]; then
	say "the tests will use the server in BOOTLOCK_TEST_DSN"
	exit 0
fi

docker=
if may docker && docker_answers; then
	docker=yes
	if docker image inspect "$image" >/dev/null 2>&1; then
		say "the tests will use Docker, image $image"
		exit 0
	fi
fi
if may local && dir=$(local_server); then
	say "the tests can use the binaries in $dir"
	exit 0
fi
if [ "${1:-}" = -look ]; then
	say "there is no PostgreSQL here"
	exit 1
fi
if [ -n "$docker" ] && docker pull "$image" >&2; then
	say "the tests will use Docker, image $image"
	exit 0
fi
if ! may local; then
	say "BOOTLOCK_TEST_ORIGIN=$origin allows no other server, and that one is not available"
	exit 1
fi
say "no PostgreSQL here (no BOOTLOCK_TEST_DSN, no image $image, no binaries)"
exec "$here/install-server.sh"
