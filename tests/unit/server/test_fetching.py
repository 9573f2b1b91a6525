"""Pictures at addresses: from allowed places alone, never from this machine or its neighbours, whatever redirects say."""

import io
import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving_host import ToldModel, ask, listening, told_server

from paceline.errors import InvalidValueError, RequestRefusedError
from paceline.server.fetched_pictures import FetchedPictures
from paceline.server.fetching import Fetcher, allowed_prefix, place_of, public
from paceline.server.limits import Limits


def png(size=(16, 16)):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


@contextmanager
def site(pages):
    """A server of pages: bytes, a place to go on to, a status, or a function of the handler; what was asked is kept."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["host"]))
            page = pages.get(self.path, 404)
            if callable(page):
                page(self)
                return
            self.send_response(page if isinstance(page, int) else 200 if isinstance(page, bytes) else 302)
            if isinstance(page, str):
                self.send_header("location", page)
            self.send_header("content-length", str(len(page) if isinstance(page, bytes) else 0))
            self.end_headers()
            if isinstance(page, bytes):
                self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fetcher(*prefixes, public_too=(), resolve=lambda host, port: ["127.0.0.1"], **settings):
    """A fetcher for which names lead to this machine, which it takes for a public one."""
    settings = {"most_bytes": 10_000, "accepts": lambda address: address == "127.0.0.1" or public(address)} | settings
    return Fetcher([allowed_prefix(each) for each in prefixes], resolve=resolve, **settings)


def refused(call, *arguments):
    with pytest.raises(RequestRefusedError) as error:
        call(*arguments)
    assert (error.value.status, error.value.code) == (400, "invalid_image_url")
    return str(error.value)


def test_an_allowed_picture_is_fetched_from_the_address_that_was_judged():
    with site({"/public/a.png?x=1": b"picture"}) as (port, asked):
        found = fetcher(f"http://images.example:{port}/public").fetch(f"http://images.example:{port}/public/a.png?x=1")
    assert found == b"picture" and asked == [("/public/a.png?x=1", f"images.example:{port}")]


OTHERS = [
    "http://images.example:{port}/publicity/a.png",
    "http://images.example:{port}/public/../private/a.png",
    "http://images.example:{port}/public/%2e%2e/private/a.png",
    "http://images.example:{port}/public/%252e%252e/private",
    "http://images.example:{port}/public\\..\\private",
    "http://images.example.evil:{port}/public/a.png",
    "http://images.example:{port}@evil.example/public/a.png",
    "http://user@images.example:{port}/public/a.png",
    "https://images.example:{port}/public/a.png",
    "http://images.example:1/public/a.png",
    "http://images.example:99999/public/a.png",
    "http://images.example/public/a.png",
    "ftp://images.example:{port}/public/a.png",
    "http://:{port}/public/a.png",
    "http:///public/a.png",
    "http://[::1/public/a.png",
    "http://images.example:{port}/public/\r\nx: y",
    "http://images.example:{port}/public/" + "a" * 5000,
]


@pytest.mark.parametrize("url", OTHERS)
def test_other_places_are_refused_and_not_asked(url):
    with site({}) as (port, asked):
        refused(fetcher(f"http://images.example:{port}/public").fetch, url.replace("{port}", str(port)))
    assert asked == []


def test_a_name_that_leads_to_this_machine_or_its_neighbours_is_refused():
    inside = [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "224.0.0.1",
    ]
    inside += ["::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "ff02::1"]
    for address in inside:
        assert not public(address), address
        asking = Fetcher(
            [allowed_prefix("http://a.example/")], most_bytes=10, resolve=lambda *_, at=address: ["8.8.8.8", at]
        )
        assert "public Internet" in refused(asking.fetch, "http://a.example/x")
    assert public("8.8.8.8") and public("2001:4860:4860::8888")


@given(st.ip_addresses())
def test_every_address_is_judged(address):
    assert public(str(address)) in (True, False)
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert not public(str(address))


def test_redirects_are_judged_again_and_end():
    names = {"a.example": "127.0.0.1", "inside.example": "10.0.0.1"}
    pages = {"/p/on": "/p/a", "/p/a": b"x", "/p/out": "http://b.example/p/a", "/p/loop": "/p/loop", "/p/none": ""}
    with site(pages) as (port, asked):
        pages["/p/in"] = f"http://inside.example:{port}/p/a"
        prefixes = (f"http://a.example:{port}/p", f"http://inside.example:{port}/p")
        asking = fetcher(*prefixes, resolve=lambda host, _: [names[host]])
        assert asking.fetch(f"http://a.example:{port}/p/on") == b"x"
        assert "allows alone" in refused(asking.fetch, f"http://a.example:{port}/p/out")
        asking = fetcher(
            *prefixes, resolve=lambda host, _: [names[host]], accepts=lambda address: address == "127.0.0.1"
        )
        assert "public Internet" in refused(asking.fetch, f"http://a.example:{port}/p/in")
        asked.clear()
        assert "more than 3 times" in refused(asking.fetch, f"http://a.example:{port}/p/loop")
        assert len(asked) == 4
        refused(asking.fetch, f"http://a.example:{port}/p/none")


def test_a_name_is_resolved_once_a_request():
    """Resolved again for the connection, it could lead elsewhere."""
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    with site({"/a": b"x"}) as (port, _):
        assert (
            fetcher(f"http://a.example:{port}/", resolve=lambda *_: next(answers)).fetch(f"http://a.example:{port}/a")
            == b"x"
        )
    assert next(answers)


def test_what_is_too_large_too_slow_or_wrong_is_refused():
    def drips(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while not over.wait(0.05):
            handler.wfile.write(b"a")

    over = threading.Event()
    pages = {
        "/large": b"a" * 10_001,
        "/slow": drips,
        "/torn": lambda handler: handler.wfile.write(b"nonsense\r\n"),
        "/500": 500,
    }
    with site(pages) as (port, _):
        asking = fetcher(f"http://a.example:{port}/", seconds=0.4)
        for path, said in (
            ("large", "10,000 bytes"),
            ("slow", "TimeoutError"),
            ("torn", "BadStatusLine"),
            ("500", "500"),
        ):
            assert said in refused(asking.fetch, f"http://a.example:{port}/{path}")
        over.set()


def test_prefixes_that_are_none_are_said_at_start():
    for text in ("example.org", "file:///a", "https://u@a.example/", "https://a.example/?q"):
        with pytest.raises(InvalidValueError, match="allow-urls"):
            allowed_prefix(text)
    assert place_of("https://A.Example./x").host == "a.example" and place_of("https://a.example").path == "/"


def test_a_chat_names_pictures_by_address_where_that_is_allowed():
    model = ToldModel()
    served = told_server(model)
    with site({"/a.png": png(), "/text": b"no picture"}) as (at, asked):
        address = f"http://a.example:{at}"
        served.app.app = FetchedPictures(served.app.app, fetcher(address), Limits())

        def chat(url, **fields):
            parts = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "http?"}]
            return {"messages": [{"role": "user", "content": parts}], **fields}

        with listening(served) as port:
            for budget in ({}, {"latency_budget_ms": 20}):
                for url in (f"{address}/a.png", {"url": f"{address}/a.png", "detail": "low"}):
                    assert ask(port, chat(url, **budget)).status == 200
                assert ask(port, chat({"url": f"{address}/text"}, **budget)).status == 415
                assert ask(port, chat({"url": f"{address}/none"}, **budget)).status == 400
                assert ask(port, chat({"url": "http://b.example/a.png"}, **budget)).status == 400
            many = [{"type": "image_url", "image_url": {"url": f"{address}/a.png"}}] * 17
            reply = ask(port, {"messages": [{"role": "user", "content": many}]})
            assert reply.status == 413 and json.loads(reply.body)["error"]["code"] == "too_many_images"
    assert all(question.pictures[0].startswith("data:image;base64,") for question, *_ in model.asked)
    assert len(asked) == 8


class Shifted:
    """This machine's clock, which a test moves on."""

    def __init__(self):
        self.ahead = 0.0

    def __call__(self):
        return time.perf_counter() + self.ahead


