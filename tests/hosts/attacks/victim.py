"""The victim: leaves one secret wherever sessions keep theirs, as openly as a careless program does.

Everything is readable by whoever gets at it (modes 0666 and 0777), so that only the session's walls protect it. Prints
one line `name=value` per thing that an attacker may know, and `up=` with the places where the secret is; then stays in
the background. Some places cannot be used under protection (a keyring): the test says where that is allowed.
"""

import ctypes
import os
import signal
import socket
import sys
import threading

from common import KNOWN, X, Bus, checked, libc, sysv_key

SECRET = KNOWN["SECRET"].encode()
TAG = KNOWN["TAG"]
up, told = [], {}
kept = []


def place(name):
    def wrap(make):
        try:
            make()
            up.append(name)
        except Exception as fault:
            print(f"{name}: {type(fault).__name__}: {fault}", file=sys.stderr)
        return make

    return wrap


def write(path):
    with open(path, "wb") as file:
        file.write(SECRET)
    os.chmod(path, 0o666)


def listen(family, address):
    door = socket.socket(family)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind(address)
    door.listen(8)
    if isinstance(address, str) and address.startswith("/"):
        os.chmod(address, 0o777)
    kept.append(door)

    def serve():
        while True:
            link, _ = door.accept()
            with link:
                link.sendall(SECRET)

    threading.Thread(target=serve, daemon=True).start()


def sleep(name):
    """A process that does nothing, under some name."""
    pid = os.fork()
    if pid == 0:
        silent()
        os.execv("/bin/sleep", [name, "900"])
    return pid


def silent():
    """Nobody waits for output of ours."""
    for stream in (0, 1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), stream)


def main(ready):
    os.umask(0)

    @place("files")
    def _():
        os.makedirs("/tmp/open", exist_ok=True)
        for path in ("/tmp", "/var/tmp", "/home/agent", "/home/workspace"):
            write(f"{path}/{TAG}")
        os.chdir("/home/workspace")

    @place("shm")
    def _():
        write(f"/dev/shm/{TAG}")

    @place("sysv")
    def _():
        shm = checked(libc.shmget(sysv_key(), 4096, 0o1666))
        libc.shmat.restype = ctypes.c_void_p
        ctypes.memmove(checked(libc.shmat(shm, None, 0)), SECRET, len(SECRET))
        queue = checked(libc.msgget(sysv_key(), 0o1666))
        message = ctypes.create_string_buffer(b"\1\0\0\0\0\0\0\0" + SECRET)
        for _ in range(4):
            checked(libc.msgsnd(queue, message, len(SECRET), 0o4000))

    @place("mqueue")
    def _():
        queue = checked(libc.mq_open(f"/{TAG}".encode(), os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o666, (ctypes.c_long * 8)(0, 4, 64)))
        for _ in range(4):
            checked(libc.mq_send(queue, SECRET, len(SECRET), 0))

    @place("memory")
    def _():
        kept.append(ctypes.create_string_buffer(SECRET))
        told["V_ADDRESS"] = ctypes.addressof(kept[-1])

    @place("argv")
    def _():
        sleep(KNOWN["SECRET"])

    @place("target")
    def _():
        told["V_TARGET"] = sleep("sleep")

    @place("abstract")
    def _():
        listen(socket.AF_UNIX, f"\0{TAG}")

    @place("abstract x")
    def _():
        # As displays listen that are not told otherwise.
        if KNOWN["VICTIM"] == "exposed":
            listen(socket.AF_UNIX, "\0/tmp/.X11-unix/X77")

    @place("sockets")
    def _():
        for path in (f"/tmp/{TAG}.sock", f"/run/session/{TAG}.sock"):
            if os.path.exists(path):
                os.unlink(path)
            listen(socket.AF_UNIX, path)

    @place("loopback")
    def _():
        listen(socket.AF_INET, ("127.0.0.1", int(KNOWN["PORT"])))

    @place("keyring")
    def _():
        key = checked(libc.syscall(248, b"user", TAG.encode(), SECRET, len(SECRET), -3))
        checked(libc.syscall(250, 5, key, 0x3F3F3F3F))
        told["V_KEY_SERIAL"] = key

    @place("x")
    def _():
        with open("/run/session/Xauthority", "rb") as file:
            cookie = file.read()[-16:]
        kept.append(X("/tmp/.X11-unix/X0", cookie))
        kept[-1].leave(SECRET)

    @place("bus")
    def _():
        kept.append(Bus("/run/session/bus"))
        name = ("helix." + KNOWN["SECRET"].replace("-", ".s")).encode()
        body = len(name).to_bytes(4, "little") + name + b"\0"
        kept[-1].call("RequestName", "su", body + b"\0" * (-len(body) % 4) + b"\0\0\0\0")

    told["V_PID"] = os.getpid()
    told["up"] = ",".join(up)
    os.write(ready, "".join(f"{name}={value}\n" for name, value in told.items()).encode())
    os.close(ready)
    silent()
    signal.pause()


hears, says = os.pipe()
if os.fork() == 0:
    os.close(hears)
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    main(says)
os.close(says)
with os.fdopen(hears) as ready:
    print(ready.read(), end="", flush=True)
