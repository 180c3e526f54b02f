"""Runs in a session's agent: does what the test asks for over a socket in the session's own /tmp.

One JSON object per connection: {"argv", "env", "within"}; answered by {"code", "out", "err"}. What it starts is in the
session's app unit, and stays there.
"""

import json
import os
import socket
import subprocess
import threading

PATH = "/tmp/stage.sock"
MOST = 1 << 16


def serve(link):
    with link, link.makefile("rb") as lines:
        job = json.loads(lines.readline())
        try:
            done = subprocess.run(
                job["argv"], env={**os.environ, **job["env"]}, stdin=subprocess.DEVNULL, capture_output=True,
                timeout=job["within"],
            )
            answer = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
        except subprocess.TimeoutExpired as late:
            answer = {"code": 124, "out": late.stdout or b"", "err": (late.stderr or b"") + b"not in time"}
        except OSError as fault:
            answer = {"code": 126, "out": b"", "err": str(fault).encode()}
        for name in ("out", "err"):
            answer[name] = answer[name][-MOST:].decode(errors="replace")
        link.sendall(json.dumps(answer).encode() + b"\n")


if os.path.exists(PATH):
    os.unlink(PATH)
with socket.socket(socket.AF_UNIX) as door:
    door.bind(PATH)
    door.listen(8)
    print("the stage is open", flush=True)
    while True:
        threading.Thread(target=serve, args=(door.accept()[0],), daemon=True).start()
