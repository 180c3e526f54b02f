#!/usr/bin/env bash
# Peer: the leanest desktop there is, without any control plane. Xtigervnc + openbox + xterm.
# usage: tigervnc-desktop.sh DISPLAY DIR RC_XML — runs until ended; ends everything it started.
set -eu
display=$1 dir=$2 rc=$3
mkdir -p "$dir"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait; rm -rf "$dir"' EXIT
trap 'exit 0' TERM INT
export DISPLAY=:$display

Xtigervnc ":$display" -geometry 1920x1080 -depth 24 -dpi 96 -nolisten tcp -noreset -extension GLX -rfbport -1 \
  -rfbunixpath "$dir/vnc.sock" -rfbunixmode 0600 -SecurityTypes None -AlwaysShared >"$dir/x.log" 2>&1 & pids+=($!)
until xdpyinfo >/dev/null 2>&1; do sleep 0.02; done
openbox --sm-disable --config-file "$rc" >"$dir/openbox.log" 2>&1 & pids+=($!)
until xprop -root _NET_SUPPORTING_WM_CHECK 2>/dev/null | grep -q window; do sleep 0.02; done
xterm >"$dir/xterm.log" 2>&1 & pids+=($!)
wait
