"""PyKX, without a licence, against an endpoint of hopend."""

import time

import numpy
import pykx as kx
import steps
from steps import same


def connect(port=steps.PORT):
    return kx.SyncQConnection(
        steps.HOST,
        port,
        username=steps.USER,
        password=steps.PASSWORD,
        no_ctx=True,
    )


def asks():
    q = connect()
    same(q(".z.u").py(), steps.KX_USER)
    same(q("1+1").py(), 2)
    q("a:41", wait=False)
    same(q("a+1").py(), 42)
    same(q("til 10").py(), list(range(10)))
    table = q("trades").pd()
    same(list(table.columns), ["time", "sym", "price", "size"])
    for name, expected in steps.TRADES.items():
        same(list(table[name]), expected)
    same([steps.since_2000(time) for time in table["time"]], steps.TIMES)
    try:
        q("'mine")
        raise AssertionError("no error of q's")
    except kx.QError as error:
        same(str(error), "mine")


def large():
    q = connect()
    got = q(f"{steps.LARGE}#0x01")
    assert got.np().tobytes() == b"\x01" * steps.LARGE
    put = numpy.full(steps.LARGE, 2, dtype=numpy.uint8)
    same(q("{count x}", put).py(), steps.LARGE)


def wrong_password():
    try:
        connect()
        raise AssertionError("let in")
    except kx.PyKXException as error:
        # A broken connection is "Connection error".
        same(str(error), "Authentication error")


def killed():
    q = connect()
    print("waiting")
    started = time.monotonic()
    try:
        q(steps.SLEEP)
        raise AssertionError("answered")
    except kx.QError as error:
        assert steps.LOST in str(error), error
    steps.soon(started)


def unreachable():
    error = steps.fails(connect)
    assert isinstance(error, kx.PyKXException), repr(error)
    same(str(error), "Connection error")


def torn():
    q = connect()
    print("waiting")
    started = time.monotonic()
    error = steps.fails(lambda: q(steps.SLEEP))
    assert isinstance(error, ConnectionResetError), repr(error)
    steps.soon(started)


def compressed():
    q = connect()
    assert q("200000#0x07").np().tobytes() == b"\x07" * 200_000
    same(q("1+1").py(), 2)


def idle():
    q = connect()
    steps.idle()
    q('system"sleep 2"')
    same(q("1+1").py(), 2)


def console():
    here, there = connect(steps.CONSOLE), connect()
    for request in [steps.CLUSTERS, steps.NODES]:
        mine, theirs = here(request), there(request)
        assert isinstance(mine, kx.Table), type(mine)
        mine, theirs = mine.pd(), theirs.pd()
        same(list(mine.columns), list(theirs.columns))
        same(list(mine.dtypes), list(theirs.dtypes))
        same([type(cell) for cell in mine.iloc[0]], [type(cell) for cell in theirs.iloc[0]])
    clusters = here(steps.CLUSTERS).pd()
    same(list(clusters.columns), steps.CLUSTER_COLUMNS)
    same([name.decode() for name in clusters["cluster_name"]], steps.CLUSTER_NAMES)
    same([status.decode() for status in clusters["status"]], ["RUNNING"] * 3)
    # The function's name and its argument, each a value of its own.
    nodes = here(".aws.list_kx_cluster_nodes", b"hdb-cluster").pd()
    same(list(nodes.columns), steps.NODE_COLUMNS)
    same([node.decode() for node in nodes["node_id"]], steps.NODE_IDS)
    same(str(nodes["launch_time"].dtype), "datetime64[ns]")

    same(connect(steps.port_of(here(steps.STRING).py().decode()))("1+1").py(), 2)
    sessions = here("sessions").pd()
    same(sorted(set(sessions["endpoint"])), ["console", "hdb"])
    same(str(sessions["since"].dtype), "datetime64[ns]")
    same(str(sessions["idle"].dtype), "timedelta64[ns]")
    same(str(sessions["bytes_up"].dtype), "int64")
    try:
        here("select from sessions")
        raise AssertionError("evaluated")
    except kx.QError as error:
        assert "a console evaluates no q" in str(error), error


def unix():
    q = kx.SyncQConnection(port=steps.PORT, unix=True, no_ctx=True)
    same(q(".z.u").py(), steps.KX_USER)


steps.run(
    {
        "asks": asks,
        "large": large,
        "wrong-password": wrong_password,
        "killed": killed,
        "unreachable": unreachable,
        "torn": torn,
        "compressed": compressed,
        "idle": idle,
        "console": console,
        "unix": unix,
    }
)
