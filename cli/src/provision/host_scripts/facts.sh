# Prints what the host is, as key=value lines; changes nothing. Given: $proofs (lines "proof package", packaging/packages.sh),
# $targets (lines: path of a managed file), $state (directory of provisioning), $reach (lines: NAME URL).
# Nearly all that looking at a host costs it is the programs that are started here: what the shell can read itself, it reads.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { printf '%s=%s\n' "$1" "$2"; }
has() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 ;; esac; }

set -- $(uname -snm)
say kernel "$1"
say hostname "$2"
say arch "$3"
say bits "$(getconf LONG_BIT 2>/dev/null)"
say login "${SUDO_USER:-$(id -un)}"
if [ -r /etc/os-release ]; then
  (
    . /etc/os-release
    say distribution "$ID"
    say distribution_name "${PRETTY_NAME:-$ID}"
  )
fi
set -- $(systemctl --version 2>/dev/null)
case ${1:-} in systemd) say systemd "${2%%[!0-9]*}" ;; *) say systemd "" ;; esac
if [ -d /run/systemd/system ]; then say booted yes; fi
set -- $(getconf GNU_LIBC_VERSION 2>/dev/null)
case ${1:-} in glibc) say glibc "$2" ;; *) say glibc "" ;; esac
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  say cgroup 2
  read -r controllers </sys/fs/cgroup/cgroup.controllers
else
  say cgroup 1
  controllers=
  if [ -r /proc/cgroups ]; then
    while read -r name hierarchy groups enabled; do
      if [ "$enabled" = 1 ]; then controllers="$controllers$name "; fi
    done </proc/cgroups
  fi
fi
say controllers "$controllers"
if [ -r /proc/meminfo ]; then
  while read -r name kib unit; do
    case $name in MemTotal:) say memory_kib "$kib" && break ;; esac
  done </proc/meminfo
fi
say processors "$(getconf _NPROCESSORS_ONLN 2>/dev/null)"
# The least that is free of what df tells; file systems that count nothing are passed over.
least() {
  least=
  while read -r device all used free rest; do
    case $all$free in *[!0-9]* | "" | 0*) continue ;; esac
    if [ -z "$least" ] || [ "$free" -lt "$least" ]; then least=$free; fi
  done <<TOLD
$1
TOLD
  echo "$least"
}
say disk_kib "$(least "$(df -Pk /usr /var/lib 2>/dev/null)")"
say inodes "$(least "$(df -Pi /usr /var/lib 2>/dev/null)")"
for dir in /usr /etc /var/lib; do
  if [ ! -w "$dir" ]; then say read_only "$dir"; fi
done
if has apt-get; then say packager apt; fi
say clock "$(date +%s)"
for program in ssh-keygen sha256sum flock systemd-run systemd-sysusers systemd-tmpfiles; do
  if ! has "$program"; then say lacks "$program"; fi
done
# Unpacked is not installed: what was cut off there is to be gone on with.
unfinished=" "
if grep -qsE '^Status: .* (half-installed|unpacked|half-configured)$' /var/lib/dpkg/status /var/lib/dpkg/updates/*; then
  unfinished=" $(dpkg-query -W -f '${binary:Package} ${Status}\n' 2>/dev/null | awk '/ (half-installed|unpacked|half-configured)$/ { sub(":.*", "", $1); printf "%s ", $1 }')"
fi
while read -r proof package; do
  if [ -z "$package" ]; then continue; fi
  case $unfinished in *" $package "*) say missing_package "$package" && continue ;; esac
  if ! has "$proof"; then say missing_package "$package"; fi
done <<PROOFS
$proofs
PROOFS
set --
while read -r path; do
  if [ -f "$path" ]; then set -- "$@" "$path"; fi
done <<TARGETS
$targets
TARGETS
if [ $# -gt 0 ]; then
  # Both tell of the same files in the same order.
  while read -r sum path <&3 && read -r mode same <&4; do
    if [ "$path" = "$same" ]; then say file "$sum $mode $path"; fi
  done 3<<SUMS 4<<MODES
$(sha256sum "$@")
SUMS
$(stat -c '%a %n' "$@")
MODES
fi
if [ -r /etc/helix/allowed_signers ]; then
  say signer "$(awk '$1 == "helix-provision" { print $(NF - 1), $NF; exit }' /etc/helix/allowed_signers)"
fi
# UnitFileState=, ActiveState= ... as they are.
shown=$(systemctl show agentd.service -p LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,MainPID,StatusText 2>/dev/null)
if [ -n "$shown" ]; then printf '%s\n' "$shown"; fi
systemctl list-units --all --plain --no-legend 'agentd@*.service' 2>/dev/null | while read -r unit load active sub rest; do
  say other_agent "$unit $active"
done
if [ -r /var/lib/helix/agentd/enrolled.json ]; then
  say enrolled "$(sed -n 's/.*"id": *"\([A-Za-z0-9_-]*\)".*/\1/p' /var/lib/helix/agentd/enrolled.json)"
