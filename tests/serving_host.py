"""A chat server over a made-up model, in this process: its answers are told by the test, its sockets are real."""

import asyncio
import json
import socket
import threading
import time
import warnings
from contextlib import contextmanager
from http.client import HTTPConnection

import runtime_models
from serving_desk import NAMES, FakeSizes, chat, table

from paceline.models.loading import load_model
from paceline.records import KnobConfig
from paceline.server.app import build_app
from paceline.server.chat_answer import Host
from paceline.server.counts import Counts
from paceline.server.engine import Engine
from paceline.server.gate import Gate, digest_of
from paceline.server.limits import Limits
from paceline.server.question import Answered, FirstToken
from paceline.server.request_log import RequestLog
from paceline.server.serve import ChatServer, Server, ServerSettings, build_server, one_at_a_time
from paceline.serving.desk import Desk
from paceline.serving.middleware import BudgetMiddleware

WHOLE = KnobConfig(tier="high", top_k=None, num_active_blocks=None)


class ToldModel:
    """Answers with the texts it was given; `at(number of the text)` is called before each, in the model's thread."""

    context, largest_picture_tokens = 4096, 90

    def __init__(self, texts=("4", " 2"), at=lambda number: None):
        self.texts, self.at = texts, at
        self.asked, self.running, self.most_running, self.unwanted_after = [], 0, 0, []

    def whole(self, *, low=False):
        return KnobConfig(tier="low", top_k=None, num_active_blocks=None) if low else WHOLE

    def answer(self, question, config, caps, hand_on, unwanted):
        self.asked.append((question, config, caps))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            return self._answer(hand_on, unwanted)
        finally:
            self.running -= 1

    def _answer(self, hand_on, unwanted):
        count = 0
        for number, text in enumerate(self.texts):
            self.at(number)
            if number == 0:
                hand_on(FirstToken(seconds=time.perf_counter(), preprocess_ms=1.0, vision_ms=2.0, prefill_ms=3.0))
            hand_on(text)
            count += 1
            if unwanted():
                self.unwanted_after.append(count)
                break
        return Answered(rest="", finish_reason="stop", prompt_tokens=7, completion_tokens=count)


def told_server(
    model=None,
    *,
    limits=None,
    keys=(),
    log=lambda line: None,
    policy="edf",
    prompts=False,
    clock=time.perf_counter,
    **desk,
):
    """The parts of a server as `build_server` puts them together, over a made-up model and a synthetic table."""
    model, limits = model or ToldModel(), limits or Limits()
    engine = Engine(policy=policy, most_waiting=limits.waiting)
    wall = lambda: time.time()  # noqa: E731  a test sets it
    host = Host(name="m", model=model, engine=engine, counts=Counts(), limits=limits, clock=clock, wall=wall)
    told = Desk(
        **{
            "controllers": {"ttft": table()},
            "sizes": FakeSizes(),
            "alpha": 0.05,
            "names": NAMES,
            "line": one_at_a_time(policy, alpha=0.05, t0_seconds=0.04),
            "most_pictures": limits.pictures,
            "too_many_status": 413,
            "after_seconds": lambda: host.counts.mean_decode_ms / 1e3,
            **desk,
        }
    )
    gate = Gate(
        BudgetMiddleware(build_app(host), told, clock=host.clock),
        engine,
        limits=limits,
        keys=map(digest_of, keys),
        finished=RequestLog(log, prompts=prompts),
        clock=host.clock,
        wall=wall,
    )
    return ChatServer(app=gate, engine=engine, desk=told, host=host, limits=limits)


class Port(int):
    """Where a server listens, and the server."""

    server: Server


@contextmanager
def listening(served):
    """Serve in a thread; yields the port, and stops the server as SIGTERM would."""
    server = Server(served, host="127.0.0.1", port=0)
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port, failed = Port(sock.getsockname()[1]), []
    port.server = server
    sock.listen(2048)  # connections wait here until the loop takes them

    def run():
        try:
            asyncio.run(server.serve(sockets=[sock]))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield port
    finally:
        if not server.should_exit:  # told twice, it ends what runs
            stop(server)
        thread.join(60)
        served.engine.close()
        assert not thread.is_alive() and not failed


@contextmanager
def served_digits():
    """The embedded model behind its own server, under a table with made-up times; yields its address."""
    controllers = {"ttft": runtime_models.table(kind="ttft", latencies=(10.0, 1000.0))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        served = build_server(load_model("digits", device="cpu"), controllers, ServerSettings(name="digits"), log=len)
    with listening(served) as port:
        yield f"http://127.0.0.1:{int(port)}"


def stop(server):
    """Tell a server in another thread to stop."""
    loop = server._loop
    if loop is not None and not loop.is_closed():
        loop.call_soon_threadsafe(server.stop)
    else:
        server.should_exit = True


class Reply:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, dict(response.getheaders()), response.read()

    @property
    def document(self):
        return json.loads(self.body)

    @property
    def events(self):
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]

    @property
    def text(self):
        """The answer, whichever way it was written."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            choices = [choice for event in self.events for choice in event["choices"]]
            return "".join(choice["delta"].get("content", "") for choice in choices)
        return self.document["choices"][0]["message"]["content"]


def ask(port, body=None, *, path="/v1/chat/completions", headers=None, method=None, connection=None):
    """Ask and return the reply; a body that is no bytes is sent as JSON."""
    made = connection or HTTPConnection("127.0.0.1", int(port), timeout=60)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    told = {"content-type": "application/json"} if data is not None else {}
    made.request(method or ("GET" if data is None else "POST"), path, data, told | (headers or {}))
    reply = Reply(made.getresponse())
    if connection is None:
        made.close()
    return reply


__all__ = ["ToldModel", "ask", "chat", "listening", "stop", "told_server"]
