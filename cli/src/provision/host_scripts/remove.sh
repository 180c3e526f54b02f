# Takes everything off a host that provisioning put there, and all that it became: from any state, and again. Packages stay.
# Given: $state (directory of provisioning), $paths (lines: managed files). It says "gone WHAT", "kept WHAT" for each thing, and
# "removed" last. Cut off, it goes on to its end.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
trap '' HUP PIPE
has() { command -v "$1" >/dev/null 2>&1; }
failed=0
units() { systemctl list-units --all --full --plain --no-legend "$@" 2>/dev/null | cut -d ' ' -f 1; }

# Who else needs the programs: other runners of this machine, and a package manager that brought them.
others=
for file in /etc/helix/agentd-*.toml; do
  if [ -e "$file" ]; then others="$others ${file##*/}"; fi
done
package=
if has dpkg-query; then package=$(dpkg-query -S /usr/bin/agentd 2>/dev/null | cut -d : -f 1); fi

# 1. Nothing of provisioning comes back by itself, and the runner ends: first what starts sessions, then what holds them still.
for timer in $(units 'helix-revert-*.timer'); do systemctl stop "$timer"; done
if [ -n "$(units agentd.service)" ]; then echo 'gone service agentd.service'; fi
systemctl disable --now --quiet agentd.service 2>/dev/null
systemctl stop agentd-hold@agentd.service 2>/dev/null
rm -f /etc/systemd/system/multi-user.target.wants/agentd.service

# 2. Its sessions. Where it is alone, all that is below helix.slice; else those that say that they are its own.
mine() {
  for slice in $(units --type=slice 'helix-s*'); do
    if [ -z "$others" ]; then echo "$slice"; continue; fi
    case $(systemctl show "$slice" -p Description --value) in *', state /var/lib/helix/agentd') echo "$slice" ;; esac
  done
}
for slice in $(mine); do
  echo "gone session $slice"
  systemctl stop "$slice" 2>/dev/null
done
if [ -z "$others" ]; then
  for unit in $(units 'helix-s*'); do systemctl stop "$unit" 2>/dev/null; done
fi
# A backend without systemd's units has processes of its own.
if [ -x /usr/bin/agentd ] && [ -d /var/lib/helix/agentd ]; then
  timeout 60 /usr/bin/agentd reap --state-dir /var/lib/helix/agentd >/dev/null 2>&1
fi
users=$(getent passwd | sed -nE 's/^(helix-(u[0-9]+|keep|recorder)):.*/\1/p')
if [ -z "$others" ]; then
  for user in $users; do
    if has pkill; then pkill -KILL -u "$user" 2>/dev/null; fi
  done
  systemctl stop 'agentd-hold@*.service' agentd.slice helix.slice 2>/dev/null
fi

# 3. Mounts, state, settings.
awk '$2 ~ "^/run/helix/" { print $2 }' /proc/self/mounts | sort -r | while read -r mount; do umount --lazy "$mount"; done
for path in /etc/helix/agentd.toml /etc/helix/agentd.token /var/lib/helix/agentd /var/lib/private/helix/agentd; do
  if [ -e "$path" ]; then rm -rf "$path" && echo "gone path $path" || failed=1; fi
done
for link in xrdp.service xrdp-sesman.service; do
  # Only what provisioning masked. Not started either: it would let in everybody with a login, at every address.
  if grep -qx "$link" "$state/masked" 2>/dev/null; then
    rm -f "/etc/systemd/system/$link"
    systemctl disable --quiet "$link" 2>/dev/null
    echo "gone mask $link"
  fi
done

# 4. Programs, units, users; unless somebody needs them.
if [ -n "$others" ]; then
  echo "kept programs, for$others"
elif [ -n "$package" ]; then
  echo "kept programs, of package $package: apt-get purge $package"
else
  printf '%s\n' "$paths" | while read -r path; do
    if [ -e "$path" ] || [ -L "$path" ]; then rm -f "$path" && echo "gone file $path"; fi
    rm -f "$path.helix-new"
  done
  rm -rf /etc/helix/allowed_signers "$state"
  # What they own anywhere would be the next user's of that number.
  for user in $users; do
    ids=$(id -u "$user")
    find /tmp /var/tmp /dev/shm /run /var/lib/helix -xdev -uid "$ids" -exec rm -rf {} + 2>/dev/null
    userdel "$user" 2>/dev/null && echo "gone user $user" || failed=1
  done
  # The control plane's user goes with the last of it.
  if [ ! -e /usr/bin/helix-server ] && [ ! -e /etc/helix/server.toml ] && id helix-server >/dev/null 2>&1; then
    userdel helix-server 2>/dev/null && echo 'gone user helix-server'
  fi
  for path in /run/helix/s /run/helix /var/lib/helix/keep /var/lib/helix/recordings; do
    if [ ! -e /usr/bin/helix-server ]; then rm -rf "$path" 2>/dev/null; fi
  done
  rmdir /usr/share/helix/kinds /usr/share/helix /usr/share/doc/helix /var/lib/helix /etc/helix 2>/dev/null
fi
systemctl daemon-reload
systemctl reset-failed 'agentd*' 'helix-*' 2>/dev/null

# 5. What is still there, and whose it is.
if [ -d /etc/helix ]; then
  for path in /etc/helix/* /etc/helix/kinds.d/*; do
    if [ -f "$path" ]; then echo "kept file $path"; fi
  done
fi
if [ -z "$others" ]; then
  for unit in $(units 'helix-s*' 'agentd*.service'); do echo "left unit $unit"; failed=1; done
  for path in $(printf '%s\n' "$paths"); do
    if [ -z "$package" ] && [ -e "$path" ]; then echo "left file $path"; failed=1; fi
  done
fi
if [ "$failed" = 0 ]; then echo removed; fi
exit "$failed"
