"""Asks q for longs on and on, more of them and fewer: at_work.py PORT USER PASSWORD MOST PHASE.

Needs nothing but Python, so that any account can run it.
"""

import math
import socket
import struct
import sys
import time

port, user, password, most, phase = sys.argv[1:]
handle = socket.create_connection(("127.0.0.1", int(port)))
handle.sendall(f"{user}:{password}\3\0".encode())
if handle.recv(1) == b"":
    sys.exit("no login")
print("open", flush=True)


def exactly(count):
    data = bytearray()
    while len(data) < count:
        more = handle.recv(count - len(data))
        if not more:
            sys.exit("closed")
        data += more
    return data


while True:
    now = time.monotonic() + float(phase)
    share = 0.55 + 0.3 * math.sin(now * 0.9) + 0.15 * math.sin(now * 4.1)
    text = f"til {round(int(most) * share)}".encode()
    handle.sendall(struct.pack("<BBHIbBI", 1, 1, 0, 14 + len(text), 10, 0, len(text)) + text)
    (length,) = struct.unpack("<I", exactly(8)[4:])
    exactly(length - 8)
    time.sleep(0.02)
