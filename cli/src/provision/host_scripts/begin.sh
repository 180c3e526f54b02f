# Takes the host for this run, in the shell itself: the lock is held as long as the shell and what it started live. Whoever
# waits here finds what the other one left. Given: $state, $owner, $patience (seconds), $connection ("CLIENT PORT SERVER PORT").
#
# An owner whose connection is dead does not know it yet, nor does its sshd: TCP gives up after a quarter of an hour. helixctl
# sends something at least every ten seconds, so one that was silent for a minute is gone: its shell is ended. What its
# scripts began goes on to its end all the same, and holds the lock until then.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 077
mkdir -p "$state" && chmod 711 "${state%/*}" "$state"
exec 9>>"$state/lock"
# Milliseconds since the owner's client was last heard, where that can be told: data, or acknowledgements of ours.
silence() {
  set -- $(sed -n 's/^connection //p' "$state/owner" 2>/dev/null)
  if [ -z "$4" ]; then return 1; fi
  ss -Htni state established "sport = :$4 and dport = :$2" 2>/dev/null | tr ' ' '\n' |
    awk -F : '/^(lastrcv|lastack):/ { if (least == "" || $2 < least) least = $2 } END { print least }'
}
taken=no left=$patience
while :; do
  slice=5
  if [ "$left" -lt "$slice" ]; then slice=$left; fi
  if flock -w "$slice" 9; then
    # Whoever had it may have taken the file away, with all the rest (remove.sh).
    if [ "$(stat -Lc %i "/proc/$$/fd/9" 2>/dev/null)" = "$(stat -c %i "$state/lock" 2>/dev/null)" ]; then taken=yes; break; fi
    mkdir -p "$state" && exec 9>>"$state/lock"
    continue
  fi
  left=$((left - slice))
  if [ "$left" -le 0 ]; then break; fi
  silent=$(silence) && [ -n "$silent" ] && [ "$silent" -gt 60000 ] || continue
  shell=$(sed -n 's/^shell //p' "$state/owner")
  # By its command line: the number may be somebody else's by now.
  case $(tr '\0' ' ' <"/proc/$shell/cmdline" 2>/dev/null) in *'sh -s'*) kill -9 "$shell" ;; esac
done
if [ "$taken" = yes ]; then
  printf '%s\nshell %s\nconnection %s\n' "$owner" "$$" "$connection" >"$state/owner"
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
  echo "busy $((now - since)) $(head -n 1 "$state/owner" 2>/dev/null)"
fi
