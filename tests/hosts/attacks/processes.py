"""Attacks on the victim's processes: /proc, ptrace, signals, control groups, and the machine's patience."""

import ctypes
import os
import signal
import sys
import time

from common import KNOWN, attempt, checked, libc, pids, read, secret_in

VICTIM = int(KNOWN["V_PID"])


def every(work):
    """What work brings from every process."""
    last, found = None, []
    for pid in pids():
        try:
            found.append(work(pid))
        except OSError as fault:
            last = last or fault
    if last and not any(found):
        raise last
    return b" ".join(filter(None, found))


def environment():
    return every(lambda pid: secret_in(read(f"/proc/{pid}/environ")))


def command_line():
    return every(lambda pid: secret_in(read(f"/proc/{pid}/cmdline")))


def files_of_processes():
    def look(pid):
        for name in ("cwd", "root"):
            for below in ("", "/home/workspace", "/home/agent", "/tmp"):
                try:
                    found = secret_in(read(f"/proc/{pid}/{name}{below}/{KNOWN['TAG']}"))
                except OSError:
                    continue
                if found:
                    return found
        for number in os.listdir(f"/proc/{pid}/fd"):
            os.stat(f"/proc/{pid}/fd/{number}")
        return None

    return every(look)


def memory_file():
    with open(f"/proc/{VICTIM}/mem", "rb", 0) as file:
        file.seek(int(KNOWN["V_ADDRESS"]))
        return secret_in(file.read(64))


def read_memory():
    class Area(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    here = ctypes.create_string_buffer(64)
    mine, its = Area(ctypes.addressof(here), 64), Area(int(KNOWN["V_ADDRESS"]), 64)
    checked(libc.process_vm_readv(VICTIM, ctypes.byref(mine), 1, ctypes.byref(its), 1, 0))
    return secret_in(here.raw)


def trace():
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    checked(libc.ptrace(16, VICTIM, None, None))
    os.waitpid(VICTIM, 0x40000000)
    words = b""
    for offset in range(0, 64, 8):
        word = libc.ptrace(2, VICTIM, int(KNOWN["V_ADDRESS"]) + offset, None)
        words += (word & (1 << 64) - 1).to_bytes(8, "little")
    libc.ptrace(17, VICTIM, None, None)
    return secret_in(words)


def seize():
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    checked(libc.ptrace(0x4206, VICTIM, None, None))
    return "seized"


def take_descriptor():
    """A file that the victim has open, by pidfd_getfd."""
    handle = os.pidfd_open(VICTIM)
    return f"descriptor {checked(libc.syscall(438, handle, 0, 0))}"


def kill_it(pid, numbers):
    """True if any of the ways is let through."""
    ways = [lambda n: os.kill(pid, n), lambda n: signal.pidfd_send_signal(os.pidfd_open(pid), n)]
    ways.append(lambda n: checked(libc.syscall(234, pid, pid, n)))
    last = None
    for number in numbers:
        for way in ways:
            try:
                way(number)
                return f"signal {number} to {pid}"
            except OSError as fault:
                last = fault
    raise last


def kill_victim():
    return kill_it(int(KNOWN["V_TARGET"]), [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT, 0])


def kill_everybody():
    """kill(-1) reaches everything that this user may signal: it must be nobody else's."""
    if os.fork() == 0:
        os.setsid()
        os.kill(-1, signal.SIGURG)
        os._exit(0)
    os.wait()
    return None


def slow_down():
    os.setpriority(os.PRIO_PROCESS, int(KNOWN["V_TARGET"]), 19)
    return f"priority of {KNOWN['V_TARGET']}"


def limit_it():
    import resource

    resource.prlimit(int(KNOWN["V_TARGET"]), resource.RLIMIT_NOFILE, (3, 3))
    return f"limits of {KNOWN['V_TARGET']}"


def signal_agentd():
    # In the control it must live: SIGCONT says as much as SIGKILL.
    return kill_it(int(KNOWN["AGENTD_PID"]), [signal.SIGCONT, 0])


def signal_systemd():
    return kill_it(1, [0])


def groups():
    """Directories of the victim's control groups, wherever hierarchies are mounted."""
    tops = {"/sys/fs/cgroup"} | {f"/proc/{pid}/root/sys/fs/cgroup" for pid in (1, VICTIM)}
    with open("/proc/self/mountinfo") as file:
        tops |= {line.split()[4] for line in file if " - cgroup" in line}
    found = []
    for top in tops:
        for path, names, _ in os.walk(top):
            if f"helix-s{KNOWN['V_KEY']}" in os.path.basename(path):
                found.append(path)
            if path.count("/") > 10:
                names.clear()
    return found


def list_groups():
    found = [f"{path}: {read(path + '/cgroup.procs')!r}" for path in groups()]
    return "\n".join(found)


def join_group():
    for path in groups():
        with open(f"{path}/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))
        return f"{path} has {os.getpid()}"
    return None


def lift_limits():
    """One's own limits, through a hierarchy mounted anew."""
    for path in groups():
        for name, value in (("pids.max", "max"), ("memory.limit_in_bytes", "-1"), ("memory.max", "max")):
            if os.path.exists(f"{path}/{name}"):
                with open(f"{path}/{name}", "w") as file:
                    file.write(value)
                return f"{path}/{name} is {value}"
    return None


def mount_groups():
    where = f"/tmp/{KNOWN['TAG']}-groups"
    os.makedirs(where, exist_ok=True)
    for kind, options in (("cgroup2", b""), ("cgroup", b"pids"), ("cgroup", b"memory")):
        if libc.mount(b"none", where.encode(), kind.encode(), 0, options) == 0:
            try:
                names = [path for path, _, _ in os.walk(where) if KNOWN["V_KEY"] in path]
            finally:
                libc.umount2(where.encode(), 2)
            if names:
                return names[0]
    checked(-1)


def multiply():
    """More processes than a session may have."""
    wanted, children = int(KNOWN["MANY"]), []
    try:
        for _ in range(wanted):
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
    return f"{wanted} processes at once"


def devour():
    """More memory than a session may have: in a file system in memory, where no process is to blame."""
    wanted, done = int(KNOWN["MUCH"]), 0
    path = f"/dev/shm/{KNOWN['TAG']}-much"
    block = b"x" * (1 << 20)
    child = os.fork()
    if child == 0:
        with open(path, "wb") as file:
            for _ in range(wanted >> 20):
                file.write(block)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    done = os.path.getsize(path)
    os.unlink(path)
    return f"{done} bytes of memory" if status == 0 and done >= wanted else None


if __name__ == "__main__":
    time.sleep(0)
    attempt(*{
        "environ": [environment],
        "cmdline": [command_line],
        "files": [files_of_processes],
        "ptrace": [trace, read_memory, memory_file, seize, take_descriptor],
        "signal": [kill_everybody, kill_victim],
        "adjust": [slow_down, limit_it],
        "signal-agentd": [signal_agentd, signal_systemd],
        "list-groups": [list_groups, mount_groups],
        "join-group": [join_group, lift_limits],
        "multiply": [multiply],
        "devour": [devour],
    }[sys.argv[1]])
