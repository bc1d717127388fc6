"""aiokdb against an endpoint of hopend."""

import asyncio
import time

import steps
from aiokdb import KException, TypeEnum, cv, kk, ktn
from aiokdb.client import open_qipc_connection
from aiokdb.server import CredentialsException
from steps import same


async def connect():
    _, q = await open_qipc_connection(
        steps.HOST, steps.PORT, user=steps.USER or None, password=steps.PASSWORD or None
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


steps.run(
    {
        "asks": lambda: asyncio.run(asks()),
        "large": lambda: asyncio.run(large()),
        "wrong-password": lambda: asyncio.run(wrong_password()),
        "killed": lambda: asyncio.run(killed()),
    }
)
