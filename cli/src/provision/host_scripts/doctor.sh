# More of a host than provisioning needs, after facts.sh, apt_holder.sh and last_words.sh; changes nothing. Given: $programs (words: programs of
# agents), $fallback (URL of the server, where the host has no settings yet).

# --- who came from where
say by "$(if [ -n "${SUDO_USER:-}" ]; then echo sudo; else echo login; fi)"

# --- time: whether somebody keeps it, and how far the clock was set since the machine started
say ntp "$(timeout 5 timedatectl show -p NTPSynchronized --value 2>/dev/null)"
if started=$(systemctl show -p UserspaceTimestamp -p UserspaceTimestampMonotonic --timestamp=unix 2>/dev/null); then
  real=$(printf '%s\n' "$started" | sed -n 's/^UserspaceTimestamp=@\([0-9]*\).*/\1/p')
  mono=$(printf '%s\n' "$started" | sed -n 's/^UserspaceTimestampMonotonic=\([0-9]*\).*/\1/p')
  if [ -n "$real" ] && [ -n "$mono" ]; then
    say clock_step "$(awk -v now="$(date +%s)" -v real="$real" -v mono="$mono" '{ printf "%d", now - $1 - (real - mono / 1e6) }' /proc/uptime)"
  fi
fi

# --- limits of the kernel and of agentd
say user_namespaces "$(cat /proc/sys/user/max_user_namespaces 2>/dev/null)"
say userns_apparmor "$(cat /proc/sys/kernel/apparmor_restrict_unprivileged_userns 2>/dev/null)"
say userns_clone "$(cat /proc/sys/kernel/unprivileged_userns_clone 2>/dev/null)"
say files_max "$(cat /proc/sys/fs/file-max 2>/dev/null)"
agentd=$(systemctl show agentd.service -p MainPID --value 2>/dev/null)
if [ "${agentd:-0}" != 0 ]; then
  say descriptors "$(sed -n 's/^Max open files *\([0-9]*\).*/\1/p' "/proc/$agentd/limits" 2>/dev/null)"
else
  say descriptors "$(systemctl show -p DefaultLimitNOFILE --value 2>/dev/null | sed 's/infinity/1048576/')"
fi

# --- apt
if who=$(holder); then say apt_lock "$who"; fi

# --- what agentd says of itself: version, settings that it has, last words when it is not well
if [ -x /usr/bin/agentd ]; then say agentd_version "$(timeout 5 /usr/bin/agentd --version 2>/dev/null | sed 's/^[^ ]* //')"; fi
settings=/etc/helix/agentd.toml
setting() { sed -n "s/^$1 *= *\[\{0,1\} *\"\([^\"]*\)\".*/\1/p" "$settings" 2>/dev/null | head -n 1; }
server=$(setting api_host)
server=${server:-$fallback}
nats=$(setting nats_url)
if [ -z "$nats" ]; then nats=$(sed -n 's/.*"nats_url": *"\([^"]*\)".*/\1/p' /var/lib/helix/agentd/enrolled.json 2>/dev/null); fi
say server "$server"
way=no
if has bash && has timeout && has getent; then
  if [ -n "$server" ] && reachable server "$server"; then way=yes; fi
  if [ -n "$nats" ]; then reachable NATS "$nats"; fi
fi
# Whether the server's certificate is taken, where one of these can say so.
case $way:$server in
  yes:https:*)
    set -- $(endpoint "$server")
    if has curl; then
      why=$(curl -sS -o /dev/null --max-time 8 "$server/healthz" 2>&1) || say unreachable "server $1:$2 tls $why"
    elif has openssl; then
      why=$(timeout 8 openssl s_client -connect "$1:$2" -servername "$1" -verify_return_error </dev/null 2>&1) ||
        say unreachable "server $1:$2 tls $(printf '%s\n' "$why" | grep -m 1 -i 'error' | tr '\n' ' ')"
    fi ;;
