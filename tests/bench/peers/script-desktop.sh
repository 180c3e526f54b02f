#!/usr/bin/env bash
# Peer: what people write by hand for a desktop in the browser. Xvfb + openbox + xterm + x11vnc + websockify.
# usage: script-desktop.sh DISPLAY PORT DIR — runs until ended; ends everything it started.
set -eu
display=$1 port=$2 dir=$3
mkdir -p "$dir"
pids=()
# x11vnc now and then does not end on SIGTERM, and killed outright it leaves its shared memory behind: a second's grace.
finish() {
  kill "${pids[@]}" ${x11vnc:-} 2>/dev/null || true
  for _ in {1..50}; do kill -0 "${x11vnc:-none}" 2>/dev/null || break; sleep 0.02; done
  [ -z "${x11vnc:-}" ] || kill -KILL "$x11vnc" 2>/dev/null || true
  wait
  rm -rf "$dir"
}
trap finish EXIT
trap 'exit 0' TERM INT
export DISPLAY=:$display

Xvfb ":$display" -screen 0 1920x1080x24 -nolisten tcp -noreset -extension GLX >"$dir/xvfb.log" 2>&1 & pids+=($!)
# Its usual readiness test: try until the display answers.
until xdpyinfo >/dev/null 2>&1; do sleep 0.02; done
openbox --sm-disable >"$dir/openbox.log" 2>&1 & pids+=($!)
xterm -maximized >"$dir/xterm.log" 2>&1 & pids+=($!)
# -rfbportv6 -1 and -no6: without them x11vnc also listens on every address of the machine.
x11vnc -display ":$display" -unixsock "$dir/vnc.sock" -rfbport 0 -rfbportv6 -1 -no6 -nopw -forever -shared -nonap -quiet >"$dir/x11vnc.log" 2>&1 & x11vnc=$!
until [ -S "$dir/vnc.sock" ]; do sleep 0.02; done
websockify --unix-target="$dir/vnc.sock" "127.0.0.1:$port" >"$dir/websockify.log" 2>&1 & pids+=($!)
wait
