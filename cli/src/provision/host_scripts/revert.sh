# Puts a host back to what it was before a run: files, their absence, whether agentd runs and is enabled. Run by the timer, by
# a run that failed, or by the next one. Once only, and not after a confirmation. Given: the reason, as argument; lies beside
# what it needs.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
trap '' HUP PIPE
here=$(cd "${0%/*}" && pwd) || exit 1
exec 8>>"$here/decision"
flock 8
if [ -e "$here/confirmed" ] || [ -e "$here/reverted" ]; then exit 0; fi
# Nothing of what was brought is needed to undo it, and a full disk is why it is undone.
rm -rf "$here/new" "${here%/runs/*}/in-${here##*/}"
active=$(cat "$here/old/active" 2>/dev/null) enabled=$(cat "$here/old/enabled" 2>/dev/null)
if [ "$enabled" != enabled ]; then systemctl disable --quiet agentd.service; fi
# One that was starting or reloading is to run, too.
case $active in active | activating | reloading) active=active ;; esac
hold=$(cat "$here/old/hold" 2>/dev/null)
if [ "$active" != active ]; then
  systemctl stop agentd.service
  # Its end starts what holds sessions: by the program that goes again, here.
  systemctl stop 'agentd-hold@agentd.service'
fi
failed=0
while read -r sha256 mode number target; do
  case $sha256 in '#') continue ;; esac
  if [ -e "$here/old/$number.absent" ]; then
    rm -f "$target" "$target.helix-new"
  elif [ -e "$here/old/$number" ]; then
    rm -f "$target.helix-new"
    if ! cmp -s "$here/old/$number" "$target" || [ "$(stat -c %a "$here/old/$number")" != "$(stat -c %a "$target")" ]; then
      cp -p "$here/old/$number" "$target.helix-new" && mv -f "$target.helix-new" "$target" || failed=1
    fi
  fi
done <"$here/manifest"
if [ -e "$here/old/no-signers" ]; then rm -f /etc/helix/allowed_signers; fi
systemctl daemon-reload
if [ "$active" = active ]; then
  systemctl restart agentd.service
else
  systemctl stop 'agentd-hold@agentd.service'
  systemctl reset-failed agentd.service 'agentd-hold@agentd.service'
  # Sessions that were held are held on; nothing is that was not.
  case $hold in active | activating) systemctl start --no-block 'agentd-hold@agentd.service' ;; esac
  if [ ! -e /usr/lib/systemd/system/helix.slice ]; then systemctl stop agentd.slice helix.slice; fi
fi
systemctl try-restart 'agentd@*.service'
rmdir /usr/share/helix/kinds /usr/share/helix /usr/share/doc/helix /etc/helix 2>/dev/null
if [ "$failed" != 0 ]; then exit 1; fi
printf '%s\n' "$1" >"$here/reverted"
rm -rf "$here/new"
sync
systemctl stop --no-block "helix-revert-${here##*/}.timer" 2>/dev/null
exit 0
