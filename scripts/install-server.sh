#!/usr/bin/env bash
# Installs PostgreSQL's server binaries by the machine's package manager, if this
# user may; else says what to install. No server is started, and none is set up to
# start with the machine.
set -euo pipefail

say() { printf 'install-server: %s\n' "$*" >&2; }

as_root=()
if [ "$(id -u)" != 0 ]; then
	if sudo -n true 2>/dev/null; then as_root=(sudo -n); else as_root=(false); fi
fi

give_up() {
	cat >&2 <<-TEXT
		install-server: could not install PostgreSQL. Any one of these will do:
		  Debian, Ubuntu   sudo apt-get install postgresql
		  Fedora, Red Hat  sudo dnf install postgresql-server
		  Alpine           sudo apk add postgresql
		  macOS            brew install postgresql
		  Docker           docker pull postgres:17
		  a server         export BOOTLOCK_TEST_DSN=postgres://user:password@host:5432/postgres   (a superuser)
	TEXT
	exit 1
}

apt_install() {
	# postgresql-common's own switch against a cluster made and started at once.
	# A folder of settings: nothing that is there is changed, and it goes again.
	local conf=/etc/postgresql-common/createcluster.d/bootlock-no-main.conf status=0
	local env=(env DEBIAN_FRONTEND=noninteractive)
	"${as_root[@]}" apt-get update -qq || return
	"${as_root[@]}" mkdir -p "${conf%/*}" || return
	echo 'create_main_cluster = false' | "${as_root[@]}" tee "$conf" >/dev/null || return
	"${as_root[@]}" "${env[@]}" apt-get install -y -qq --no-install-recommends postgresql >/dev/null || status=$?
	"${as_root[@]}" rm -f "$conf"
	return "$status"
}

if command -v brew >/dev/null && [ "$(uname)" = Darwin ]; then
	say "brew install postgresql"
	brew install postgresql >&2 || give_up
elif [ "${as_root[*]}" = false ]; then
	say "this takes root, or sudo without a password"
	give_up
elif command -v apt-get >/dev/null; then
	say "apt-get install postgresql"
	apt_install || give_up
elif command -v dnf >/dev/null; then
	say "dnf install postgresql-server"
	"${as_root[@]}" dnf install -y -q postgresql-server >&2 || give_up
elif command -v apk >/dev/null; then
	say "apk add postgresql"
	"${as_root[@]}" apk add -q postgresql >&2 || give_up
else
	give_up
fi
say "done"
