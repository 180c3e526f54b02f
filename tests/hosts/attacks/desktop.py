"""Attacks on the victim's desktop: X sockets, cookies, the RFB socket, the session bus, the task's socket."""

import re
import socket
import struct
import sys

from common import KNOWN, Bus, X, attempt, connect, cookies, exactly, hear, pids, secret_in, views

STATE = KNOWN["V_S"]


def x_sockets():
    return views("/tmp/.X11-unix/X0", f"{STATE}/tmp/.X11-unix/X0")


def abstract_x_sockets():
    with open("/proc/net/unix") as file:
        names = re.findall(r"@(\S*X11-unix/\S+)", file.read())
    return ["\0" + name for name in names + ["/tmp/.X11-unix/X0"]]


def look(address):
    """What is on the victim's desktop, with every cookie there is, and with none."""
    for cookie in [*cookies(), b""]:
        try:
            found = secret_in(X(address, cookie).look())
        except (OSError, EOFError):
            continue
        if found:
            return found
    return None


def first(addresses, work):
    last = None
    for address in dict.fromkeys(addresses):
        try:
            found = work(address)
        except Exception as fault:
            last = fault
            continue
        if found:
            return found
    if last:
        raise last
    return None


def by_path():
    return first(x_sockets(), look)


def by_abstract_name():
    return first(abstract_x_sockets(), look)


def knock():
    """Anybody who answers at an abstract X socket: its cookie would be all that is left."""
    return first(abstract_x_sockets(), hear)


def cookie():
    return " ".join(found.hex() for found in cookies())


def greet(path):
    """The name of the desktop behind an RFB socket that asks for no password."""
    with connect(path) as link:
        link.sendall(exactly(link, 12))
        kinds = exactly(link, exactly(link, 1)[0])
        if 1 not in kinds:
            raise PermissionError(f"wants {kinds!r}")
        link.sendall(b"\1")
        exactly(link, 4)
        link.sendall(b"\1")
        head = exactly(link, 24)
        return b"desktop " + exactly(link, struct.unpack_from(">I", head, 20)[0])


def rfb():
    return first(views("/run/display/vnc.sock", f"{STATE}/display/vnc.sock"), greet)


def own_rfb():
    """The gate around one's own desktop is a gate only if nobody walks around it."""
    mine = [f"/proc/{pid}/root/run/display/vnc.sock" for pid in [int(KNOWN["A_DISPLAY_PID"]), *pids()]]
    own = KNOWN["A_S"]
    paths = ["/run/display/vnc.sock", f"{own}/display/vnc.sock", "/tmp/vnc.sock", "/run/session/vnc.sock"]
    return first(paths + mine, greet)


def bus():
    def names(path):
        found = re.search(rb"secret\.s([0-9a-f]{32})", Bus(path).call("ListNames"))
        return b"secret-" + found.group(1) if found else None

    return first(views("/run/session/bus", f"{STATE}/run/bus"), names)


def task():
    """Whoever reaches the guest's socket tells how the victim's task ended."""

    def peer(path):
        pid, _, _ = struct.unpack("3i", connect(path).getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"guest of pid={pid}"

    return first(views("/run/session/guest.sock", f"{STATE}/run/guest.sock"), peer)


def own_sockets():
    """A socket with an open mode in the victim's directories."""

    def say(path):
        with connect(path) as link:
            return secret_in(link.recv(4096))

    tag = KNOWN["TAG"]
    return first(
        views(f"/tmp/{tag}.sock", f"{STATE}/tmp/{tag}.sock") + views(f"/run/session/{tag}.sock", f"{STATE}/run/{tag}.sock"), say
    )


attempt(*{
    "x": [by_path, by_abstract_name],
    "abstract": [knock],
    "cookie": [cookie],
    "rfb": [rfb],
    "own-rfb": [own_rfb],
    "bus": [bus],
    "task": [task],
    "sockets": [own_sockets],
}[sys.argv[1]])
