#!/usr/bin/env bash
# check-deps.sh: check what the library adds to its users' modules.
#
# Several kinds of programs get the module from a local Git repository, as they would get
# a published version. None of their modules may change its version, go get may print
# one line "added", and go.sum may grow by two lines.
set -euo pipefail

cd "$(dirname "$0")/.."
module=github.com/bootlock/bootlock
version=v0.0.1
failed=0

say() { printf 'check-deps: %s\n' "$*" >&2; }
fail() {
	say "FAILED: $*"
	failed=1
}

# Tests count as well: what they import ends up in the user's go.sum.
others=$(go list -deps -test -f '{{if and .Module (ne .Module.Path "'"$module"'")}}{{.ImportPath}}{{end}}' \
	./advisorylock/... ./schemaguard ./internal/... | sort -u)
if [ -n "$others" ]; then
	fail "advisorylock and schemaguard, or their tests, need more than the standard library and this module:"
	printf '%s\n' "$others"
else
	say "advisorylock and schemaguard: the standard library and this module only"
fi

if diff=$(scripts/tidy.sh -diff 2>&1 | { grep -v "^go: downloading" || true; }); then
	say "go mod tidy changes nothing in any module"
else
	fail "go mod tidy would change go.mod or go.sum:"
	head -n 60 <<<"$diff"
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-deps.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
scripts/publish.sh "$version" "$scratch/repository"

# The versions of the repository must not get into the module cache of this machine,
# which serves the rest as far as it has it.
GOPROXY="file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)"
export GOPROXY GOPRIVATE="$module" GOMODCACHE="$scratch/modcache" GOWORK=off GOFLAGS=-modcacherw
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$scratch/repository.insteadOf" GIT_CONFIG_VALUE_0="https://$module"

# user NAME GO MODULE@VERSION…: a program of that Go version with these modules gets
# the library, then imports it and its test kit.
user() {
	local name=$1 go=$2 moved joined said lines ours
	local -a has=("${@:3}")
	mkdir "$scratch/$name"
	cd "$scratch/$name"
	{
		printf 'module example.com/%s\n\ngo %s\n' "$name" "$go"
		[ ${#has[@]} = 0 ] || printf 'require %s\n' "${has[@]/@/ }"
	} >go.mod
	{
		printf 'package main\n\n'
		[ ${#has[@]} = 0 ] || printf 'import _ "%s"\n' "${has[@]%@*}"
		printf '\nfunc main() {}\n'
	} | sed 's|client_golang"|client_golang/prometheus"|' >main.go
	# Programs with sqlmock also use the test kit.
	if [[ " ${has[*]} " == *sqlmock* ]]; then
		sed -i '/sqlmock/d' main.go
		cat >main_test.go <<TEST
package main

import (
	"context"
	"testing"

	"github.com/DATA-DOG/go-sqlmock"

	"$module/schemaguard"
	"$module/schemaguard/schemaguardtest"
)

func TestStart(t *testing.T) {
	db, mock, err := sqlmock.New()
	if err != nil {
		t.Fatal(err)
	}
	schemaguardtest.ExpectEnsure(mock, "app")
	if err := schemaguard.Ensure(context.Background(), db, "app", nil); err != nil {
		t.Error(err)
	}
	if err := mock.ExpectationsWereMet(); err != nil {
		t.Error(err)
	}
}
TEST
		mv main_test.go ../later_test.go
		printf 'package main\n\nimport _ "github.com/DATA-DOG/go-sqlmock"\n' >main_test.go
	fi
	go mod tidy
	go list -m all >before
	cp go.sum go.sum.before 2>/dev/null || : >go.sum.before
	sed '/^require.*bootlock/d' go.mod >go.mod.before

	go get "$module@$version" 2>said
	said=$(grep -v '^go: downloading' said || true)

	printf 'package main\n\nimport (\n\t_ "%s/advisorylock"\n\t_ "%s/schemaguard"\n)\n' "$module" "$module" >more.go
	[ ! -f ../later_test.go ] || mv ../later_test.go main_test.go
	go mod tidy
	go build -o /dev/null .
	go test ./...
	go list -m all | grep -v "^$module " >after
	moved=$(awk 'NR == FNR { had[$1] = $2; next } $1 in had && had[$1] != $2' before after | wc -l)
	joined=$(awk 'NR == FNR { had[$1] = $2; next } !($1 in had)' before after | wc -l)
	[ "$(sed -n 's/^go //p' go.mod)" = "$go" ] || moved="$moved, and go $(sed -n 's/^go //p' go.mod)"
	lines=$(sort go.sum | comm -13 <(sort go.sum.before) - | grep -c . || true)
	ours=$(sort go.sum | comm -13 <(sort go.sum.before) - | grep -c "^$module " || true)
	printf 'moved=%q joined=%q said=%q lines=%q ours=%q\n' "$moved" "$joined" "$said" "$lines" "$ours" >verdict
}

# examine NAME GO MODULE@VERSION…: run user and judge its verdict.
examine() {
	local name=$1 moved joined said lines ours
	if ! (user "$@") >"$scratch/log" 2>&1; then
		fail "$name: a program that uses the library does not build:"
		cat "$scratch/log"
		return
	fi
	# shellcheck disable=SC1090 # written by user
	source "$scratch/$name/verdict"
	if [ "$moved" != 0 ]; then
		fail "$name: modules of the program moved: $moved"
		diff "$scratch/$name/before" "$scratch/$name/after" || true
	elif [ "$joined" -gt 1 ]; then
		fail "$name: $joined modules joined; want go-sqlmock at most"
	elif [ "$said" != "go: added $module $version" ]; then
		fail "$name: go get says more than one line \"added\": $said"
	elif [ "$lines/$ours" != 2/2 ]; then
		fail "$name: $lines new lines in go.sum, $ours of this module; want 2"
	else
		say "$name: nothing moved, \"$said\", two new lines in go.sum"
	fi
}

examine empty 1.23
examine old 1.23 github.com/lib/pq@v1.2.0 github.com/DATA-DOG/go-sqlmock@v1.5.0
examine legacy 1.23 github.com/lib/pq@v1.10.9 github.com/DATA-DOG/go-sqlmock@v1.5.0
examine large 1.23 github.com/jackc/pgx/v5@v5.5.0 github.com/spf13/cobra@v1.8.0 \
	github.com/prometheus/client_golang@v1.17.0 github.com/sirupsen/logrus@v1.9.3

# The command, as its users install it.
if GOBIN="$scratch/bin" go install "$module/cmd/bootlock@$version" 2>"$scratch/log" && "$scratch/bin/bootlock" key app >/dev/null; then
	modules=$(go version -m "$scratch/bin/bootlock" | grep -c '^	dep')
	size=$(($(wc -c <"$scratch/bin/bootlock") / 1000))
	say "go install $module/cmd/bootlock@$version: $modules modules, $size kB"
else
	fail "go install $module/cmd/bootlock@$version does not work:"
	cat "$scratch/log"
fi

exit "$failed"
