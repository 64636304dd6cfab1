#!/usr/bin/env bash
# Lets go test -fuzz search for FUZZTIME, 10 s each, with every fuzz target there is.
# An input that fails stays in the package's testdata/fuzz, and is an ordinary test
# from then on.
set -euo pipefail

cd "$(dirname "$0")/.."
grep -rEo --include=*_test.go '^func Fuzz[A-Za-z0-9_]+' . | sort | while IFS=: read -r file name; do
	dir=${file%/*} target=${name#func }
	printf '=== %s in %s\n' "$target" "$dir"
	"${GO:-go}" test -C "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" -parallel 2 . </dev/null
done
