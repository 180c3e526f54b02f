#!/bin/sh
# Attaches this machine to a Helix server as a runner: `helixctl runner join` under the name and with the flags that old
# documents have for it (--api-host, --api-token, --runner-id, --concurrency, --max-tasks, --workspace-dir,
# --container-name, -e KEY=VALUE; --help shows all). Settings may stand in external-zed-agent.env beside this script, too.
set -eu

settings=$(dirname "$0")/external-zed-agent.env
if [ -f "$settings" ]; then
  set -a
  # shellcheck source=/dev/null
  . "$settings"
  set +a
fi
if ! command -v helixctl >/dev/null; then
  echo "run-external-zed-agent.sh: helixctl is not installed: sudo make install, or its package" >&2
  exit 1
fi
exec helixctl runner join "$@"
