"""What each client shows when an endpoint with errors = "explain" has no kdb+: a line each."""

import asyncio

import kola
import pykx as kx
import steps
from aiokdb import KException, cv
from aiokdb.client import open_qipc_connection


def by_pykx():
    q = kx.SyncQConnection(steps.HOST, steps.PORT, no_ctx=True)
    q("a:41", wait=False)
    error = steps.fails(lambda: q("1+1"))
    assert isinstance(error, kx.QError), repr(error)
    return error


def by_kola():
    q = kola.Q(steps.HOST, steps.PORT, steps.USER, "")
    q.connect()
    q.asyn("a:41")
    error = steps.fails(lambda: q.sync("1+1"))
    assert isinstance(error, kola.KolaError), repr(error)
    return error


async def by_aiokdb():
    _, q = await open_qipc_connection(steps.HOST, steps.PORT)
    await q.async_msg(cv("a:41"))
    try:
        await q.sync_req(cv("1+1"))
    except KException as error:
        return error
    raise AssertionError("no error")


for told in [by_pykx(), by_kola(), asyncio.run(by_aiokdb())]:
    text = " ".join(str(told).split())
    assert "hopend: " in text, text
    print(text)
