#!/usr/bin/env bash
# publish.sh VERSION FOLDER: make a Git repository in FOLDER that has the modules of the
# working tree in VERSION, so that a user's view of them can be tested before they are
# published. A replace directive would leave no trace in go.sum.
set -euo pipefail

cd "$(dirname "$0")/.."
version=$1 folder=$2
mkdir -p "$folder"
# Only files that are committed or would be.
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --ignore-failed-read -c 2>/dev/null | tar -x -C "$folder"
cd "$folder"
git init --quiet
git add --all
git ls-files -z go.mod '*/go.mod' | xargs -0 sed -i -E "s#^(\t|require )(github.com/bootlock/bootlock(/[a-z/]+)?) v[^ ]+#\1\2 $version#"
git -c user.name=publish -c user.email=publish@localhost commit --quiet --all --message "$version"
git ls-files go.mod '*/go.mod' | sed "s|go.mod\$|$version|" | xargs -n 1 git tag
