#!/usr/bin/env bash
# tidy.sh [-diff]: go mod tidy in every module; with -diff nothing is written, and it
# fails if there were anything to write.
#
# The modules require each other in a version that is on no server, and go mod tidy
# looks past go.work; so it gets them from a Git repository. Their own hashes, which change
# with every commit, are no part of go.sum.
set -euo pipefail

cd "$(dirname "$0")/.."
root=$PWD
module=github.com/bootlock/bootlock
version=$(sed -n "s|^replace.*||; s|^\t$module \(v[^ ]*\) =>.*|\1|p" go.work)

scratch=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-tidy.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
scripts/publish.sh "$version" "$scratch/repository"

# What is there must not be remembered as if it were published; the rest comes from the
# module cache of this machine, which serves as a proxy itself.
GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)"
export GOPROXY GOPRIVATE="$module" GOMODCACHE="$scratch/modcache" GOWORK=off GOFLAGS='-mod=mod -modcacherw'
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$scratch/repository.insteadOf" GIT_CONFIG_VALUE_0="https://$module"

failed=0
for dir in . cmd/bootlock test test/legacy bench examples; do
	[ -f "$dir/go.mod" ] || continue
	copy=$scratch/copy/$dir
	mkdir -p "$(dirname "$copy")"
	cp "$dir/go.mod" "$dir/go.sum" "$scratch/"
	go -C "$dir" mod tidy
	sed -i "\|^${module}[ /]|d" "$dir/go.sum"
	if [ "${1:-}" = -diff ]; then
		for file in go.mod go.sum; do
			diff -u "$scratch/$file" "$dir/$file" --label "$dir/$file" --label "$dir/$file, tidy" || failed=1
			cp "$scratch/$file" "$root/$dir/$file"
		done
	fi
done
exit $failed
