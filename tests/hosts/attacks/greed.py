"""In a hostile session: asks for more than its share. greed.py flood|shm|forks|tmp"""

import json
import os
import signal
import socket
import sys

from common import KNOWN


def flood():
    """Says everything to the guest that takes the task's outcome: lines without an end, and outcome after outcome."""
    said = 0
    for line in (b"x" * (64 << 20), b'{"op":"result","result":' + b"[" * (1 << 19)):
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(3)
            link.connect("/run/session/guest.sock")
            try:
                link.sendall(line)
            except OSError as fault:
                print(f"refused: {fault}")
    result = {"exit_status": 0, "output_truncated": False, "finished_at": "2026-01-01T00:00:00Z"}
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(3)
        link.connect("/run/session/guest.sock")
        hears = link.makefile("rb")
        for number in range(100):
            result["output_tail"] = f"{number}" + "x" * 900_000
            try:
                link.sendall(json.dumps({"op": "result", "result": result}).encode() + b"\n")
                said += b'"done"' in hears.readline()
            except OSError as fault:
                print(f"refused: {fault}")
                break
    print(f"{said} outcomes were taken")


def fill(path):
    block = b"x" * (1 << 20)
    with open(path, "wb") as file:
        for _ in range(int(KNOWN["MUCH"]) >> 20):
            file.write(block)
            file.flush()
    print(f"{path} is full")


def forks():
    """Without ever letting go."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while True:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            signal.pause()


{"flood": flood, "shm": lambda: fill("/dev/shm/much"), "tmp": lambda: fill("/tmp/much"), "forks": forks}[sys.argv[1]]()
