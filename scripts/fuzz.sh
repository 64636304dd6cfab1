#!/usr/bin/env bash
# Runs go test -fuzz for each fuzz target, for FUZZTIME (10 s). An input that fails
# stays in the package's testdata/fuzz and becomes an ordinary test.
set -euo pipefail

cd "$(dirname "$0")/.."
grep -rEo --include=*_test.go '^func Fuzz[A-Za-z0-9_]+' . | sort | while IFS=: read -r file name; do
	dir=${file%/*} target=${name#func }
	printf '=== %s in %s\n' "$target" "$dir"
	"${GO:-go}" test -C "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" -parallel 2 . </dev/null
done
