# What the package of a server does beside putting files. packaging/package.sh makes the scripts of dpkg and of rpm of it.
booted() { [ -d /run/systemd/system ]; }

installed() {
  systemd-sysusers helix-server.conf helix-nats.conf
  systemd-tmpfiles --create helix-server.conf
  booted || return 0
  systemctl daemon-reload
  # Viewers connect again, and runners do; sessions notice nothing.
  systemctl try-restart helix-server.service ||
    echo 'helix-server: it was not restarted; why: systemctl status helix-server' >&2
  systemctl --quiet is-active helix-server.service || cat <<'TEXT'
helix-server: nothing was started. Next:
  edit /etc/helix/server.toml                    # its header makes the secrets
  helix-server --check-config
  systemctl enable --now helix-server
TEXT
}

removing() {
  booted || return 0
  systemctl disable --quiet --now helix-server.service helix-nats.service
}

removed() {
  booted || return 0
  systemctl daemon-reload
  systemctl reset-failed helix-server.service helix-nats.service 2>/dev/null || true
}

purged() {
  # A runner of this machine keeps its settings there, too.
  if [ -e /usr/bin/agentd ]; then
    rm -rf /etc/helix/server.* /etc/helix/secrets /etc/helix/nats*
  else
    rm -rf /etc/helix
  fi
  # All that the fleet has, where its store was here.
  rm -rf /var/lib/helix/nats
  rmdir --ignore-fail-on-non-empty /var/lib/helix 2>/dev/null || true
  for user in helix-server helix-nats; do
    if getent passwd "$user" >/dev/null; then userdel "$user"; fi
  done
}
