#!/usr/bin/env bash
# Installs Helix on a machine with systemd: programs, units, users, directories, examples. Starts nothing; prints what
# to type next. Run again, it brings everything up to date; running sessions are not touched.
#
#   packaging/install.sh [install] [OPTION...]     (make install)
#   packaging/install.sh uninstall [OPTION...]     (make uninstall)
#
#   --bin-dir DIR   the built programs                       (without: $CARGO_TARGET_DIR/release or target/release)
#   --prefix DIR    where they go                            (without: /usr)
#   --destdir DIR   a root tree to install into, for packages and images; then nothing is run in it
#   --only WHO      what runner, server or machine (anybody) needs, by packaging/files.txt; a package is made of each
#   --slots N       slot users, one for each session at once (without: as installed before, else 32)
#   --purge         uninstall: settings, secrets, state, kept workspaces and users, too
set -euo pipefail
source_dir=$(cd "$(dirname "$0")/.." && pwd)

say() { printf 'install: %s\n' "$@"; }
fail() { printf 'install: %s\n' "$@" >&2; exit 1; }
wrong() { printf 'install: %s; see packaging/install.sh --help\n' "$1" >&2; exit 2; }

# What `helixctl doctor` looks at to tell whether Zed would be seen.
probe=helix-gpui-probe
action=install prefix=/usr destdir="" only="" slots="" purge=no manual=""
bin_dir=${CARGO_TARGET_DIR:-$source_dir/target}/release
while [ $# -gt 0 ]; do
  case $1 in
    install | uninstall) action=$1 ;;
    --purge) purge=yes ;;
    --bin-dir | --prefix | --destdir | --only | --slots)
      [ $# -ge 2 ] || wrong "$1 needs a value"
      case $1 in
        --bin-dir) bin_dir=$2 ;;
        --prefix) prefix=${2%/} ;;
        --destdir) destdir=${2%/} ;;
        --only) only=$2 ;;
        --slots) slots=$2 ;;
      esac
      shift ;;
    -h | --help) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"; exit 0 ;;
    *) wrong "unknown argument $1" ;;
  esac
  shift
done
case $prefix in /*) ;; *) wrong "--prefix $prefix is not an absolute path" ;; esac
# The prefix gets into units; no character there may mean something to sed or to systemd.
case $prefix in *[!A-Za-z0-9/._-]*) wrong "--prefix $prefix has characters other than letters, digits, / . _ -" ;; esac

case $only in '' | runner | server | machine) ;; *) wrong "--only $only is none of runner, server, machine" ;; esac

slots_file=$destdir$prefix/lib/sysusers.d/helix-slots.conf
if [ -z "$slots" ]; then slots=$(grep -c '^u helix-u' "$slots_file" 2>/dev/null || true); fi
if [ "${slots:-0}" = 0 ]; then slots=32; fi
# More than that do not fit into the range of system users; docs/systemd.md says how to have them anyway.
case $slots in *[!0-9]*) wrong "--slots $slots is no number" ;; esac
[ "$slots" -ge 1 ] && [ "$slots" -le 500 ] || wrong "--slots must be from 1 to 500"

here() { [ -z "$destdir" ]; }
booted() { here && [ -d /run/systemd/system ]; }
if here && [ "$(id -u)" != 0 ]; then fail "this needs root: sudo packaging/install.sh $action"; fi

wants() { [ -z "$only" ] || [ "$only" = "$1" ]; }
# True for a file that is the operator's once it is there.
settings() { case ${1#"$destdir"} in /etc/*) return 0 ;; *) return 1 ;; esac; }

# Each line: mode, source, target.
files() {
  local mode source target who from to file
  while read -r mode source target who; do
    case $mode in '#'* | '') continue ;; esac
    wants "$who" || continue
    case $source in
      manual/*) from=$manual/${source##*/} ;;
      */*) from=$source_dir/$source ;;
      *) from=$bin_dir/$source ;;
    esac
    case $target in /*) to=$destdir$target ;; *) to=$destdir$prefix/$target ;; esac
    # Many files by one line: those that there are, here or where they were put.
    case $source,$action in
      *\**,install) for file in $from; do echo "$mode $file $to${file##*/}"; done ;;
      *\**,uninstall) for file in "$to"${source##*/}; do echo "$mode $file $file"; done ;;
      *) echo "$mode $from $to" ;;
    esac
  done <"$source_dir/packaging/files.txt"
  # Not built where nothing but cargo ran; what was installed goes again all the same.
  if wants machine && { [ "$action" = uninstall ] || [ -f "$bin_dir/$probe" ]; }; then
    echo "755 $bin_dir/$probe $destdir$prefix/bin/$probe"
  fi
}

