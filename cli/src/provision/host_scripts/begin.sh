# Takes the host for this run, in the shell itself: the lock is held as long as the shell and what it started live. Whoever
# waits here finds what the other one left. Given: $state, $owner, $patience (seconds).
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
mkdir -p "$state" && chmod 711 "${state%/*}" "$state"
exec 9>>"$state/lock"
if flock -w "$patience" 9; then
  printf '%s\n' "$owner" >"$state/owner"
  echo taken
  for run in "$state"/runs/*; do
    if [ -e "$run/state" ] && [ ! -e "$run/confirmed" ] && [ ! -e "$run/reverted" ]; then
      if sh "$run/revert.sh" 'another run followed' >>"$run/log" 2>&1; then echo "reverted ${run##*/}"; else echo "stuck ${run##*/}"; fi
    fi
  done
  # What runs before that one left behind: uploads, and runs that never began to change anything.
  rm -rf "$state"/in-*
  for run in "$state"/runs/*; do
    if [ ! -e "$run/state" ]; then rm -rf "$run"; fi
  done
else
  exec 9>&-
  now=$(date +%s) since=$(stat -c %Y "$state/owner" 2>/dev/null || date +%s)
  echo "busy $((now - since)) $(cat "$state/owner" 2>/dev/null)"
fi
