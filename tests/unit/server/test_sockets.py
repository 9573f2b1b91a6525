"""The sockets of a server: what it writes does not wait for a packet to be acknowledged."""

import asyncio
import socket

import pytest
from serving_host import ToldModel, told_server

from paceline.server.serve import Server


@pytest.mark.parametrize("early", [True, False], ids=["connected before the loop runs", "connected after"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_a_connection_is_told_goes_out_at_once_whenever_it_was_made(address, early):
    """Held back by Nagle's algorithm, each answer on it would come 40 ms late, as long as it is kept."""

    async def answered(listening):
        loop, server = asyncio.get_running_loop(), Server(told_server(ToldModel()), host=address, port=0)
        client = socket.create_connection(listening.getsockname()[:2]) if early else None
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0)
        with client or socket.create_connection(listening.getsockname()[:2]) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
            answer = await loop.sock_recv(client, 1000)
            (connection,) = server.server_state.connections
            accepted = connection.transport.get_extra_info("socket")
            held_back = not accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        server.stop()
        await serving
        server.served.engine.close()
        return answer, held_back

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listening = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip("this machine has no such address")
    with listening:
        answer, held_back = asyncio.run(answered(listening))
    assert answer.startswith(b"HTTP/1.1 200") and not held_back
