"""In a hostile session: leaves in its own directories what a careless root would trip over, and keeps moving it.

Links lead to the bait (the test's), to the victim and to agentd. plant.py BAIT: what the control run follows leads to
the bait alone, from `bait` in the workspace; everything else is in `rest`, and in place of what agentd knows.
"""

import os
import signal
import socket
import sys

from common import KNOWN, libc

BAIT = sys.argv[1]
TARGETS = [
    BAIT, f"{BAIT}/dir", f"{BAIT}/file", KNOWN["V_S"], f"{KNOWN['V_S']}/home", f"{KNOWN['V_S']}/tmp/.X11-unix",
    KNOWN["V_WORKSPACE"], KNOWN["STATE"], f"{KNOWN['STATE']}/token", "/etc/passwd", "/proc/1/root", "../../../../..",
]
PLACES = ["/home/agent", "/tmp", "/run/session", "/home/workspace"]


def quietly(work, *words):
    try:
        work(*words)
    except OSError as fault:
        print(f"{work.__name__}{words}: {fault}", file=sys.stderr)


def instead(path, target):
    """A link in place of what agentd or its units made."""
    quietly(os.rename, path, f"{path}.was")
    quietly(os.symlink, target, path)


def exchange(one, other):
    libc.renameat2(-100, one.encode(), -100, other.encode(), 2)


def furnish(place):
    rest = f"{place}/rest"
    os.makedirs(rest, exist_ok=True)
    for number, target in enumerate(TARGETS):
        quietly(os.symlink, target, f"{rest}/link{number}")
        # Depth, so that a name is looked up again after the link was put in its parent's place.
        os.makedirs(f"{rest}/deep{number}/a/b", exist_ok=True)
        quietly(os.symlink, target, f"{rest}/deep{number}/a/b/c")
    for name in ("-rf", "--", "a\nb", "\udcff\udcfe", " ", "*", "x" * 255):
        quietly(os.mkdir, f"{rest}/{name}")
        quietly(os.symlink, BAIT, f"{rest}/{name}/to")
    quietly(os.mkfifo, f"{rest}/fifo")
    with socket.socket(socket.AF_UNIX) as door:
        quietly(door.bind, f"{rest}/socket")
    for number in range(50):
        with open(f"{rest}/file{number}", "w") as file:
            file.write("x")
        quietly(os.link, f"{rest}/file{number}", f"{rest}/hard{number}")
        os.chmod(f"{rest}/file{number}", 0)
    # Deeper than a path is long, and closed.
    here = os.open(rest, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d" * 20, dir_fd=here)
        there = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.symlink(BAIT, "to", dir_fd=here)
    os.mkdir(f"{rest}/closed")
    os.chmod(f"{rest}/closed", 0)


def race(place):
    """For ever: a directory with the name of the victim's file in it, and a link to where that file is."""
    os.makedirs(f"{place}/race/file", exist_ok=True)
    quietly(os.symlink, BAIT, f"{place}/race2")
    quietly(os.symlink, f"{BAIT}/file", f"{place}/race/other")
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for stream in (0, 1, 2):
            os.dup2(os.open("/dev/null", os.O_RDWR), stream)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.nice(10)
        while True:
            exchange(f"{place}/race", f"{place}/race2")


os.makedirs("/home/workspace/bait", exist_ok=True)
os.symlink(BAIT, "/home/workspace/bait/dir")
os.symlink(f"{BAIT}/file", "/home/workspace/bait/file")
for place in PLACES:
    furnish(place)
    race(place)
instead("/tmp/.X11-unix/X0", f"{KNOWN['V_S']}/tmp/.X11-unix/X0")
instead("/tmp/.X11-unix", f"{KNOWN['V_S']}/tmp/.X11-unix")
instead("/run/session/Xauthority", f"{BAIT}/file")
instead("/run/session/guest.sock", "/run/systemd/private")
instead("/run/session/bus", "/run/dbus/system_bus_socket")
for own in ("/home/agent", "/home/workspace", "/tmp", "/run/session"):
    # What is bound cannot be replaced; if it could, this would be it.
    quietly(os.rename, own, f"{own}.was")
print("planted")
