#!/bin/sh
# Compares the contracts with those of the last release, or of the commit before where there is none.
set -eu
base=$(git describe --tags --abbrev=0 2>/dev/null || git rev-parse -q --verify HEAD~1 2>/dev/null || true)
if [ -z "$base" ] || [ -z "$(git ls-tree -r --name-only "$base" -- proto 2>/dev/null)" ]; then
  echo "no earlier contracts to compare with"
  exit 0
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
git archive "$base" proto buf.yaml | tar -x -C "$tmp"
.venv/bin/buf breaking --against "$tmp"
