#!/usr/bin/env bash
# Makes a PostgreSQL image without a container registry: a Debian tree made by
# debootstrap, with an entrypoint that keeps the contract of the official image
# as far as the tests need it. Does nothing when the image is there.
#
#   scripts/docker-image.sh [IMAGE]      default: bootlock-postgres:15
set -euo pipefail

image=${1:-bootlock-postgres:15}
suite=bookworm # the Debian release with PostgreSQL 15

say() { printf 'docker-image: %s\n' "$*" >&2; }

if docker image inspect "$image" >/dev/null 2>&1; then
	say "$image is there already"
	exit 0
fi

if ! command -v debootstrap >/dev/null; then
	say "debootstrap is missing (apt-get install debootstrap)"
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	say "debootstrap takes root"
	exit 1
fi

# mirror prints the archive that apt on this machine uses, or Debian's own. A
# mirror of another release has this one too; the folders of updates have not.
mirror() {
	local uri
	# shellcheck disable=SC2016 # apt fills these in, not the shell
	uri=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
		awk '!found && $2 !~ /-/ && $3 == "Debian" && $1 ~ /^https?:/ { print $1; found = 1 }') || true
	printf '%s\n' "${uri:-http://deb.debian.org/debian}"
}

# proxy prints the proxy that apt is configured to use; wget, which debootstrap
# calls, reads only the environment.
proxy() {
	local p=
	eval "$(apt-config shell p Acquire::http::Proxy 2>/dev/null)"
	case $p in DIRECT | false) ;; *) printf '%s\n' "$p" ;; esac
}

tree=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-image.XXXXXX")
trap 'rm -rf "$tree" "$tree.log"' EXIT

archive=$(mirror)
say "making a $suite tree from $archive"
if [ -z "${http_proxy:-}" ]; then
	http_proxy=$(proxy)
	if [ -n "$http_proxy" ]; then export http_proxy; else unset http_proxy; fi
fi
debootstrap --variant=minbase --include=postgresql-15 "$suite" "$tree" "$archive" >"$tree.log" 2>&1 || {
	tail -n 20 "$tree.log" >&2
	exit 1
}
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/var/lib/postgresql/15 \
	"$tree"/etc/postgresql/15 "$tree"/usr/share/{doc,man,locale}/*

cat >"$tree/usr/local/bin/docker-entrypoint.sh" <<'SCRIPT'
#!/bin/bash
# Makes a cluster in PGDATA the first time, from POSTGRES_USER, POSTGRES_PASSWORD
# and POSTGRES_DB, then becomes the server: process 1, which gets the signals.
set -euo pipefail

# As in the official image: no command, or options only, means the server.
if [ $# = 0 ] || [ "${1:0:1}" = - ]; then
	set -- postgres "$@"
fi
if [ "$1" != postgres ]; then
	exec "$@"
fi

if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA" /var/run/postgresql
	chown -R postgres:postgres "$PGDATA" /var/run/postgresql
	chmod 700 "$PGDATA"
	exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
	if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
		echo "POSTGRES_PASSWORD is not set (or else set POSTGRES_HOST_AUTH_METHOD=trust)" >&2
		exit 1
	fi
	user=${POSTGRES_USER:-postgres}
	db=${POSTGRES_DB:-$user}
	method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
	password=()
	pwfile=$(mktemp)
	if [ -n "${POSTGRES_PASSWORD:-}" ]; then
		printf '%s\n' "$POSTGRES_PASSWORD" >"$pwfile"
		password=(--pwfile="$pwfile")
	fi
	initdb -D "$PGDATA" -U "$user" -E UTF8 --locale=C.UTF-8 --no-sync \
		--auth-local=trust --auth-host=scram-sha-256 "${password[@]}"
	rm -f "$pwfile"
	printf 'host all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
	printf "listen_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
	if [ "$db" != postgres ]; then
		# Without a network, so that nobody connects before it is done.
		printf 'CREATE DATABASE "%s";\n' "${db//\"/\"\"}" |
			postgres --single -D "$PGDATA" postgres >/dev/null
	fi
fi
unset POSTGRES_PASSWORD
exec "$@"
SCRIPT
chmod 755 "$tree/usr/local/bin/docker-entrypoint.sh"

say "importing $image"
tar -C "$tree" --numeric-owner -c . | docker import \
	--change 'ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
	--change 'ENV PGDATA=/var/lib/postgresql/data' \
	--change 'ENV LANG=C.UTF-8' \
	--change 'VOLUME /var/lib/postgresql/data' \
	--change 'EXPOSE 5432' \
	--change 'ENTRYPOINT ["docker-entrypoint.sh"]' \
	--change 'CMD ["postgres"]' \
	- "$image" >/dev/null
say "$image is there: $(docker run --rm --entrypoint postgres "$image" --version)"
