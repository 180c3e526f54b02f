# Prints what the host is, as key=value lines; changes nothing. Given: $proofs (lines "proof package", packaging/packages.sh),
# $targets (lines: path of a managed file), $state (directory of provisioning), $reach (lines: NAME URL).
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
say() { printf '%s=%s\n' "$1" "$2"; }
has() { case $1 in /*) [ -e "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 ;; esac; }

say kernel "$(uname -s)"
say arch "$(uname -m)"
say bits "$(getconf LONG_BIT 2>/dev/null)"
say hostname "$(uname -n)"
say login "${SUDO_USER:-$(id -un)}"
if [ -r /etc/os-release ]; then
  (
    . /etc/os-release
    say distribution "$ID"
    say distribution_name "${PRETTY_NAME:-$ID}"
  )
fi
say systemd "$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
if [ -d /run/systemd/system ]; then say booted yes; fi
say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p')"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  say cgroup 2
  say controllers "$(cat /sys/fs/cgroup/cgroup.controllers)"
else
  say cgroup 1
  say controllers "$(awk 'NR > 1 && $4 == 1 { printf "%s ", $1 }' /proc/cgroups 2>/dev/null)"
fi
say memory_kib "$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null)"
say processors "$(getconf _NPROCESSORS_ONLN 2>/dev/null)"
say disk_kib "$(df -Pk /usr /var/lib 2>/dev/null | awk 'NR > 1 && ($4 < least || NR == 2) { least = $4 } END { print least }')"
say inodes "$(df -Pi /usr /var/lib 2>/dev/null | awk 'NR > 1 && $2 > 0 && ($4 < least || !seen++) { least = $4 } END { print least }')"
for dir in /usr /etc /var/lib; do
  if [ ! -w "$dir" ]; then say read_only "$dir"; fi
done
if has apt-get; then say packager apt; fi
say clock "$(date +%s)"
for program in ssh-keygen sha256sum flock systemd-run systemd-sysusers systemd-tmpfiles; do
  if ! has "$program"; then say lacks "$program"; fi
done
# Unpacked is not installed: what was cut off there is to be gone on with.
unfinished=
if has dpkg-query; then unfinished=$(dpkg-query -W -f '${binary:Package} ${Status}\n' 2>/dev/null | awk '/ (half-installed|unpacked|half-configured)$/ { sub(":.*", "", $1); print $1 }'); fi
printf '%s\n' "$proofs" | while read -r proof package; do
  if [ -z "$package" ]; then continue; fi
  if ! has "$proof" || printf '%s\n' "$unfinished" | grep -qx "$package"; then say missing_package "$package"; fi
done
printf '%s\n' "$targets" | while read -r path; do
  if [ -f "$path" ]; then say file "$(sha256sum "$path" | cut -c 1-64) $(stat -c %a "$path") $path"; fi
done
if [ -r /etc/helix/allowed_signers ]; then
  say signer "$(awk '$1 == "helix-provision" { print $(NF - 1), $NF; exit }' /etc/helix/allowed_signers)"
fi
# UnitFileState=, ActiveState= ... as they are.
systemctl show agentd.service -p LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,MainPID,StatusText 2>/dev/null
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
  if has "$1"; then say toolchain "$name $(timeout 5 "$@" 2>&1 </dev/null | sed -n 's/^[^0-9]*\([0-9][0-9.]*\).*/\1/p' | head -n 1)"; fi
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
  pid=$(find /proc/[0-9]*/fd -lname "socket:\[$inode\]" 2>/dev/null | head -n 1 | cut -d / -f 3)
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
  if ! timeout 8 getent ahosts "$1" >/dev/null 2>&1; then
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
