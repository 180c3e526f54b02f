"""Attacks on agentd and on the machine's services: files, tokens, D-Bus, systemd, the journal, the notify socket."""

import os
import re
import socket
import struct
import subprocess
import sys

from common import KNOWN, attempt, pids, read

STATE, TAG, TARGET = KNOWN["STATE"], KNOWN["TAG"], KNOWN["TARGET_UNIT"]


def roots():
    return [""] + [f"/proc/{pid}/root" for pid in (1, *pids())]


def anywhere(*paths):
    """Contents of files and names in directories, each under every root that there is."""
    last, found = None, []
    for root in roots():
        for path in paths:
            try:
                if os.path.isdir(root + path):
                    found += [f"{root}{path}/{name}" for name in os.listdir(root + path)]
                else:
                    found.append(f"{root}{path}: {read(root + path)!r}")
            except OSError as fault:
                last = fault
    if found:
        return "\n".join(found)
    raise last


def environments():
    """Environments of the victim's units, where its secrets would be."""
    return anywhere(*(f"{KNOWN['V_S']}/env/{word}" for word in ("app", "display", "workspace")))


def state():
    return anywhere(f"{STATE}/token", f"{STATE}/ledger", f"{STATE}/s", KNOWN["V_S"])


def settings():
    return anywhere("/etc/helix/agentd.toml", "/etc/helix/enrolment.token", "/etc/helix")


def plant():
    """A file where agentd would read it."""
    for root in roots():
        for path in (f"{STATE}/ledger/{TAG}", f"{STATE}/s/{TAG}", f"{KNOWN['V_S']}/ready/guest", f"/etc/helix/kinds.d/{TAG}"):
            try:
                with open(root + path, "a") as file:
                    file.write("")
                os.unlink(root + path) if path.endswith(TAG) else None
                return f"{root}{path} can be written"
            except OSError:
                continue
    return None


def agentd_secrets():
    """What agentd itself was started with."""
    pid = KNOWN["AGENTD_PID"]
    names = " ".join(os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd"))
    return f"{read(f'/proc/{pid}/environ')!r} {names}"


def credentials_of_the_bus():
    """Anything in this session that looks like a token or an address of NATS."""
    pattern = re.compile(rb"nats://\S+|hx[a-z]?_[A-Za-z0-9_-]{20,}|RUNNER_TOKEN=\S+|API_TOKEN=\S+|NATS_[A-Z]+=\S+")
    found = set(pattern.findall(b"\0".join(f"{k}={v}".encode() for k, v in os.environ.items() if k not in LENT)))
    for pid in pids():
        for name in ("environ", "cmdline"):
            try:
                found |= set(pattern.findall(read(f"/proc/{pid}/{name}")))
            except OSError:
                continue
    for top in ("/etc/helix", STATE, "/run/session", "/home/agent"):
        for path, _, names in os.walk(top):
            for name in names:
                try:
                    found |= set(pattern.findall(read(os.path.join(path, name))))
                    if "token" in name:
                        found.add(f"{path}/{name}".encode() + b": " + read(os.path.join(path, name)))
                except OSError:
                    continue
    return b"\n".join(found)


# What the test itself has put into the environment.
LENT = {"STATE", "V_S", "A_S"}


def buses():
    return [
        f"unix:path={root}{path}"
        for root in roots()
        for path in ("/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", "/run/systemd/private")
    ] + ["unix:abstract=/run/dbus/system_bus_socket"]


def manager(*words):
    last = "no bus is seen"
    for address in buses():
        path = address.partition("unix:path=")[2]
        if path and not os.path.exists(path):
            continue
        # systemd's private socket has no bus behind it, so no name to call.
        name = [] if path.endswith("private") else ["org.freedesktop.systemd1"]
        command = ["busctl", "--timeout=3", f"--address={address}", "call", "--"]
        command += [*(name or [""]), "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", *words]
        done = subprocess.run(command, capture_output=True, timeout=5)
        if done.returncode == 0:
            return done.stdout[:4000]
        last = done.stderr.decode()
    raise PermissionError(last)


def list_units():
    return manager("ListUnitsByPatterns", "asas", "0", "1", "helix-s*")


def systemctl_show():
    done = subprocess.run(["systemctl", "show", f"helix-s{KNOWN['V_KEY']}-app.service"], capture_output=True, timeout=5)
    return done.stdout if b"EnvironmentFiles=/" in done.stdout else None


def stop_unit():
    return manager("StopUnit", "ss", TARGET, "replace")


def start_unit():
    return manager(
        "StartTransientUnit", "ssa(sv)a(sa(sv))", f"{TAG}.service", "replace", "1",
        "ExecStart", "a(sasb)", "1", "/bin/sh", "3", "/bin/sh", "-c", f"touch /run/{TAG}-root", "false", "0",
    )


def set_property():
    return manager("SetUnitProperties", "sba(sv)", TARGET, "true", "1", "TasksMax", "t", "7")


def systemctl_stop():
    done = subprocess.run(["systemctl", "stop", TARGET], capture_output=True, timeout=10)
    return "systemctl stop" if done.returncode == 0 else None


def forge_log():
    """A line in another session's log: to the journal with its fields, to syslog, to the kernel."""
    text = f"forged by {TAG}"
    native = "\n".join([
        f"MESSAGE={text}", "PRIORITY=3", f"HELIX_SESSION={KNOWN['V_ID']}", f"HELIX_RUNNER={KNOWN['RUNNER']}",
        "SYSLOG_IDENTIFIER=app", f"_SYSTEMD_UNIT=helix-s{KNOWN['V_KEY']}-app.service",
        f"UNIT=helix-s{KNOWN['V_KEY']}-app.service", f"OBJECT_PID={KNOWN['V_PID']}", "",
    ]).encode()
    sent = []
    for root in roots():
        for path, data in (("/run/systemd/journal/socket", native), ("/dev/log", f"<3>app: {text}".encode()),
                           ("/run/systemd/journal/dev-log", f"<3>app: {text}".encode())):
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
                    link.sendto(data, root + path)
                sent.append(root + path)
            except OSError:
                continue
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(f"{root}/run/systemd/journal/stdout")
                unit = f"helix-s{KNOWN['V_KEY']}-app.service"
                link.sendall(f"app\n{unit}\n6\n0\n0\n0\n0\n{text}\n".encode())
            sent.append(f"{root}/run/systemd/journal/stdout")
        except OSError:
            continue
    return "\n".join(sent)


def read_log():
    found = subprocess.run(["journalctl", "-q", "-n", "20", "--no-pager"], capture_output=True, timeout=10).stdout
    return found or None


def notify():
    """To systemd in agentd's name."""
    data = f"STATUS=owned by {TAG}\nREADY=1\nWATCHDOG_USEC=999999999".encode()
    sent = []
    for root in roots():
        for pid in (int(KNOWN["AGENTD_PID"]), os.getpid()):
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
                    link.connect(root + "/run/systemd/notify")
                    creds = struct.pack("3i", pid, os.getuid(), os.getgid())
                    link.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, creds)])
                sent.append(f"{root}/run/systemd/notify as {pid}")
            except OSError:
                continue
    return "\n".join(sent)


attempt(*{
    "environments": [environments],
    "state": [state],
    "settings": [settings],
    "plant": [plant],
    "agentd": [agentd_secrets],
    "bus-credentials": [credentials_of_the_bus],
    "units": [list_units, systemctl_show],
    "stop-unit": [stop_unit, systemctl_stop],
    "start-unit": [start_unit, set_property],
    "forge-log": [forge_log],
    "read-log": [read_log],
    "notify": [notify],
}[sys.argv[1]])
