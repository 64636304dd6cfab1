#!/usr/bin/env bash
# Measures fleets that are larger than what the server or the pooler has
# connections, next to the version before there was a waiting room, and prints a
# table. It takes a quarter of an hour, on a machine with nothing else to do.
#
#   scripts/room.sh [-short] [-only 'direct, 32, Serialize']
set -euo pipefail

cd "$(dirname "$0")/.."
before=894331e # the last commit without a waiting room

scratch=$(mktemp -d "${TMPDIR:-/tmp}/bootlock-room.XXXXXX")
trap 'git worktree remove --force "$scratch/before" 2>/dev/null || true; rm -rf "$scratch"' EXIT

git worktree add --quiet --detach "$scratch/before" "$before"
mkdir "$scratch/before/cmd/room"
cp bench/room/fleet.go bench/room/main.go "$scratch/before/cmd/room/"
# The old build starts fleets, and measures nothing by itself.
cat >"$scratch/before/cmd/room/measure.go" <<'GO'
package main

import (
	"context"
	"time"
)

func measure(context.Context, string, bool, string) error { return nil }

func measureWaiting(context.Context, time.Duration) error { return nil }
GO
(cd "$scratch/before" && GOWORK=off go build -o "$scratch/old" ./cmd/room)
(cd bench && go build -o "$scratch/new" ./room)
"$scratch/new" -old "$scratch/old" "$@"
