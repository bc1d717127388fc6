"""kola against an endpoint of hopend."""

import os
import time

import kola
import polars
import steps
from steps import same


def connect(port=steps.PORT):
    q = kola.Q(steps.HOST, port, steps.USER, steps.PASSWORD)
    q.connect()
    return q


def asks():
    q = connect()
    same(q.sync(".z.u"), steps.KX_USER)
    same(q.sync("1+1"), 2)
    q.asyn("a:41")
    same(q.sync("a+1"), 42)
    same(list(q.sync("til 10")), list(range(10)))
    table = q.sync("trades")
    same(table.columns, ["time", "sym", "price", "size"])
    for name, expected in steps.TRADES.items():
        same(table[name].to_list(), expected)
    same([steps.since_2000(time) for time in table["time"].to_list()], steps.TIMES)
    try:
        q.sync("'mine")
        raise AssertionError("no error of q's")
    except kola.KolaError as error:
        assert '"mine"' in str(error), error


def asks_without_terminal():
    # Also where whoever runs the tests has one.
    def no_terminal():
        raise OSError(25, "Inappropriate ioctl for device")

    os.getlogin = no_terminal
    asks()


def large():
    q = connect()
    got = q.sync(f"{steps.LARGE}#0x01")
    same(len(got), steps.LARGE)
    same((got.min(), got.max()), (1, 1))
    put = b"\x02" * steps.LARGE
    same(q.sync("{count x}", put), steps.LARGE)


def wrong_password():
    try:
        connect()
        raise AssertionError("let in")
    except kola.KolaAuthError:
        # A broken connection is KolaIOError, which this is not.
        pass


def killed():
    q = connect()
    print("waiting")
    started = time.monotonic()
    try:
        q.sync(steps.SLEEP)
        raise AssertionError("answered")
    except kola.KolaError as error:
        assert steps.LOST in str(error), error
    steps.soon(started)


def unreachable():
    error = steps.fails(connect)
    assert isinstance(error, kola.KolaIOError), repr(error)


def torn():
    q = connect()
    print("waiting")
    started = time.monotonic()
    error = steps.fails(lambda: q.sync(steps.SLEEP))
    assert isinstance(error, kola.KolaIOError), repr(error)
    steps.soon(started)


def compressed():
    q = connect()
    assert q.sync("200000#0x07").to_numpy().tobytes() == b"\x07" * 200_000
    same(q.sync("1+1"), 2)


def idle():
    q = connect()
    steps.idle()
    q.sync('system"sleep 2"')
    same(q.sync("1+1"), 2)


def told():
    """What the cluster sends of its own accord."""
    q = connect()
    q.asyn('callback["news"]')
    same(q.receive(), "news")
    same(q.sync("1+1"), 2)


def console():
    here, there = connect(steps.CONSOLE), connect()
    for request in [steps.CLUSTERS, steps.NODES]:
        same(here.sync(request).schema, there.sync(request).schema)
    clusters = here.sync(steps.CLUSTERS)
    same(clusters.columns, steps.CLUSTER_COLUMNS)
    same(clusters["cluster_name"].to_list(), steps.CLUSTER_NAMES)
    same(clusters["status"].to_list(), ["RUNNING"] * 3)
    # The function's name and its argument, each a value of its own.
    nodes = here.sync(".aws.list_kx_cluster_nodes", "hdb-cluster")
    same(nodes.columns, steps.NODE_COLUMNS)
    same(nodes["node_id"].to_list(), steps.NODE_IDS)
    assert isinstance(nodes["launch_time"].dtype, polars.Datetime), nodes.schema

    same(connect(steps.port_of(here.sync(steps.STRING))).sync("1+1"), 2)
    sessions = here.sync("sessions")
    same(sorted(set(sessions["endpoint"].to_list())), ["console", "hdb"])
    assert isinstance(sessions["since"].dtype, polars.Datetime), sessions.schema
    assert isinstance(sessions["idle"].dtype, polars.Duration), sessions.schema
    same(sessions["bytes_up"].dtype, polars.Int64)
    try:
        here.sync("select from sessions")
        raise AssertionError("evaluated")
    except kola.KolaError as error:
        assert "a console evaluates no q" in str(error), error


steps.run(
    {
        "asks": asks,
        "asks-without-terminal": asks_without_terminal,
        "large": large,
        "wrong-password": wrong_password,
        "killed": killed,
        "unreachable": unreachable,
        "torn": torn,
        "compressed": compressed,
        "idle": idle,
        "told": told,
        "console": console,
    }
)
