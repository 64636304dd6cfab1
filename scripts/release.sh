#!/usr/bin/env bash
# release.sh VERSION: tests, tags and pushes a version, as in "release.sh v0.2.0".
#
# All modules get the same version: the root the tag VERSION, the others FOLDER/VERSION,
# and they require each other in it. What is made is made in a clone, so that nothing
# here changes when something fails on the way. The binaries are built by the release
# workflow when the tags are there.
#
# With REHEARSE=1 nothing is pushed and nothing here changes at all; CHANGELOG.md need
# not name the version, the tests are those that need no server, and the binaries are
# built into dist/ to look at.
set -euo pipefail

cd "$(dirname "$0")/.."
here=$PWD
version=${1:-}
rehearse=${REHEARSE:-}
modules="test cmd/bootlock bench examples" # after the root, in the order of their requirements
repository=github.com/bootlock/bootlock

say() { printf 'release: %s\n' "$*" >&2; }
die() {
	say "$*"
	exit 1
}

[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$ ]] || die "usage: make release VERSION=v1.2.3 [REHEARSE=1]"
[ -z "$(git status --porcelain)" ] || die "the tree is not clean"
[ -z "$(git tag -l "$version")" ] || die "$version is there already"
if [ -z "$rehearse" ]; then
	[ "$(git branch --show-current)" = main ] || die "not on main"
	git fetch --quiet origin main
	[ "$(git rev-parse HEAD)" = "$(git rev-parse FETCH_HEAD)" ] || die "not what is on the server"
fi
grep -q "^## ${version#v} " CHANGELOG.md || [ -n "$rehearse" ] || die "CHANGELOG.md has no section \"## ${version#v} (date)\""

scratch=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-release.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
git clone --quiet "$here" "$scratch/repository"
cd "$scratch/repository"
git config user.name "$(git -C "$here" config user.name || echo release)"
git config user.email "$(git -C "$here" config user.email || echo release@localhost)"

# Of the modules that require each other, and of the workspace that puts them together.
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
	say "a rehearsal: nothing was pushed; the binaries are in dist/"
	exit 0
fi
origin=$(git -C "$here" remote get-url --push origin)
# shellcheck disable=SC2086 # one argument for each tag
git push --atomic "$origin" HEAD:main $tags
git -C "$here" pull --quiet --ff-only --tags origin main
say "$version is out"
