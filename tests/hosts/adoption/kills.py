"""Kills agentd with SIGKILL, again and again, at random moments. Prints one JSON object with what it saw.

    kills.py SESSIONS KILLS SEED

A kill is followed either by the next one at any moment, also while agentd takes its sessions over, or by waiting until
it has taken over all of them, which is measured: from the kill to the last "session adopted" in the journal.
"""

import json
import queue
import random
import subprocess
import sys
import threading
import time

sessions, kills, seed = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
heard = queue.Queue()

journal = subprocess.Popen(
    ["journalctl", "-f", "-n", "0", "-u", "agentd", "-o", "json"], stdout=subprocess.PIPE, text=True
)


def listen():
    for line in journal.stdout:
        entry = json.loads(line)
        if entry.get("MESSAGE") == "session adopted":
            moment = int(entry.get("_SOURCE_MONOTONIC_TIMESTAMP", entry["__MONOTONIC_TIMESTAMP"])) / 1e6
            heard.put((int(entry["_PID"]), entry["HELIX_SESSION"], moment))


threading.Thread(target=listen, daemon=True).start()


def main_pid():
    shown = subprocess.run(["systemctl", "show", "--value", "-p", "MainPID", "agentd"], capture_output=True, text=True)
    return int(shown.stdout or 0)


def kill(pid):
    try:
        import os

        os.kill(pid, 9)
        return time.monotonic()
    except ProcessLookupError:
        return None


def living():
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pid = main_pid()
        if pid:
            return pid
        time.sleep(0.005)
    sys.exit("agentd was not started again")


times, done, in_a_row = [], 0, 0
while done < kills:
    killed = kill(living())
    if killed is None:
        continue
    done += 1
    if done < kills and in_a_row < 5 and chance.random() < 0.4:
        # The next one strikes while agentd starts or takes over.
        in_a_row += 1
        time.sleep(chance.random() * 0.3)
        continue
    in_a_row = 0
    adopted, by, last = {}, None, None
    deadline = time.monotonic() + 30
    while len(adopted) < sessions:
        try:
            pid, session, moment = heard.get(timeout=max(0.01, deadline - time.monotonic()))
        except queue.Empty:
            sys.exit(f"after kill {done}: taken over {sorted(adopted)}, expected {sessions}")
        if moment < killed:
            continue
        if pid != by:
            by, adopted = pid, {}
        adopted[session] = moment
        last = max(moment, last or moment)
    times.append(last - killed)
    time.sleep(chance.random() * 0.2)

journal.terminate()
times.sort()
print(json.dumps({
    "kills": done,
    "measured": len(times),
    "p50_ms": round(times[len(times) // 2] * 1000),
    "p99_ms": round(times[int(len(times) * 0.99)] * 1000),
    "max_ms": round(times[-1] * 1000),
}))
