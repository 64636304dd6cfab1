#!/usr/bin/env bash
# release.sh [VERSION]: test, tag and push a version, as in "release.sh v0.2.0".
#
# All modules require each other in the same version. The root gets the tag VERSION,
# and cmd/bootlock, which users install, and test, which that requires, get
# FOLDER/VERSION. The work is done in a clone, so that nothing here changes if a step
# fails. The release workflow builds the binaries when it sees the tag of the root.
#
# REHEARSE=1 pushes nothing and runs only the tests that need no server. It builds the
# binaries into dist/. Without VERSION it takes the newest in CHANGELOG.md.
set -euo pipefail

cd "$(dirname "$0")/.."
here=$PWD
version=${1:-}
rehearse=${REHEARSE:-}
[ -n "$version" ] || [ -z "$rehearse" ] || version=v$(sed -n 's/^## \([0-9][^ ]*\) .*/\1/p' CHANGELOG.md | head -n 1)
modules="test cmd/bootlock" # not one more: if a push has more than three tags, GitHub starts no workflow
repository=github.com/bootlock/bootlock

say() { printf 'release: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 1
}

[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || die "usage: make release VERSION=v1.2.3, or make release REHEARSE=1"
[ -z "$(git status --porcelain)" ] || die "the tree is not clean"
[ -z "$(git tag -l "$version")" ] || die "there is a tag $version already"
if [ -z "$rehearse" ]; then
	[ "$(git branch --show-current)" = main ] || die "not on main"
	git fetch --quiet origin main
	[ "$(git rev-parse HEAD)" = "$(git rev-parse FETCH_HEAD)" ] || die "main differs from origin"
fi
grep -q "^## ${version#v} " CHANGELOG.md || die "CHANGELOG.md has no section \"## ${version#v} (date)\""

scratch=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-release.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
git clone --quiet "$here" "$scratch/repository"
cd "$scratch/repository"
git config user.name "$(git -C "$here" config user.name || echo release)"
git config user.email "$(git -C "$here" config user.email || echo release@localhost)"

# In the modules that require each other, and in the workspace that joins them.
sed -i -E "s#^(\t|require )($repository(/[a-z/]+)?) v[^ ]+#\1\2 $version#" go.work ./*/go.mod cmd/bootlock/go.mod
grep -rnE "$repository.* v0\.0\.0( |$)" go.work ./*/go.mod cmd/bootlock/go.mod && die "a module still requires v0.0.0"
scripts/tidy.sh
if [ -n "$(git status --porcelain)" ]; then
	git commit --quiet --all --message "release: $version"
fi

if [ -n "$rehearse" ]; then
	go test -short ./...
else
	make test TESTFLAGS=-count=1
fi
scripts/check-deps.sh

say "binaries"
scripts/build-binaries.sh "$version" "$scratch/dist"
"$scratch/dist/bootlock_${version}_$(go env GOOS)_$(go env GOARCH)/bootlock" version | grep -F "$version"

tags=$version
git tag --annotate --message "bootlock $version" "$version"
for module in $modules; do
	git tag --annotate --message "bootlock/$module $version" "$module/$version"
	tags+=" $module/$version"
done
say "tags: $tags"

if [ -n "$rehearse" ]; then
	rm -rf "$here/dist"
	cp -R "$scratch/dist" "$here/dist"
	say "rehearsed, nothing was pushed; the binaries are in dist/"
	exit 0
fi
origin=$(git -C "$here" remote get-url --push origin)
# shellcheck disable=SC2086 # one argument for each tag
git push --atomic "$origin" HEAD:main $tags
git -C "$here" pull --quiet --ff-only --tags origin main
say "$version is out"
