#!/bin/sh
# Makes a runner of this machine at its first boot: collects what it was told, gives it a name of its own, enrols it, starts
# agentd. What it says is in the journal and on the console. Told in three places, of which the later wins line by line:
#   /etc/helix/join.env           from `helixctl image export --join`, part of the disk
#   user-data of a NoCloud disk   labelled cidata, its first line is #helix
#   credential helix.join         SMBIOS or fw_cfg, by the hypervisor
# Lines NAME=VALUE, as docs/machine-images.md lists them. Ends with 0 when the server has enrolled it, 69 when it cannot be
# reached (systemd tries again), 77 when it refuses and 78 when what was told is wrong: those need somebody.
set -eu
umask 077
baked=/etc/helix/join.env
settings=/etc/helix/agentd.toml
environment=/etc/helix/agentd.env
state=/var/lib/helix
work=/run/helix-first-boot
mkdir -p "$work"

say() { echo "helix: $*"; }
stop() {
  say "this machine is no runner yet: $2"
  [ -z "${3:-}" ] || say "next: $3; then: systemctl restart helix-first-boot, or boot again"
  exit "$1"
}

seed() {
  udevadm settle --timeout=20 || true
  device=$(blkid -L cidata || blkid -L CIDATA) || return 0
  mkdir -p "$work/cidata"
  mount -o ro,nosuid,nodev,noexec "$device" "$work/cidata" || stop 78 "the seed disk $device cannot be mounted" "make it a FAT or ISO 9660 labelled cidata"
  sed -n 's/^local-hostname: *//p' "$work/cidata/meta-data" 2>/dev/null | tr -cd 'A-Za-z0-9.\n-' >"$work/name" || true
  if head -n 1 "$work/cidata/user-data" 2>/dev/null | grep -q '^#helix'; then
    cat "$work/cidata/user-data" >"$work/seed"
  else
    say "user-data of $device does not begin with #helix: nothing is taken from it"
  fi
  umount "$work/cidata"
}

: >"$work/name"
rm -f "$work/seed"
seed
for source in "$baked" "$work/seed" /run/credentials/@system/helix.join; do
  if [ -f "$source" ]; then cat "$source"; echo; fi
done | tr -d '\r' >"$work/told"

known=" API_HOST API_TOKEN RUNNER_ID CONCURRENCY MAX_TASKS SESSION_TIMEOUT NATS_URL LOG_LEVEL DISPLAY_WIDTH DISPLAY_HEIGHT LABELS "
token='' labels='' runner=''
: >"$work/env"
while IFS= read -r line || [ -n "$line" ]; do
  case $line in '' | '#'*) continue ;; esac
  name=${line%%=*} value=${line#*=}
  case $known in *" $name "*) ;; *) stop 78 "it was told ${name%%[!A-Z_]*}…, which is none of:$known" "write NAME=VALUE" ;; esac
  case $value in \"*\") value=${value#\"} value=${value%\"} ;; esac
  # What follows is read by a shell.
  case $value in *[\"\\\$\`]*) stop 78 "$name has a quote, backslash, \$ or \` in it" "write NAME=VALUE" ;; esac
  case $name in
    API_TOKEN) token=$value; continue ;;
    LABELS) labels=$value; continue ;;
    RUNNER_ID) runner=$value; continue ;;
  esac
  sed -i "/^$name=/d" "$work/env"
  printf '%s="%s"\n' "$name" "$value" >>"$work/env"
done <"$work/told"

# --- who it is: no clone has what another one has

[ -s /etc/machine-id ] || systemd-machine-id-setup
if [ -x /usr/bin/ssh-keygen ] && [ -d /etc/ssh ]; then ssh-keygen -A >/dev/null; fi
name=$(cat "$work/name")
if [ -z "$name" ] && [ -s /etc/hostname ]; then name=$(cat /etc/hostname); fi
# Not the machine's id itself, which is nobody's business.
[ -n "$name" ] || name=helix-$(systemd-id128 machine-id --app-specific=6c1f0a3e5d0b4a5c9f7e2b8d41a6c37e | cut -c 1-12)
echo "$name" >/etc/hostname
hostname "$name"
[ -n "$runner" ] || runner=$(printf %s "$name" | tr . -)
printf 'RUNNER_ID="%s"\n' "$runner" >>"$work/env"
{ echo "# Written at the first boot, from what this machine was told. Wins over agentd.toml."; cat "$work/env"; } >"$environment.new"
mv "$environment.new" "$environment"

# Labels are the last table of the settings; what an earlier try added goes.
sed -i '/^# Told at the first boot/,$d' "$settings"
if [ -n "$labels" ]; then
  echo "# Told at the first boot:" >>"$settings"
  printf '%s\n' "$labels" | tr , '\n' | while IFS= read -r label; do
    case $label in *[!A-Za-z0-9._/=-]* | =* | *=*=*) exit 78 ;; *=*) ;; *) exit 78 ;; esac
    printf '"%s" = "%s"\n' "${label%%=*}" "${label#*=}"
  done >>"$settings" || stop 78 "LABELS is not NAME=VALUE,NAME=VALUE with letters, digits and ._/-" "correct it"
fi

# --- enrols

[ -n "$token" ] || stop 78 "it has no enrolment token" "helixctl token create --runner --reusable, and give it as API_TOKEN"
grep -q '^API_HOST=' "$work/env" || stop 78 "it was not told its server" "give it as API_HOST=https://…"
set -a
. "$work/env"
set +a
code=0
said=$(API_TOKEN=$token agentd enrol --config "$settings" 2>&1) || code=$?
case $code in
  0) ;;
  69) say "not enrolled yet, tries again: $said"; exit 69 ;;
  77) stop 77 "$said" "a token that is good (expired or used up: helixctl token list; a new one: helixctl token create --runner --reusable) as credential helix.join or on a seed disk" ;;
  *) stop 78 "$said" "correct what it was told" ;;
esac
# From here on it has a token of its own; the fleet's must not stay.
if [ -f "$baked" ]; then shred -u -n 1 -z "$baked"; fi
rm -rf "$work"
mkdir -p "$state"
: >"$state/first-boot"
say "runner $runner is enrolled"
systemctl enable --quiet agentd.service
systemctl start --no-block agentd.service
