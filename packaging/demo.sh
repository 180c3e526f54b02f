#!/usr/bin/env bash
# From a clone to a live desktop: sets up, builds, starts everything on this machine, lets a session do real work on
# this very repository, proves that its commit is there, and prints a link. Returns with everything running.
#
#   packaging/demo.sh            (or: make demo)          ends with: make down
#
# A Helix that is up in the state directory is used as it is. HELIX_STATE_DIR takes another directory, HELIX_LISTEN
# another address.
set -euo pipefail
cd "$(dirname "$0")/.."

state_dir="${HELIX_STATE_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/helix}"
bin="${CARGO_TARGET_DIR:-target}/release"
say() { printf '\n== %s\n' "$*"; }
helixctl() { "$bin/helixctl" --state-dir "$state_dir" "$@"; }

say "set-up"
packaging/setup.sh runtime build
say "build"
make --no-print-directory programs

if helixctl status >/dev/null 2>&1; then
  say "Helix is up in $state_dir already: using it"
else
  say "starting bus, server and runner in $state_dir"
  helixctl up --detach ${HELIX_LISTEN:+--listen "$HELIX_LISTEN"}
fi

# What the agent does, visible in a terminal on its desktop: it edits a file, runs a check and commits. It leaves no
# trace in this checkout: a session works in a clone.
task=$(cat <<'TASK'
set -eu
printf '\nWritten by a session, %s.\n' "$(date -u +%Y-%m-%dT%H:%MZ)" >> README.md
echo "--- the check"
git add README.md
git diff --cached --check && for script in packaging/*.sh; do bash -n "$script" || exit 1; done && echo ok
echo "--- the commit"
git commit -q -m 'demo: a line from a session'
git --no-pager log --stat -1
TASK
)

say "a session works on $PWD"
id="demo-$(date -u +%Y%m%d-%H%M%S)"
helixctl session create --id "$id" --kind command --project "$PWD" --wait=result --timeout 120 --input - <<<"$task"

say "the commit in its workspace"
workspace=$(helixctl session show "$id" --json | sed -n 's/.*"workspace":"\([^"]*\)".*/\1/p')
git -C "$workspace" log --stat -1
git -C "$workspace" log -1 --format=%s | grep -qx 'demo: a line from a session'

say "its desktop, live in a browser"
helixctl session open --print "$id"
printf '\nEverything runs on. Look around: %s/helixctl status    End it: make down\n' "$bin"
