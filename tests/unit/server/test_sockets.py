"""The sockets of a server: what it writes does not wait for a packet to be acknowledged."""

import asyncio
import socket

import uvicorn
from serving_host import ToldModel, told_server

from paceline.server.serve import Server


def test_an_answer_is_not_held_back_until_its_head_is_acknowledged(monkeypatch):
    async def accepts(server, sockets):
        (listening,) = sockets
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            delays.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    delays = []
    monkeypatch.setattr(uvicorn.Server, "serve", accepts)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(Server(told_server(ToldModel()), host="127.0.0.1", port=0).serve([listening]))
    assert delays[0] != 0