# Asks the programs for their manual, and for what shells complete.
write_manual() {
  local program who shell
  manual=$(mktemp -d)
  trap 'rm -rf "$manual"' EXIT
  while read -r program who; do
    wants "$who" || continue
    [ -x "$bin_dir/$program" ] || fail "$bin_dir/$program is missing; build first: make build (or name --bin-dir)"
    "$bin_dir/$program" manual "$manual"
  done <<<$'agentd runner\nhelix-server server\nhelixctl machine'
  gzip -9n "$manual"/*.1
  if wants machine; then
    for shell in bash zsh fish; do "$bin_dir/helixctl" completions "$shell" >"$manual/helixctl.$shell"; done
  fi
}

# A running program keeps its file: the new one takes its name in one step.
put() {
  local mode=$1 from=$2 to=$3
  install -D -m "$mode" "$from" "$to.new"
  case $to in *.service | *.slice) sed -i "s#/usr/bin/#$prefix/bin/#g; s#/usr/share/#$prefix/share/#g" "$to.new" ;; esac
  mv -f "$to.new" "$to"
}

do_install() {
  local mode from to number
  write_manual
  while read -r mode from to; do
    [ -f "$from" ] || fail "$from is missing; build first: make build (or name --bin-dir)"
  done < <(files)
  while read -r mode from to; do
    if ! settings "$to" || [ ! -e "$to" ]; then put "$mode" "$from" "$to"; fi
  done < <(files)
  if wants runner; then
    {
      echo "# Slot users: each session runs as one of them. Written by packaging/install.sh --slots $slots."
      for number in $(seq "$slots"); do echo "u helix-u$number - \"Helix session slot $number\""; done
    } >"$slots_file.new"
    chmod 644 "$slots_file.new" && mv -f "$slots_file.new" "$slots_file"
  fi
  say "installed below $destdir$prefix"
  if ! here; then return; fi
  if [ ! -f "$bin_dir/$probe" ]; then say "$probe was not built (make probe): helixctl doctor cannot look at windows"; fi
  systemd-sysusers helix.conf helix-slots.conf helix-server.conf helix-nats.conf
  systemd-tmpfiles --create helix.conf helix-server.conf
  if booted; then systemctl daemon-reload; fi
  cat <<E2

Nothing was started. Next, on a runner (the desktops' packages: packaging/setup.sh runtime; for Zed: packaging/setup.sh mesa):
  $prefix/bin/helixctl doctor                                                         # what is missing, and how to get it
  install -m 600 $prefix/share/doc/helix/agentd.toml.example /etc/helix/agentd.toml   # and edit it
  install -m 600 /dev/stdin /etc/helix/agentd.token                                   # the server's enrolment token
  $prefix/bin/agentd run --config /etc/helix/agentd.toml --check-config
  systemctl enable --now agentd
On a server:
  edit /etc/helix/server.toml                                                         # its header makes the secrets
  systemctl enable --now helix-server
After an update, without touching a session:
  systemctl reload agentd && systemctl restart helix-server
All of it: $prefix/share/doc/helix/systemd.md
E2
}

do_uninstall() {
  local mode from to running user
  if booted; then
    running=$(systemctl list-units --plain --no-legend --state=active,activating,reloading,deactivating \
      'agentd.service' 'agentd@*.service' 'helix-server.service' 'helix-nats.service' 'helix-s*.slice' | awk '{ print $1 }' | xargs)
    [ -z "$running" ] || fail "these are running: $running" \
      "Stop the sessions first (helixctl session stop), then: systemctl disable --now agentd 'agentd@*' helix-server helix-nats"
    # Waits for a moment that does not come any more. The slices are empty by now, but there until somebody stops them.
    systemctl stop 'agentd-hold@*.service' agentd.slice helix.slice 2>/dev/null || true
    # What enabling made.
    find /etc/systemd/system -type l \( -name 'agentd.service' -o -name 'agentd@*.service' -o -name helix-server.service \
      -o -name helix-nats.service \) -delete
  fi
  while read -r mode from to; do
    # Settings that nobody changed are not the operator's.
    if ! settings "$to" || cmp -s "$from" "$to"; then rm -f "$to" "$to.new"; fi
  done < <(files)
  rm -f "$slots_file" "$slots_file.new"
  # Directories that nothing else is in, but for those that every system has.
  files | awk '{ print $3 }' | while read -r to; do
    while :; do
      to=${to%/*}
      case $to in */bin | */lib | */share | */share/doc | */share/man | */etc) break ;; esac
      rmdir "$to" 2>/dev/null || break
    done
  done
  if booted; then systemctl daemon-reload; systemctl reset-failed 2>/dev/null || true; fi
  if here && [ "$purge" = yes ]; then
    rm -rf /var/lib/helix /run/helix /etc/helix
    # userdel takes the group of the same name along.
    for user in $(getent passwd | sed -nE 's/^(helix-(u[0-9]+|keep|recorder|server|nats)):.*/\1/p'); do userdel "$user"; done
    say "uninstalled; settings, state and users are gone, too"
  elif here; then
    rmdir --ignore-fail-on-non-empty /run/helix /var/lib/helix /etc/helix 2>/dev/null || true
    say "uninstalled; kept: /etc/helix, /var/lib/helix and the users (--purge removes them, too)"
  else
    say "uninstalled from $destdir"
  fi
}

"do_$action"
