"""Kills supervisord with SIGKILL and measures until its programs run again, below a new supervisord.

    respawn.py PROGRAMS

Prints one JSON object. The programs of the killed one are orphans; they are counted, and ended.
"""

import json
import os
import subprocess
import sys
import time

programs = int(sys.argv[1])
MARK = b"peer-program"


def main_pid():
    shown = subprocess.run(
        ["systemctl", "show", "--value", "-p", "MainPID", "supervisor"], capture_output=True, text=True, check=True
    )
    return int(shown.stdout)


def found():
    """Process id and parent of every program."""
    pairs = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if MARK not in file.read():
                    continue
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                pairs.append((int(pid), int(file.read().rsplit(")", 1)[1].split()[1])))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return pairs


def children(parent):
    return [pid for pid, of in found() if of == parent]


deadline = time.monotonic() + 30
while len(children(old := main_pid())) < programs:
    if time.monotonic() > deadline:
        sys.exit("supervisord's programs do not run")
    time.sleep(0.05)
os.kill(old, 9)
killed = time.monotonic()
new = old
while True:
    if new in (0, old):
        new = main_pid()
    elif len(children(new)) >= programs:
        break
    if time.monotonic() > killed + 120:
        sys.exit("supervisord's programs did not come back")
    time.sleep(0.005)
took = time.monotonic() - killed
orphans = [pid for pid, of in found() if of != new]
for pid in orphans:
    os.kill(pid, 9)
print(json.dumps({"ms": round(took * 1000, 1), "orphans": len(orphans)}))
