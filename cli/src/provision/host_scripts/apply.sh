# Changes the host to what was uploaded, or leaves it as it was; after last_words.sh. Given: $state, $run (its id), $login, $signers (a line, used
# only where the host has none), $within (seconds until an unconfirmed change is undone).
# It says "applied" on standard output, or "unchanged" or "undone" and why; everything else goes to the run's log. Nothing here reads or writes the
# connection on its way: cut off, it goes on to its end, and the timer undoes it.
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022
trap '' HUP PIPE
here=$state/runs/$run in=$state/in-$run
exec 2>>"$here/log"
fail() { printf 'unchanged\n%s\n' "$1"; exit 1; }

# 1. What came is root's from here on, and then it is proved: by a signature, and by digests that are signed.
mkdir "$here/new" "$here/old" || fail 'the upload cannot be taken over'
chmod 700 "$here/new" "$here/old"
cp "$in/manifest" "$in/manifest.sig" "$here/" || fail 'the upload is not whole'
allowed=/etc/helix/allowed_signers
if [ ! -e "$allowed" ]; then
  allowed=$here/allowed_signers
  printf '%s\n' "$signers" >"$allowed"
fi
said=$(ssh-keygen -Y verify -f "$allowed" -I helix-provision -n helix-provision -s "$here/manifest.sig" <"$here/manifest" 2>&1) ||
  fail "the manifest is not signed by a key that this host takes: $said"
each() { grep -v '^#' "$here/manifest"; }
each | while read -r sha256 mode number target; do
  [ -f "$in/$number" ] && [ ! -L "$in/$number" ] && cp "$in/$number" "$here/new/$number" && chmod 600 "$here/new/$number" || exit 1
  echo "$sha256  $here/new/$number"
done >"$here/sums" || fail 'the upload is not whole (is the disk full?)'
# Where no file is to be changed there is none to be proved.
[ ! -s "$here/sums" ] || sha256sum --check --quiet --strict "$here/sums" >&2 || fail 'a file is not what was signed'

# 2. What there was is kept, so that it can be put back.
each | while read -r sha256 mode number target; do
  if [ -e "$target" ]; then cp -p "$target" "$here/old/$number" || exit 1; else : >"$here/old/$number.absent" || exit 1; fi
done || fail 'what there was cannot be kept (is the disk full?)'
if [ ! -e /etc/helix/allowed_signers ]; then : >"$here/old/no-signers"; fi
systemctl is-enabled agentd.service >"$here/old/enabled" 2>/dev/null
systemctl is-active agentd.service >"$here/old/active" 2>/dev/null
systemctl is-active agentd-hold@agentd.service >"$here/old/hold" 2>/dev/null
sync

# 3. From here on the host undoes the change by itself, unless it is told within time that all is well.
exec 8>>"$here/decision"
flock 8
systemd-run --quiet --unit="helix-revert-$run" --on-active="$within" --timer-property=AccuracySec=100ms \
  /bin/sh "$here/revert.sh" "it was not confirmed within $within s" >&2 8>&- 9>&- || fail 'the timer that would undo the change cannot be set'
echo armed >"$here/state" && sync "$here/state"

# 4. The change itself: each file takes its name in one step. What was proved before is proved no more.
rm -f "$state/proved"
undo() {
  flock -u 8
  sh "$here/revert.sh" "$1" >&2
  if [ -e "$here/reverted" ]; then how=undone; else how=stuck; fi
  printf '%s\n%s\n' "$how" "$1"
  exit 1
}
mkdir -p /etc/helix
if [ ! -e /etc/helix/allowed_signers ]; then
  install -m 644 "$here/allowed_signers" /etc/helix/allowed_signers || undo 'the signing key cannot be pinned'
fi
each | while read -r sha256 mode number target; do
  mkdir -p "${target%/*}" && install -o root -g root -m "$mode" "$here/new/$number" "$target.helix-new" &&
    sync "$target.helix-new" && mv -f "$target.helix-new" "$target" || exit 1
done || undo 'a file cannot be put in its place (is the disk full, or read-only?)'
systemd-sysusers helix.conf helix-slots.conf >&2 || undo 'the users cannot be made'
systemd-tmpfiles --create helix.conf >&2 || undo 'the directories cannot be made'
systemctl daemon-reload >&2
if ! said=$(/usr/bin/agentd run --config /etc/helix/agentd.toml --check-config 2>&1); then undo "agentd refuses its settings: $said"; fi
systemctl enable --quiet agentd.service >&2 || undo 'agentd cannot be enabled'
systemctl reset-failed agentd.service >&2
# Ready means: every known session is taken over. Sessions are not touched.
if ! timeout 20 systemctl restart agentd.service >&2; then
  undo "agentd does not start: $(last_words agentd.service "@$(stat -c %Y "$here/manifest")" | tail -n +2)"
fi
# Other runners of this machine have the same program; those that do not run are left alone.
if ! timeout 60 systemctl try-restart 'agentd@*.service' >&2; then
  undo "another runner of this machine does not start with it: $(systemctl --failed --plain --no-legend list-units 'agentd@*' | cut -d ' ' -f 1 | tr '\n' ' ')"
fi
echo applied >"$here/state"
flock -u 8
echo applied
