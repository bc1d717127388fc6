"""aiokdb against an endpoint of hopend."""

import asyncio
import time

import steps
from aiokdb import KException, TypeEnum, cv, kk, ktn
from aiokdb.client import ClientContext, open_qipc_connection
from aiokdb.server import CredentialsException
from steps import same


async def connect(port=steps.PORT):
    _, q = await open_qipc_connection(
        steps.HOST, port, user=steps.USER or None, password=steps.PASSWORD or None
    )
    return q


async def asks():
    q = await connect()
    same((await q.sync_req(cv(".z.u"))).aS(), steps.KX_USER)
    same((await q.sync_req(cv("1+1"))).aJ(), 2)
    await q.async_msg(cv("a:41"))
    same((await q.sync_req(cv("a+1"))).aJ(), 42)
    same(list((await q.sync_req(cv("til 10"))).kJ()), list(range(10)))
    table = await q.sync_req(cv("trades"))
    same(table.t, TypeEnum.XT)
    same(list(table.kS()), ["time", "sym", "price", "size"])
    same(list(table["time"].kJ()), steps.TIMES)
    same(list(table["sym"].kS()), steps.TRADES["sym"])
    same(list(table["price"].kF()), steps.TRADES["price"])
    same(list(table["size"].kJ()), steps.TRADES["size"])
    try:
        await q.sync_req(cv("'mine"))
        raise AssertionError("no error of q's")
    except KException as error:
        same(str(error), "mine")


async def large():
    q = await connect()
    got = await q.sync_req(cv(f"{steps.LARGE}#0x01"))
    assert bytes(got.kG()) == b"\x01" * steps.LARGE
    put = ktn(TypeEnum.KG)
    put.kG().frombytes(b"\x02" * steps.LARGE)
    same((await q.sync_req(kk(cv("{count x}"), put))).aJ(), steps.LARGE)


async def wrong_password():
    try:
        await connect()
        raise AssertionError("let in")
    except CredentialsException:
        pass


async def killed():
    q = await connect()
    print("waiting")
    started = time.monotonic()
    try:
        await q.sync_req(cv(steps.SLEEP))
        raise AssertionError("answered")
    except KException as error:
        assert steps.LOST in str(error), error
    steps.soon(started)


async def unreachable():
    try:
        await connect()
        raise AssertionError("let in")
    except ConnectionResetError:
        pass


async def torn():
    q = await connect()
    print("waiting")
    started = time.monotonic()
    try:
        await q.sync_req(cv(steps.SLEEP))
        raise AssertionError("answered")
    except ConnectionResetError:
        pass
    steps.soon(started)


async def compressed():
    q = await connect()
    got = await q.sync_req(cv("200000#0x07"))
    assert bytes(got.kG()) == b"\x07" * 200_000
    same((await q.sync_req(cv("1+1"))).aJ(), 2)


async def idle():
    q = await connect()
    steps.idle()
    await q.sync_req(cv('system"sleep 2"'))
    same((await q.sync_req(cv("1+1"))).aJ(), 2)


async def told():
    """What the cluster sends of its own accord, and asks, before it answers."""
    heard = []

    class Context(ClientContext):
        async def on_async_message(self, cmd, dotzw):
            heard.append(cmd.kC().tounicode())

        async def on_sync_request(self, cmd, dotzw):
            return cv("you said " + cmd.kC().tounicode())

    _, q = await open_qipc_connection(
        steps.HOST,
        steps.PORT,
        user=steps.USER or None,
        password=steps.PASSWORD or None,
        context=Context(),
    )
    await q.sync_req(cv('callback["news"]'))
    same(heard, ["news"])
    answer = await q.sync_req(cv('ask["well"]'))
    same(answer.kC().tounicode(), "you said well")


def texts(column):
    same(column.t, TypeEnum.K)
    return [item.kC().tounicode() for item in column.kK()]


async def console():
    here, there = await connect(steps.CONSOLE), await connect()
    for request in [steps.CLUSTERS, steps.NODES]:
        mine = await here.sync_req(cv(request))
        theirs = await there.sync_req(cv(request))
        same(mine.t, TypeEnum.XT)
        same(list(mine.kS()), list(theirs.kS()))
        same([mine[name].t for name in mine.kS()], [theirs[name].t for name in theirs.kS()])
    clusters = await here.sync_req(cv(steps.CLUSTERS))
    same(list(clusters.kS()), steps.CLUSTER_COLUMNS)
    same(texts(clusters["cluster_name"]), steps.CLUSTER_NAMES)
    same(texts(clusters["status"]), ["RUNNING"] * 3)
    # The function's name and its argument, each a value of its own.
    nodes = kk(cv(".aws.list_kx_cluster_nodes"), cv("hdb-cluster"))
    nodes = await here.sync_req(nodes)
    same(list(nodes.kS()), steps.NODE_COLUMNS)
    same(texts(nodes["node_id"]), steps.NODE_IDS)
    same(nodes["launch_time"].t, TypeEnum.KP)

    string = (await here.sync_req(cv(steps.STRING))).kC().tounicode()
    hdb = await connect(steps.port_of(string))
    same((await hdb.sync_req(cv("1+1"))).aJ(), 2)
    sessions = await here.sync_req(cv("sessions"))
    same(sorted(set(sessions["endpoint"].kS())), ["console", "hdb"])
    same(sessions["since"].t, TypeEnum.KP)
    same(sessions["idle"].t, TypeEnum.KN)
    same(sessions["bytes_up"].t, TypeEnum.KJ)
    try:
        await here.sync_req(cv("select from sessions"))
        raise AssertionError("evaluated")
    except KException as error:
        assert "a console evaluates no q" in str(error), error


steps.run(
    {
        "asks": lambda: asyncio.run(asks()),
        "large": lambda: asyncio.run(large()),
        "wrong-password": lambda: asyncio.run(wrong_password()),
        "killed": lambda: asyncio.run(killed()),
        "unreachable": lambda: asyncio.run(unreachable()),
        "torn": lambda: asyncio.run(torn()),
        "compressed": lambda: asyncio.run(compressed()),
        "idle": lambda: asyncio.run(idle()),
        "console": lambda: asyncio.run(console()),
        "told": lambda: asyncio.run(told()),
    }
)
