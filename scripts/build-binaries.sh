#!/usr/bin/env bash
# build-binaries.sh VERSION FOLDER: build the command for six systems, with checksums,
# an SBOM for each binary, and the release notes from CHANGELOG.md.
set -euo pipefail

version=$1
mkdir -p "$2"
dist=$(cd "$2" && pwd)
cd "$(dirname "$0")/.."
sbom=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

tools=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-tools.XXXXXX")
trap 'rm -rf "$tools"' EXIT
GOWORK=off GOFLAGS='' GOBIN=$tools go install "$sbom"

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) go run -C cmd/bootlock -tags man -ldflags "-X main.version=$version" . man "$tools/man/man1"
mkdir "$tools/completion"
for shell in bash zsh fish; do
	go run -C cmd/bootlock . completion $shell >"$tools/completion/bootlock.$shell"
done

revision=$(git rev-parse --short=12 HEAD)
for system in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64; do
	os=${system%/*} name=bootlock_${version}_${system/\//_}
	binary=$dist/$name/bootlock
	[ "$os" != windows ] || binary+=.exe
	# Static and reproducible.
	GOOS=$os GOARCH=${system#*/} CGO_ENABLED=0 go build -C cmd/bootlock -trimpath -buildvcs=false \
		-ldflags "-s -w -buildid= -X 'main.version=$version $revision'" -o "$binary" .
	"$tools/cyclonedx-gomod" bin -json -std -noserial -version "$version" -output "$dist/$name.cdx.json" "$binary" 2>/dev/null
	cp LICENSE "$dist/$name/"
	[ "$os" = windows ] || cp -R "$tools/man" "$tools/completion" "$dist/$name/"
	# So is the archive: without times and owners.
	tar -C "$dist" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -c "$name" | gzip -n9 >"$dist/$name.tar.gz"
done
(cd "$dist" && sha256sum ./*.tar.gz ./*.cdx.json | sed 's|\./||' >SHA256SUMS)

# The section of this version, without its heading.
awk -v want="## ${version#v} " '
	/^## / { inside = index($0 " ", want) == 1; next }
	inside
' CHANGELOG.md >"$dist/notes.md"
[ -s "$dist/notes.md" ] || {
	echo "build-binaries: CHANGELOG.md has no section for $version" >&2
	exit 1
}
