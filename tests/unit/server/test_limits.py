"""What a client may ask at most: bodies, pictures, headers, depth, connections, and how long it may take."""

import base64
import io
import json
import resource
import select
import socket
import struct
import threading
import zlib
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest
from PIL import Image
from serving_desk import FakeSizes, table
from serving_host import ToldModel, ask, chat, listening, told_server

from paceline.server.limits import Limits
from paceline.server.serve import ServerSettings, _raise_file_limit, server_over


def picture(url, count=1):
    parts = [{"type": "image_url", "image_url": {"url": url}}] * count
    return {"model": "m", "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]}


def data_url(data, kind="png"):
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def png(width, height, pixels=b""):
    """A PNG file of this size by its header, whatever its pixels are."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def port():
    with listening(told_server()) as port:
        yield port


def code(reply):
    return reply.status, reply.document["error"]["code"]


@pytest.mark.parametrize("budget", [{}, {"latency_budget_ms": 20}])
def test_a_body_of_more_than_twenty_mebibytes_is_413_and_one_of_just_that_is_not(port, budget):
    body = chat(picture=False, **budget)
    empty = len(json.dumps(body | {"user": ""}))
    whole = body | {"user": "a" * (20 * 2**20 - empty)}
    assert len(json.dumps(whole)) == 20 * 2**20 and ask(port, whole).status == 200
    assert code(ask(port, whole | {"user": whole["user"] + "a"})) == (413, "request_too_large")


def test_a_body_of_unknown_length_is_counted_as_it_comes(port):
    connection = HTTPConnection("127.0.0.1", int(port), timeout=60)
    parts = (b"a" * 2**20 for _ in range(22))
    connection.request("POST", "/v1/chat/completions", parts, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_length_that_is_a_lie_is_no_answer_and_the_next_is_answered(port):
    with socket.create_connection(("127.0.0.1", int(port))) as liar:
        liar.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 500\r\n\r\n{}")
        liar.shutdown(socket.SHUT_WR)
        assert liar.recv(1000) == b""
    for length in (b"-5", b"5, 6", b"99999999999999999999999999"):
        with socket.create_connection(("127.0.0.1", int(port)), timeout=60) as liar:
            liar.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: " + length + b"\r\n\r\n{}")
            assert liar.recv(100).startswith(b"HTTP/1.1 4")
    assert ask(port, chat(picture=False)).status == 200


def test_pictures_are_at_most_sixteen_and_forty_megapixels_together(port):
    assert ask(port, picture(data_url(png(8, 8)), 16)).status == 200
    for budget in ({}, {"latency_budget_ms": 20}):
        assert code(ask(port, picture(data_url(png(8, 8)), 17) | budget)) == (413, "too_many_images")
    reply = ask(port, picture(data_url(png(8, 8)), 1000) | {"latency_budget_ms": 20})
    assert "takes at most 16" in reply.document["error"]["message"], "nobody plans what nobody answers"
    built = server_over(ToldModel(), FakeSizes(), {"ttft": table()}, ServerSettings(name="m"), log=len)
    assert (built.desk.most_pictures, built.desk.too_many_status) == (16, 413)
    assert ask(port, picture(data_url(png(8000, 5000)))).status == 200
    assert code(ask(port, picture(data_url(png(8000, 5001))))) == (413, "image_too_large")
    assert code(ask(port, picture(data_url(png(4000, 5001)), 2))) == (413, "image_too_large")
    assert code(ask(port, picture(data_url(png(8000, 5001))) | {"latency_budget_ms": 20})) == (413, "image_too_large")


@pytest.mark.parametrize("format_name", ["TIFF", "PPM", "ICO", "EPS"])
def test_other_files_than_pictures_of_the_web_are_415(port, format_name):
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, format_name)
    for budget in ({}, {"latency_budget_ms": 20}):
        reply = ask(port, picture(data_url(file.getvalue(), "png")) | budget)
        assert code(reply) == (415, "unsupported_image")


URLS = [
    "http://127.0.0.1/a.png",
    "https://example.org/a.png",
    "file:///etc/passwd",
    "/etc/passwd",
    "data:text/plain,hello",
    "data:image/png;base64,!!!!",
    "data:image/png;base64,",
    "",
]


@pytest.mark.parametrize("url", URLS)
def test_a_picture_that_is_no_data_url_is_refused_and_nothing_is_fetched_or_opened(port, url):
    for budget in ({}, {"latency_budget_ms": 20}):
        assert ask(port, picture(url) | budget).status in (400, 415)


def test_the_head_has_at_most_a_hundred_headers_of_thirty_two_kibibytes(port):
    assert ask(port, path="/health", headers={f"x-{n}": "a" for n in range(90)}).status == 200
    assert code(ask(port, path="/health", headers={f"x-{n}": "a" for n in range(110)})) == (431, "headers_too_large")
    connection = HTTPConnection("127.0.0.1", int(port), timeout=60)
    connection.request("GET", "/health", headers={"x-long": "a" * 40_000})
    assert connection.getresponse().status in (400, 431)
    connection.close()


@pytest.mark.parametrize("budget", [b"", b'"latency_budget_ms": 20,'])
def test_a_body_nests_at_most_sixty_four_deep(port, budget):
    deep = b'{"messages": [{"role": "user", "content": "a"}],' + budget + b'"user": %s}'
    assert ask(port, deep % (b"[" * 60 + b"]" * 60)).status == 200
    for depth in (65, 100_000):
        assert code(ask(port, deep % (b"[" * depth + b"]" * depth))) == (400, "too_deep")
        assert code(ask(port, deep % (b"[" * depth))) == (400, "too_deep")


def test_a_body_has_a_hundred_thousand_arrays_and_objects_at_most(port):
    many = b'{"messages": [{"role": "user", "content": "a"}], "user": [%s[]]}'
    assert ask(port, many % (b"{}," * 99_995)).status == 200
    assert code(ask(port, many % (b"{}," * 99_996))) == (400, "too_many_objects")


def test_another_kind_of_body_is_415(port):
    for kind in ("text/plain", "multipart/form-data; boundary=a", "application/x-www-form-urlencoded"):
        reply = ask(port, b"{}", headers={"content-type": kind})
        assert code(reply) == (415, "unsupported_media_type")


def test_keys_are_asked_for_before_a_body_is_read_and_compared_whole():
    key = "sk-0123456789abcdef"
    with listening(told_server(keys=[key, "another-key-0123456"])) as port:
        body = chat(picture=False)
        for wrong in (
            {},
            {"authorization": f"Bearer {key[:-1]}"},
            {"authorization": key},
            {"authorization": "Bearer "},
        ):
            for path, sent in (("/v1/chat/completions", body), ("/v1/models", None), ("/paceline/recent", None)):
                assert code(ask(port, sent, path=path, headers=wrong)) == (401, "invalid_api_key")
        assert ask(port, body, headers={"authorization": f"Bearer {key}"}).status == 200
        assert ask(port, body, headers={"authorization": "bearer another-key-0123456"}).status == 200
        assert ask(port, path="/health").status == ask(port, path="/metrics").status == 200


SLOW = Limits(header_seconds=0.3, body_seconds=0.3, send_seconds=0.3)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 408),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\n", 408),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{", 408),
    ],
)
def test_a_client_that_does_not_go_on_is_408_and_its_connection_closed(sent, status):
    with listening(told_server(limits=SLOW)) as port, socket.create_connection(("127.0.0.1", int(port)), 60) as slow:
        slow.sendall(sent)
        slow.settimeout(60)
        said = b""
        while part := slow.recv(1000):
            said += part
        assert said.startswith(b"HTTP/1.1 %d" % status)


@pytest.mark.parametrize(
    "begun",
    [
        b"GET /health HTTP/1.1\r\nx-long: ",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 99999\r\n\r\n",
    ],
    ids=["head", "body"],
)
def test_a_client_that_goes_on_a_letter_at_a_time_is_408_as_soon(begun):
    with listening(told_server(limits=SLOW)) as port, socket.create_connection(("127.0.0.1", int(port)), 60) as slow:
        slow.sendall(begun)
        while not select.select([slow], [], [], 0.02)[0]:
            slow.sendall(b"a")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_client_that_does_not_take_its_answer_loses_it_and_the_next_has_the_model():
    model = ToldModel(texts=["a" * 100_000] * 400)
    served = told_server(model, limits=SLOW)
    with listening(served) as port, socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(("127.0.0.1", int(port)))
        body = json.dumps(chat(20, stream=True)).encode()
        stuck.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        while not model.asked:
            pass
        model.texts = ["4", " 2"]
        assert ask(port, chat(20, stream=True)).text == "4 2"
        while port.server.server_state.connections:  # its connection is not kept for it either
            pass
    assert served.desk.ledger.accepted_count == 2 and not len(served.desk.ledger)


def test_more_connections_than_the_limit_are_503_and_those_within_are_served():
    with listening(told_server(limits=Limits(connections=20))) as port:
        kept = [socket.create_connection(("127.0.0.1", int(port)), 60) for _ in range(20)]
        answered = ask_raw(kept[-1])  # the last of those within
        assert answered.startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", int(port)), 60) as beyond:
            said = beyond.recv(1000)
        assert said.startswith(b"HTTP/1.1 503") and b"retry-after" in said
        for each in kept:
            each.close()
        while True:  # once they are gone, another is taken
            try:
                if ask(port, path="/health").status == 200:
                    break
            except ConnectionError:
                continue


def ask_raw(sock):
    sock.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
    return sock.recv(1000)


@pytest.fixture
def connections():
    """As many connections as a server takes, of which this process holds both ends; fewer where it may not open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = Limits().connections
    allowed = max(soft, min(hard, 2 * most + 500) if hard != resource.RLIM_INFINITY else 2 * most + 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    yield min(most, (allowed - 500) // 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_connections_are_answered_and_one_more_is_turned_away(connections):
    with listening(told_server()) as port, ExitStack() as kept:
        opened = [
            kept.enter_context(socket.create_connection(("127.0.0.1", int(port)), 60)) for _ in range(connections)
        ]
        for each in opened:
            each.sendall(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        assert all(each.recv(1000).startswith(b"HTTP/1.1 200") for each in opened)
        if connections == Limits().connections:
            with socket.create_connection(("127.0.0.1", int(port)), 60) as beyond:
                assert beyond.recv(1000).startswith(b"HTTP/1.1 503")


def test_a_server_takes_the_files_that_its_connections_need(monkeypatch):
    """Many systems give a process 1,024 to begin with."""
    found, told = [], []
    monkeypatch.setattr(resource, "getrlimit", lambda which: found[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, asked: told.append(asked))
    for limits, expected in (((1024, 2**20), [(2000, 2**20)]), ((1024, 1500), [(1500, 1500)]), ((4096, 4096), [])):
        found.append(limits)
        told.clear()
        _raise_file_limit(2000)
        assert told == expected


def test_bodies_that_wait_have_so_much_room_together_and_no_more():
    limits = Limits(bodies_bytes=300_000)
    begun, go_on = threading.Event(), threading.Event()

    def at(number):
        begun.set()
        go_on.wait(30)

    served = told_server(ToldModel(at=at), limits=limits)
    with listening(served) as port:
        large = chat(picture=False, user="a" * 200_000)
        first = threading.Thread(target=ask, args=(port, large))
        first.start()
        assert begun.wait(30)
        reply = ask(port, large)
        assert code(reply) == (503, "overloaded") and reply.headers["retry-after"]
        go_on.set()
        first.join()
        assert ask(port, large).status == 200
    assert served.app.bodies_bytes == 0


def test_with_keys_nobody_else_fills_the_room_for_bodies():
    with listening(told_server(keys=["sk-0123456789abcdef"])) as port:
        for path in ("/health", "/nowhere", "//v1/chat/completions", "/V1/chat/completions"):
            assert code(ask(port, {"a": 1}, path=path)) == (401, "invalid_api_key")


def test_a_page_of_another_site_has_no_model_answer(port):
    for site, status in (("cross-site", 403), ("same-origin", 200), ("none", 200)):
        assert ask(port, chat(picture=False), headers={"sec-fetch-site": site}).status == status


@pytest.mark.parametrize("budget", [{}, {"latency_budget_ms": 20}])
@pytest.mark.parametrize("place", ["content", "name", "tools"])
def test_a_chat_that_no_context_holds_by_far_never_has_the_model(place, budget):
    model = ToldModel()
    fits, too_long = "a" * (16 * model.context - 200), "a" * (16 * model.context + 1)
    with listening(told_server(model)) as port:
        for text, status in ((fits, 200), (too_long, 400)):
            body = chat(picture=False, **budget)
            if place == "tools":
                body["tools"] = [{"type": "function", "function": {"name": text}}]
            else:
                body["messages"][0][place] = text
            reply = ask(port, body)
            assert reply.status == status
    assert reply.document["error"]["code"] == "context_length_exceeded" and len(model.asked) == 1
