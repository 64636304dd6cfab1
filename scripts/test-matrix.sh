#!/bin/sh
# test-matrix.sh [MAJOR…]: the conformance suite on every PostgreSQL version, with
# every driver and mode, directly and through PgBouncer.
#
# Prints a table of what ran and what did not, and writes the same, generated,
# into docs/compatibility.md. A version that cannot be installed is "not tested",
# which is no pass. The exit status is 0 if nothing failed.
set -u
cd "$(dirname "$0")/.." || exit 1
versions="13 14 15 16 17 18"
# shellcheck disable=SC2086 # one argument each
[ $# -gt 0 ] || set -- $versions

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export BOOTLOCK_MATRIX_RESULTS="$work/results"
: >"$BOOTLOCK_MATRIX_RESULTS"

scripts/fetch-servers.sh "$@" >"$work/servers"
BOOTLOCK_MATRIX_SERVERS=$(tr '\t' '=' <"$work/servers" | tr '\n' ' ')
export BOOTLOCK_MATRIX_SERVERS
if [ -z "$BOOTLOCK_MATRIX_SERVERS" ]; then
	echo "test-matrix: no server found, nothing was tested" >&2
	exit 1
fi

# The suite mostly waits, so more targets than cores can run at once.
failed=0
for dir in test test/legacy; do
	# test/legacy replaces lib/pq, which it would for every module of a workspace.
	[ "$dir" = test ] || export GOWORK=off
	(cd "$dir" && go test -count=1 -timeout 30m -parallel 6 -run '^TestConformance$' .) || failed=1
done

# Targets end in any order.
sort -o "$BOOTLOCK_MATRIX_RESULTS" "$BOOTLOCK_MATRIX_RESULTS" -t "$(printf '\t')" -k2,2r -k3,3 -k4,4 -k1,1V

# Rows are driver and mode, columns are versions. A cell without a result was not
# tested.
awk -F '\t' -v want="$*" '
	{
		split($1, v, "."); major = v[1]; full[major] = $1
		row = $2 "|" $3 "|" $4
		if (!(row in seen)) { seen[row] = 1; rows[++n] = row }
		cell[row, major] = ($5 == "passed") ? "passed" : ($5 == "not tested" ? "not tested" : "**FAILED**")
		tested += ($5 == "passed"); failures += ($5 == "FAILED")
	}
	END {
		k = split(want, majors, " ")
		printf "| | driver | mode |"
		for (i = 1; i <= k; i++) printf " %s |", (majors[i] in full) ? full[majors[i]] : majors[i]
		printf "\n|---|---|---|"
		for (i = 1; i <= k; i++) printf "---|"
		print ""
		for (r = 1; r <= n; r++) {
			split(rows[r], p, "|")
			printf "| %s | %s | %s |", p[1], p[2], (p[3] == "" ? "–" : p[3])
			for (i = 1; i <= k; i++) {
				c = cell[rows[r], majors[i]]
				printf " %s |", (c == "" ? "not tested" : c)
				missing += (c == "" || c == "not tested")
			}
			print ""
		}
		printf "\n%d passed, %d failed, %d not tested.\n", tested, failures, missing
		exit (failures > 0 || tested == 0)
	}' "$BOOTLOCK_MATRIX_RESULTS" >"$work/table" || failed=1
cat "$work/table"

pooler=$(pgbouncer --version 2>/dev/null | head -n 1)
{
	cat <<TEXT
# Compatibility

<!-- Written by scripts/test-matrix.sh; change it there. -->

Each cell is one run of the suite in \`test/conformance\`, which tests what the
packages promise, on a real server. "PgBouncer" is ${pooler:-PgBouncer} in
transaction mode. A version that could not be installed is "not tested".

TEXT
	cat "$work/table"
	cat <<TEXT

The modes of pgx are its \`default_query_exec_mode\`. lib/pq 1.0.0 is the oldest
release; only \`Get('C')\` shows the SQLSTATE of its errors. otelsql stands for any
driver that wraps another.

\`make test-matrix\` wrote this page in $(LC_ALL=C date '+%B %Y').
TEXT
} >"$work/compatibility.md"
if [ "$failed" = 0 ] && [ "$*" = "$versions" ]; then
	cp "$work/compatibility.md" docs/compatibility.md
else
	echo "docs/compatibility.md is left as it was: it takes a run without a failure on all of $versions" >&2
fi
exit $failed
