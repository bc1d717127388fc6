"""PyKX, without a licence, against an endpoint of hopend."""

import time

import numpy
import pykx as kx
import steps
from steps import same


def connect():
    return kx.SyncQConnection(
        steps.HOST,
        steps.PORT,
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
        "unix": unix,
    }
)
