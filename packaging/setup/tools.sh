# shellcheck shell=bash disable=SC2154 # for setup.sh, which sources this
# What tests and measurements use and no package holds: from PyPI and npm, each in a directory of its own.

chromium_target="$programs/chromium"
agents_dir="$here/../tests/agents"
# A VNC client for scripts; Debian has none. In Python, of Debian's own packages.
vncdotool="vncdotool==1.2.0"
vncdotool_hash="sha256:53408d18ca7f9f21c525fc88189b01ca6594153ec1a9be09f6198306d166ea0d"
vncdotool_target="$data/test/vncdotool-1.2.0"
peers_list="$here/bench-peers.txt"
peers_target="$data/bench/peers"
ansible_list="$here/../ansible/requirements.txt"
ansible_target="$data/test/ansible"

# --- from PyPI

# Notes that pip is needed.
note_pip() {
  if ! { has python3 && python3 -m pip --version >/dev/null 2>&1; }; then missing+=(python3-pip); fi
}

look_for_vncdotool() {
  if [ -f "$vncdotool_target/vncdotool/command.py" ]; then return; fi
  note_pip
  note_part vncdotool "VNC client for the tests to bring from PyPI: $vncdotool"
}
bring_vncdotool() {
  echo "$vncdotool --hash=$vncdotool_hash" >"$work/requirements.txt"
  python3 -m pip download -q --no-deps --no-binary=:all: --require-hashes -r "$work/requirements.txt" -d "$work" ||
    fail "$vncdotool cannot be had from PyPI."
  mkdir -p "$vncdotool_target"
  tar -xzf "$work"/vncdotool-*.tar.gz -C "$vncdotool_target" --strip-components=1
}

# Brings what list $1 names into directory $2, of its own. Not there until it is whole: its list comes last. Named by what is
# in it: another list is another environment.
from_pypi() {
  rm -rf "$2"
  python3 -m venv "$2" && "$2/bin/pip" install -q --only-binary=:all: -r "$1" || fail "what is in $1 cannot be had from PyPI."
  cp "$1" "$2/list"
}
look_for_peers() {
  cmp -s "$peers_list" "$peers_target/list" ||
    note_part peers "peers of provisioning to bring from PyPI (Ansible, mitogen, pyinfra): $peers_target"
}
bring_peers() { from_pypi "$peers_list" "$peers_target"; }
look_for_ansible() {
  cmp -s "$ansible_list" "$ansible_target/list" || note_part ansible "Ansible for the tests to bring from PyPI: $ansible_target"
}
bring_ansible() { from_pypi "$ansible_list" "$ansible_target"; }

# --- from npm

# A browser, as the tests find it.
browser() {
  if [ -n "${HELIX_CHROMIUM:-}" ]; then [ -x "$HELIX_CHROMIUM" ]
  else has chromium || has google-chrome || [ -x "$chromium_target" ]
  fi
}
look_for_chromium() {
  if browser; then return; fi
  if [ -n "${HELIX_CHROMIUM:-}" ]; then
    fail "HELIX_CHROMIUM=$HELIX_CHROMIUM is no program." "Name another one, or unset HELIX_CHROMIUM to have one brought."
  elif [ "$(distribution)" = debian ]; then missing+=(chromium)
  else
    # Ubuntu's package of this name only leads to a snap, whose browser sees no profile in a temporary directory.
    note_missing "$chromium_packages"
    note_part chromium "Chromium for the tests to bring from npm: $chromium_target"
  fi
}
bring_chromium() {
  [ "$(uname -m)" = x86_64 ] || fail "there is no Chromium for the browser tests, and npm's is for x86_64 only." \
    "Set HELIX_CHROMIUM=/path/to/any/chromium, and run this script again."
  local browser_dir="$here/../tests/browser"
  npm ci --prefix "$browser_dir" --no-audit --no-fund
  mkdir -p "$programs"
  node "$browser_dir/unpack.mjs" "$chromium_target"
  "$chromium_target" --version >/dev/null || fail "$chromium_target does not run here." \
    "Set HELIX_CHROMIUM=/path/to/any/chromium, and run this script again."
}

# An agent: the version that is asked for, and not what a former lock file asked for.
agent_is_there() {
  local wanted
  wanted=$(sed -n 's/.*"opencode-ai": "\(.*\)".*/\1/p' "$agents_dir/package.json")
  grep -q "\"version\": \"$wanted\"" "$agents_dir/node_modules/opencode-ai/package.json" 2>/dev/null &&
    [ -x "$agents_dir/node_modules/.bin/opencode" ]
}
look_for_agent() { agent_is_there || note_part agent "ACP agent for the tests to bring from npm: opencode-ai"; }
bring_agent() {
  # Not `npm ci`: npm leaves this package's programs for each processor out of the lock file, and then refuses the file. Its
  # version is exact in package.json.
  npm install --prefix "$agents_dir" --no-package-lock --no-audit --no-fund
  agent_is_there || fail "npm did not bring opencode-ai to $agents_dir; see what it says above."
}