def test_the_time_that_fetching_takes_is_off_the_budget_and_a_stage_of_its_own():
    def slow(handler):
        clock.ahead += 2.0
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + png())

    clock, model, lines = Shifted(), ToldModel(), []
    served = told_server(model, log=lines.append, clock=clock)
    with site({"/slow.png": slow, "/a.png": png()}) as (at, _):
        address = f"http://a.example:{at}"
        served.app.app = FetchedPictures(served.app.app, fetcher(address), Limits(), clock=clock)

        def reported(name):
            shown = {"type": "image_url", "image_url": {"url": f"{address}/{name}.png"}}
            parts = [shown, {"type": "text", "text": "What?"}]
            reply = ask(
                port, {"messages": [{"role": "user", "content": parts}], "latency_budget_ms": 2015, "stream": True}
            )
            stages = dict(each.split(";dur=") for each in reply.headers["server-timing"].split(", "))
            return reply.events[-1]["paceline"], {stage: float(ms) for stage, ms in stages.items()}

        with listening(served) as port:
            (soon, _), (late, stages) = reported("a"), reported("slow")
    assert soon["config"]["tier"] == "high" and late["config"]["tier"] == "low"
    assert soon["expected_ms"] < 1000 and late["expected_ms"] > 2000 and late["ttft_ms"] > 2000
    assert stages["fetch"] >= 2000 > stages["queue"]
    assert [json.loads(line)["fetch_ms"] >= 2000 for line in lines] == [False, True]


def test_a_head_that_comes_letter_by_letter_takes_no_longer_than_is_waited_for():
    def letters(handler):
        with suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
            for _ in range(400):
                handler.wfile.write(b"a")
                time.sleep(0.05)

    with site({"/a.png": letters}) as (port, _):
        begun = time.monotonic()
        refused(fetcher(f"http://images.example:{port}", seconds=0.5).fetch, f"http://images.example:{port}/a.png")
        assert time.monotonic() - begun < 10


def test_half_a_picture_is_none():
    def half(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
        handler.close_connection = True

    with site({"/a.png": half}) as (port, _):
        refused(fetcher(f"http://images.example:{port}").fetch, f"http://images.example:{port}/a.png")
