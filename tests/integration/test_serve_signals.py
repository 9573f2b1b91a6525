"""A server's process that is told to stop while it streams: what runs is finished, what waits is handed back."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

from serving_host import Reply, ask, chat

TESTS = Path(__file__).parents[1]
# a made-up model whose second text waits for a line
PROGRAM = """
import sys
from serving_host import ToldModel, told_server
from paceline.server.serve import serve

def at(number):
    if number == 1:
        print("begun", flush=True)
        sys.stdin.readline()

served = told_server(ToldModel(texts=["a"] * 6, at=at), log=print)
serve(served, host="127.0.0.1", port=0, on_listening=lambda port: print(port, flush=True))
"""


def test_streams_are_finished_or_handed_back():
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    server = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        port = int(server.stdout.readline())
        running = HTTPConnection("127.0.0.1", port, timeout=120)
        running.request("POST", "/v1/chat/completions", json.dumps(chat(20, stream=True)))
        answer = running.getresponse()  # its first token is there
        assert server.stdout.readline() == "begun\n"
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(ask, port, chat(20, stream=stream)) for stream in (True, False)]
            while ask(port, path="/health").document["waiting"] != 2:
                pass
            server.send_signal(signal.SIGTERM)
            handed_back = [each.result(60) for each in waiting]
        server.stdin.close()  # the model goes on
        finished = Reply(answer)
        running.close()
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert [(reply.status, reply.document["error"]["code"]) for reply in handed_back] == [(503, "server_stopping")] * 2
    assert all(reply.headers["retry-after"] == "1" for reply in handed_back)
    last = finished.events[-1]
    assert finished.status == 200 and last["usage"]["completion_tokens"] == len(finished.text) and last["paceline"]
    assert finished.text == "a" * 6
