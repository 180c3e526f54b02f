"""Starts the supervisord stack as a service and measures until its VNC server shows the desktop (ServerInit).

    stack.py

Prints milliseconds. Whether the terminal is there yet is not asked.
"""

import socket
import subprocess
import sys
import time


def receive(wire, count):
    data = b""
    while len(data) < count:
        part = wire.recv(count - len(data))
        if not part:
            raise ConnectionError("closed")
        data += part
    return data


def server_init():
    with socket.create_connection(("127.0.0.1", 5970), timeout=2) as wire:
        wire.sendall(receive(wire, 12))
        receive(wire, receive(wire, 1)[0])
        wire.sendall(b"\x01")
        if receive(wire, 4) != bytes(4):
            raise ConnectionError("refused")
        wire.sendall(b"\x01")
        receive(wire, 24)


begun = time.monotonic()
subprocess.run(
    ["systemd-run", "-q", "--collect", "--unit=stack", "supervisord", "-n", "-c", "/etc/stack.conf"], check=True
)
while True:
    try:
        server_init()
        break
    except OSError:
        if time.monotonic() > begun + 30:
            sys.exit("the stack does not come up")
        time.sleep(0.005)
print(round((time.monotonic() - begun) * 1000, 1))
