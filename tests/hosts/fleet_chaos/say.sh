#!/bin/bash
# say WORD NAME: a prompt tells the witness of its host what becomes of it.
printf '%s %s %s %s\n' "$1" "$HELIX_SESSION_ID" "$2" "$EPOCHREALTIME" >/dev/udp/127.0.0.1/7070
