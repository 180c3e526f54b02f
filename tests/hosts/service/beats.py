"""Tells when a runner's heartbeats leave this host: seconds since 1970, one per line, by the kernel's clock.

    beats.py RUNNER SECONDS

The kernel stamps a packet when it hands it to the link, so however late this program runs itself, the times are right.
"""

import socket
import struct
import sys
import time

SO_TIMESTAMPNS = 35
ETH_P_ALL = 3
PACKET_OUTGOING = 4

subject = f"up.{sys.argv[1]}.heartbeat ".encode()
end = time.monotonic() + float(sys.argv[2])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
wire.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
wire.settimeout(0.5)
while time.monotonic() < end:
    try:
        packet, stamps, _, origin = wire.recvmsg(65536, 64)
    except TimeoutError:
        continue
    if origin[2] != PACKET_OUTGOING or subject not in packet:
        continue
    for level, kind, data in stamps:
        if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS):
            seconds, nanoseconds = struct.unpack("qq", data)
            print(f"{seconds}.{nanoseconds:09}", flush=True)
