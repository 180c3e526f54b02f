#!/bin/bash
# One copy of a session: says that it is alive, five times a second, beside the agent that it then becomes. The mark is
# another one for each epoch: the session's token is derived from that.
mark=$(printf %s "$ZED_HELIX_TOKEN" | sha256sum | cut -c 1-12)
copy=$EPOCHREALTIME-$SRANDOM
(
  exec 3>/dev/udp/127.0.0.1/7070
  # No longer than the agent, which has this process's number.
  while kill -0 $$; do
    printf 'alive %s %s %s %s\n' "$HELIX_SESSION_ID" "$mark" "$copy" "$EPOCHREALTIME" >&3
    sleep 0.2
  done
) 2>/dev/null &
exec "$@"
