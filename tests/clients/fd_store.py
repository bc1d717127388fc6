"""A service manager as far as a restart needs one: it receives descriptors (FDSTORE=1), keeps them while
the service is down, and passes them to the next start (LISTEN_FDS).

Usage: fd_store.py NOTIFY_SOCKET COMMAND...

Reads orders, one a line: start, kill SIGNAL, list, end. Prints what happens, one line each.
"""

import os
import signal
import socket
import subprocess
import sys
import threading

MOST = 64


class Store:
    def __init__(self):
        self.held = []
        self.lock = threading.Lock()

    def take(self, message, descriptors):
        lines = message.decode().splitlines()
        name = next((line[7:] for line in lines if line.startswith("FDNAME=")), "stored")
        with self.lock:
            if "FDSTORE=1" in lines:
                for descriptor in descriptors:
                    self.add(name, descriptor)
            if "FDSTOREREMOVE=1" in lines:
                for _, descriptor in [one for one in self.held if one[0] == name]:
                    os.close(descriptor)
                self.held = [one for one in self.held if one[0] != name]
                print(f"removed {name}", flush=True)

    def add(self, name, descriptor):
        inode = os.fstat(descriptor).st_ino
        # As systemd: the same socket is kept once.
        if any(os.fstat(held).st_ino == inode for _, held in self.held):
            os.close(descriptor)
            return
        owner = os.fstat(descriptor).st_uid
        self.held.append((name, descriptor))
        print(f"stored {name} of uid {owner}", flush=True)


def receive(notify, store):
    while True:
        message, descriptors, _, _ = socket.recv_fds(notify, 64 * 1024, MOST)
        store.take(message, descriptors)
        for line in message.decode().splitlines():
            if line in ("READY=1", "STOPPING=1"):
                print(line, flush=True)


def start(command, path, store):
    with store.lock:
        names = [name for name, _ in store.held]
        held = [descriptor for _, descriptor in store.held]
    # Above those that the service gets, so that none is overwritten.
    high = [os.dup2(descriptor, 100 + at, inheritable=True) for at, descriptor in enumerate(held)]
    environment = dict(os.environ, NOTIFY_SOCKET=path)
    moves = "".join(f"exec {3 + at}<&{number} {number}<&-; " for at, number in enumerate(high))
    if held:
        environment |= {"LISTEN_FDS": str(len(held)), "LISTEN_FDNAMES": ":".join(names)}
    script = f"{moves}LISTEN_PID=$$ exec \"$@\""
    child = subprocess.Popen(
        ["bash", "-c", script, "bash", *command], env=environment, pass_fds=high, stdin=subprocess.DEVNULL
    )
    for number in high:
        os.close(number)
    print(f"started {child.pid} with {len(held)}", flush=True)
    return child


def main(path, *command):
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(path)
    store = Store()
    threading.Thread(target=receive, args=(notify, store), daemon=True).start()
    child = None
    for order in sys.stdin:
        match order.split():
            case ["start"]:
                child = start(command, path, store)
            case ["kill", name]:
                child.send_signal(signal.Signals[name])
                print(f"ended {child.wait()}", flush=True)
            case ["list"]:
                with store.lock:
                    print("held " + " ".join(sorted(name for name, _ in store.held)), flush=True)
            case _:
                break
    if child and child.poll() is None:
        child.kill()
        child.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
