# Over another connection than the one that made the change: it stays. Given: $state, $run, $runner (the id that the server heard).
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
here=$state/runs/$run
exec 8>>"$here/decision"
flock -w 20 8 || { echo 'the host is undoing the change'; exit 1; }
if [ -e "$here/reverted" ]; then cat "$here/reverted"; exit 1; fi
if [ "$(systemctl is-active agentd.service)" != active ]; then echo 'agentd does not run'; exit 1; fi
its=$(sed -n 's/.*"id": *"\([A-Za-z0-9_-]*\)".*/\1/p' /var/lib/helix/agentd/enrolled.json 2>/dev/null)
# What was heard under that name may be another machine.
if [ "$its" != "$runner" ]; then echo "agentd of this host is runner ${its:-none}, and $runner was heard"; exit 1; fi
: >"$here/confirmed"
sync "$here/confirmed"
systemctl stop "helix-revert-$run.timer" 2>/dev/null
rm -rf "$here/new" "$state"/in-*
# One former state is enough to look at.
for other in "$state"/runs/*; do
  if [ "$other" != "$here" ]; then rm -rf "$other"; fi
done
echo confirmed
