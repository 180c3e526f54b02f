# Prints what the host is, as key=value lines; changes nothing. Given: $proofs (lines "proof package", packaging/packages.sh),
# $targets (lines: path of a managed file), $state (directory of provisioning), $reach (lines: NAME HOST PORT).
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
for dir in /usr /etc /var/lib; do
  if [ ! -w "$dir" ]; then say read_only "$dir"; fi
done
if has apt-get; then say packager apt; fi
say clock "$(date +%s)"
for program in ssh-keygen sha256sum flock systemd-run systemd-sysusers systemd-tmpfiles; do
  if ! has "$program"; then say lacks "$program"; fi
done
printf '%s\n' "$proofs" | while read -r proof package; do
  if [ -n "$package" ] && ! has "$proof"; then say missing_package "$package"; fi
done
printf '%s\n' "$targets" | while read -r path; do
  if [ -f "$path" ]; then say file "$(sha256sum "$path" | cut -c 1-64) $(stat -c %a "$path") $path"; fi
done
if [ -r /etc/helix/allowed_signers ]; then
  say signer "$(awk '$1 == "helix-provision" { print $(NF - 1), $NF; exit }' /etc/helix/allowed_signers)"
fi
say enabled "$(systemctl is-enabled agentd.service 2>/dev/null)"
say active "$(systemctl is-active agentd.service 2>/dev/null)"
if [ -r /var/lib/helix/agentd/enrolled.json ]; then
  say enrolled "$(sed -n 's/.*"id": *"\([A-Za-z0-9_-]*\)".*/\1/p' /var/lib/helix/agentd/enrolled.json)"
fi
for run in "$state"/runs/*; do
  if [ -e "$run/state" ] && [ ! -e "$run/confirmed" ] && [ ! -e "$run/reverted" ]; then say pending "${run##*/}"; fi
done
if [ -e "$state/proved" ]; then say proved yes; fi
# A shell that opens sockets is on most machines; where it is not, agentd's own first words tell.
if has bash && has timeout; then
  printf '%s\n' "$reach" | while read -r name host port; do
    if [ -z "$port" ]; then continue; fi
    if ! why=$(timeout 5 bash -c 'exec 3<>"/dev/tcp/$1/$2"' bash "$host" "$port" 2>&1); then
      say unreachable "$name $host:$port: $(printf '%s' "${why:-no answer within 5 s}" | tail -n 1 | sed 's/.*: //')"
    fi
  done
fi
say end 1
