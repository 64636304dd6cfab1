#!/usr/bin/env bash
# tidy.sh [-diff]: run go mod tidy in every module. With -diff it writes nothing, and
# fails if there is something to write.
#
# The modules require each other in a version that no server has, and go mod tidy
# ignores go.work, so it gets them from a local Git repository. Their own hashes change
# with every commit and stay out of go.sum.
set -euo pipefail

cd "$(dirname "$0")/.."
root=$PWD
module=github.com/bootlock/bootlock
version=$(sed -n "s|^replace.*||; s|^\t$module \(v[^ ]*\) =>.*|\1|p" go.work)

scratch=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-tidy.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
scripts/publish.sh "$version" "$scratch/repository"

# The versions of the repository must not get into the module cache of this machine,
# which serves as a proxy for the rest.
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
