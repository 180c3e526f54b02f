# The ten steps with nothing but tar and ssh, which is the least that they can cost: floor.sh DIR PACKAGES USER@HOST RUNNER...
# It knows no difference between the first time and the second.
dir=$1 packages=$2
shift 2
while [ $# -gt 0 ]; do
  { cat "$dir/payload.tar"; tar -C "$dir" --transform "s,^$2.toml,etc/helix/agentd.toml,;s,^token,etc/helix/enrolment.token," -cf - "$2.toml" token; } |
    ssh -F "$dir/ssh_config" "$1" "set -e
      dpkg-query -W $packages >/dev/null
      tar -C / --ignore-zeros --no-overwrite-dir -xf -
      systemd-sysusers 2>/dev/null
      systemd-tmpfiles --create
      agentd run --config /etc/helix/agentd.toml --check-config >/dev/null
      systemctl daemon-reload
      systemctl enable -q --now agentd
      timeout 60 sh -c 'until [ -e /var/lib/helix/agentd/enrolled.json ]; do sleep 0.1; done'" &
  pids="${pids-} $!"
  shift 2
done
for pid in $pids; do wait "$pid" || exit 1; done
