#!/usr/bin/env bash
# Checks what a user of the module gets: the standard library and this module,
# compiled into the program and named in go.sum, and nothing else.
set -euo pipefail

cd "$(dirname "$0")/.."
module=github.com/bootlock/bootlock
version=v0.0.1
failed=0

say() { printf 'check-deps: %s\n' "$*"; }
fail() {
	say "FAILED: $*"
	failed=1
}

# The tests too: what they import ends up in the user's go.sum.
others=$(go list -deps -test -f '{{if and .Module (ne .Module.Path "'"$module"'")}}{{.ImportPath}}{{end}}' \
	./advisorylock/... ./schemaguard | sort -u)
if [ -n "$others" ]; then
	fail "advisorylock and schemaguard, or their tests, need more than the standard library and this module:"
	printf '%s\n' "$others"
else
	say "advisorylock and schemaguard: the standard library and this module only"
fi

if diff=$(scripts/tidy.sh -diff 2>&1); then
	say "go mod tidy changes nothing in any module"
else
	fail "go mod tidy would change go.mod or go.sum:"
	tail -n 40 <<<"$diff"
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-deps.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
go run scripts/modproxy.go "$version" "$scratch/proxy"

# user PACKAGE: a program that imports it and nothing else; its go.sum.
user() {
	local name=${1##*/} dir
	dir=$scratch/$name
	mkdir "$dir"
	cd "$dir"
	printf 'package main\n\nimport _ "%s"\n\nfunc main() {}\n' "$1" >main.go
	# Our version is on no public server, and must not be remembered as if it were.
	GOPROXY="file://$scratch/proxy,$(go env GOPROXY)"
	export GOPROXY GONOSUMDB="$module" GOFLAGS='-mod=mod -modcacherw' GOMODCACHE="$scratch/modcache" GOWORK=off
	go mod init example.com/scratch
	go get "$1@$version"
	go mod tidy
	go build -o /dev/null .
	cat go.sum >&3
}

for package in advisorylock schemaguard; do
	if ! sum=$(user "$module/$package" 3>&1 >"$scratch/log" 2>&1); then
		fail "a program that imports $package does not build:"
		cat "$scratch/log"
	elif [ "$(wc -l <<<"$sum")" != 2 ] || grep -qv "^$module " <<<"$sum"; then
		fail "the go.sum of a program that imports $package is not two lines of this module:"
		printf '%s\n' "$sum"
	else
		say "a program that imports $package has two lines in its go.sum"
	fi
done

exit "$failed"