fi
for run in "$state"/runs/*; do
  if [ -e "$run/state" ] && [ ! -e "$run/confirmed" ] && [ ! -e "$run/reverted" ]; then say pending "${run##*/}"; fi
done
if [ -e "$state/proved" ]; then say proved yes; fi
for node in /sys/class/drm/renderD*; do
  if [ -e "$node/device/driver" ]; then say gpu "$(basename "$(readlink -f "$node/device/driver")")"; fi
done
# Toolchains of this machine, each with the version that it tells.
tool() {
  name=$1
  shift
  if ! has "$1"; then return; fi
  told=$(timeout 5 "$@" 2>&1 </dev/null)
  told=${told#"${told%%[0-9]*}"}
  say toolchain "$name ${told%%[!0-9.]*}"
}
tool gcc gcc -dumpfullversion
tool clang clang -dumpversion
tool rust rustc --version
tool go go version
tool node node --version
tool python python3 --version
tool ruby ruby --version
# A Java machine takes long to tell; its directory has it, too.
if has java; then
  release=$(readlink -f "$(command -v java)")
  say toolchain "java $(sed -n 's/^JAVA_VERSION="\([0-9.]*\).*/\1/p' "${release%/bin/java}/release" 2>/dev/null)"
fi
# Who listens on the port of /health, at whatever address. 0A is LISTEN.
health=$(sed -n 's/^health_port *= *\([0-9]*\).*/\1/p' /etc/helix/agentd.toml 2>/dev/null)
health=${health:-3030}
inode=$(awk -v port="$(printf ':%04X' "$health")" '$4 == "0A" && substr($2, length($2) - 4) == port { print $10; exit }' /proc/net/tcp /proc/net/tcp6 2>/dev/null)
if [ -n "$inode" ]; then
  # Most often it is agentd's own; looking at everybody's files takes long.
  main=${shown##*MainPID=}
  main=${main%%[!0-9]*}
  pid=$(find "/proc/${main:-0}/fd" -lname "socket:\[$inode\]" 2>/dev/null | cut -d / -f 3)
  if [ -z "$pid" ]; then pid=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" 2>/dev/null | head -n 1 | cut -d / -f 3); fi
  unit=$(sed -n 's#.*/\([^/]*\.service\).*#\1#p' "/proc/$pid/cgroup" 2>/dev/null | head -n 1)
  say port "$health ${pid:-0} ${unit:--} $(cat "/proc/$pid/comm" 2>/dev/null)"
fi
# Where a URL leads: "HOST PORT", without the brackets of IPv6.
endpoint() {
  rest=${1#*://}
  rest=${rest%%/*}
  rest=${rest##*@}
  case $1 in https:*) port=443 ;; nats:* | tls:*) port=4222 ;; *) port=80 ;; esac
  case $rest in
    *]:*) port=${rest##*]:} rest=${rest%]:*}] ;;
    *]) ;;
    *:*) port=${rest##*:} rest=${rest%:*} ;;
  esac
  rest=${rest#\[}
  echo "${rest%\]} $port"
}
# Names are looked up first, so that "no such name" and "no answer" are not the same. A shell that opens sockets is on most
# machines; where it is not, agentd's own first words tell.
reachable() {
  name=$1 url=$2
  set -- $(endpoint "$url")
  # Addresses need no looking up.
  if case $1 in *[!0-9.:]*) ! timeout 8 getent ahosts "$1" >/dev/null 2>&1 ;; *) false ;; esac; then
    say unreachable "$name $1:$2 dns"
    return 1
  elif ! why=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$1" "$2" 2>&1); then
    say unreachable "$name $1:$2 tcp $(printf '%s' "${why:-no answer within 5 s}" | tail -n 1 | sed 's/.*: //')"
    return 1
  fi
}
if has bash && has timeout && has getent; then
  printf '%s\n' "$reach" | while read -r name url; do
    if [ -n "$url" ]; then reachable "$name" "$url"; fi
  done
fi
say end 1
