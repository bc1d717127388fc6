"""What the scripts of the q clients have in common: where to, as whom, and which step."""

import datetime
import os
import sys
import time

HOST = "127.0.0.1"
PORT = int(os.environ.get("HOPEND_PORT", "0"))
# The endpoint that hopend answers itself.
CONSOLE = int(os.environ.get("HOPEND_CONSOLE_PORT", "0"))
USER = os.environ.get("HOPEND_USER", "")
PASSWORD = os.environ.get("HOPEND_PASSWORD", "")
# What a node must know the user as.
KX_USER = os.environ.get("HOPEND_KX_USER", "")

LARGE = 100_000_000
LOST = "hopend: the cluster closed the connection with a request outstanding"
SLEEP = 'system"sleep 30"'

CLUSTERS = ".aws.list_kx_clusters[]"
NODES = '.aws.list_kx_cluster_nodes["hdb-cluster"]'
STRING = '.aws.get_kx_connection_string["hdb-cluster"]'
CLUSTER_COLUMNS = ["cluster_name", "status", "cluster_type", "description"]
NODE_COLUMNS = ["node_id", "az_id", "launch_time"]
CLUSTER_NAMES = ["gateway-cluster", "hdb-cluster", "rdb-cluster"]
NODE_IDS = ["sim-hdb-node-1", "sim-hdb-node-2", "sim-hdb-node-3"]

TRADES = {
    "sym": ["AAPL", "MSFT", "AAPL", "GOOG", "MSFT"],
    "price": [189.5, 411.25, 189.75, 141.0, 411.5],
    "size": [100, 200, 50, 75, 300],
}
# Nanoseconds since 2000.
TIMES = [776_000_000_000_000_000 + n * 60_000_000_000 for n in range(5)]


def port_of(string):
    """The port of a connection string of a local endpoint, which is all that hopen needs."""
    empty, host, port = string.split(":")
    same((empty, host), ("", HOST))
    return int(port)


def fails(action):
    """The error that it fails with."""
    try:
        value = action()
    except BaseException as error:  # a panic in a Rust client is no Exception
        return error
    raise AssertionError(f"no error, but {value!r:.200}")


def idle():
    """Says nothing for longer than the idle limit: time itself is what this is about."""
    time.sleep(2)


def since_2000(time):
    """Nanoseconds, of a datetime."""
    seconds = (time - datetime.datetime(2000, 1, 1)).total_seconds()
    return round(seconds) * 1_000_000_000


def same(found, expected):
    """Fails with both when they differ."""
    assert found == expected, f"{found!r:.200} where {expected!r:.200} is expected"


def soon(started):
    """Fails when a loss took as long as the sleep that it cut short."""
    took = time.monotonic() - started
    assert took < 10, f"noticed after {took:.1f} s"


def run(steps):
    """Runs the step that the command line names."""
    started = time.monotonic()
    steps[sys.argv[1]]()
    print(f"{sys.argv[1]}: {time.monotonic() - started:.2f} s")
