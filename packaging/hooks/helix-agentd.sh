# What the package of a runner does beside putting files. packaging/package.sh makes the scripts of dpkg and of rpm of it.
booted() { [ -d /run/systemd/system ]; }

installed() {
  systemd-sysusers helix.conf helix-slots.conf
  systemd-tmpfiles --create helix.conf
  booted || return 0
  systemctl daemon-reload
  # What runs gets the new program. Sessions are units of their own, and the new agentd takes them over.
  systemctl try-restart agentd.service 'agentd@*.service' ||
    echo 'helix-agentd: agentd was not restarted; why: systemctl status agentd' >&2
  [ -n "$(systemctl list-units --plain --no-legend --state=active agentd.service 'agentd@*.service')" ] || cat <<'TEXT'
helix-agentd: nothing was started. Next:
  install -m 600 /usr/share/doc/helix/agentd.toml.example /etc/helix/agentd.toml   # and edit it
  install -m 600 /dev/stdin /etc/helix/agentd.token                                # the server's enrolment token
  agentd run --config /etc/helix/agentd.toml --check-config
  systemctl enable --now agentd
TEXT
}

# Sessions end, too: nobody would be there to look after them.
removing() {
  booted || return 0
  systemctl stop agentd.service 'agentd@*.service'
  systemctl stop 'helix-s*.slice'
  # Waits for a moment that does not come any more. The slices are empty by now, but there until somebody stops them.
  systemctl stop 'agentd-hold@*.service' agentd.slice helix.slice 2>/dev/null || true
  for dir in /var/lib/helix/agentd /var/lib/helix/agentd-*; do
    [ ! -d "$dir" ] || agentd reap --state-dir "$dir" || echo "helix-agentd: something is left of $dir" >&2
  done
  # What enabling made.
  find /etc/systemd/system -type l \( -name agentd.service -o -name 'agentd@*.service' \) -delete
}

removed() {
  booted || return 0
  systemctl daemon-reload
  systemctl reset-failed 'agentd*.service' 'helix-s*' 2>/dev/null || true
}

purged() {
  rm -rf /run/helix /var/lib/helix/agentd /var/lib/helix/agentd-* /var/lib/helix/provision
  # Others of this machine keep things there, too.
  rmdir --ignore-fail-on-non-empty /var/lib/helix 2>/dev/null || true
  if [ -e /usr/bin/helix-server ]; then
    rm -rf /etc/helix/agentd.* /etc/helix/agentd-* /etc/helix/allowed_signers /etc/helix/kinds.d
  else
    rm -rf /etc/helix
  fi
  # userdel takes the group of the same name along.
  for user in $(getent passwd | sed -nE 's/^(helix-(u[0-9]+|keep|recorder)):.*/\1/p'); do userdel "$user"; done
}