esac
for unit in agentd helix-server helix-nats nats-server; do
  state=$(systemctl is-active "$unit.service" 2>/dev/null)
  if [ "$state" = failed ] || [ "$state" = activating ]; then
    say sick "$unit.service $state $(said "$unit.service" '-1 day' | tail -n 2 | tr '\n' ' ')"
  fi
done
# What NATS fails to write it fails at until it is started anew, and nobody is answered. Of this start alone: a journal
# that is asked by time would tell of the second that it was started in, and so of the one before.
for unit in helix-nats nats-server; do
  start=$(systemctl show "$unit.service" -p InvocationID --value 2>/dev/null)
  if [ -n "$start" ] &&
    journalctl -o cat --no-pager _SYSTEMD_INVOCATION_ID="$start" 2>/dev/null | grep -q 'no space left on device'; then
    say nats_full "$unit"
  fi
done
if has nats-server; then say nats_version "$(timeout 5 nats-server --version 2>/dev/null | sed 's/[^0-9]*\([0-9.]*\).*/\1/')"; fi

# --- kinds
for file in /etc/helix/kinds.d/*.toml; do
  if [ -e "$file" ]; then say own_kind "$(basename "$file" .toml)"; fi
done
for program in $programs; do
  if has "$program"; then say program "$program"; fi
done
zed=$(sed -n 's/^ZED_BINARY="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' /etc/helix/agentd.env 2>/dev/null | tail -n 1)
zed=${zed:-$(setting zed_binary)}
if [ -n "$zed" ]; then
  say zed "$zed"
  if [ ! -x "$zed" ]; then say zed_missing "$zed"; fi
elif has zed; then
  say zed "$(command -v zed)"
fi
# The driver as agentd chooses it: Helix's own first (packaging/mesa), and the version that its library carries.
icd=$(setting vulkan_icd)
icd=${icd:-$(find /opt/helix/mesa -name 'lvp_icd*.json' 2>/dev/null | sort | tail -n 1)}
for file in /usr/share/vulkan/icd.d/lvp_icd*.json /etc/vulkan/icd.d/lvp_icd*.json; do
  if [ -e "$file" ]; then icd=${icd:-$file}; fi
done
if [ -n "$icd" ]; then
  library=$(sed -n 's/.*"library_path": *"\([^"]*\)".*/\1/p' "$icd" 2>/dev/null)
  case $library in
    /*) ;;
    */*) library=${icd%/*}/$library ;;
    *) for dir in /usr/lib/*-linux-gnu /usr/local/lib /usr/lib64 /usr/lib /lib64; do
      if [ -e "$dir/$library" ]; then library=$dir/$library; break; fi
    done ;;
  esac
  say lavapipe "$icd"
  say mesa "$(grep -aoEm 1 'Mesa [0-9]+\.[0-9.]*' "$library" 2>/dev/null | head -n 1 | sed 's/Mesa //; s/\.$//')"
fi

# --- what a dead install left
if [ ! -x /usr/bin/agentd ]; then
  systemctl list-units --all --plain --no-legend 'helix-s*' 'agentd*.service' helix.slice agentd.slice 2>/dev/null | while read -r unit load active sub rest; do
    if [ "$active" != inactive ]; then say leftover "unit $unit"; fi
  done
  for link in /etc/systemd/system/*.wants/agentd*.service; do
    if [ -L "$link" ]; then say leftover "link $link"; fi
  done
  for path in /run/helix/s/* /usr/lib/systemd/system/agentd*.service; do
    if [ -e "$path" ]; then say leftover "path $path"; fi
  done
  ps -eo user:32= 2>/dev/null | grep -E '^helix-(u[0-9]+|recorder)' | sort | uniq -c | while read -r count user; do
    say leftover "processes $user ($count)"
  done
fi
for path in "$state"/in-*; do
  # One of a run that is at work is none that was left.
  if [ -e "$path" ] && [ -n "$(find "$path" -maxdepth 0 -mmin +60 2>/dev/null)" ]; then say leftover "upload $path"; fi
done
