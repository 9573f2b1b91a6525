"""`paceline dashboard`: pages of what there is, and the relay before a server, asked over sockets."""

import asyncio
import http.client
import json
import socket
import threading
from contextlib import contextmanager

import pytest
from latency_models import synthetic_samples as estimated_samples
from learned_controllers import write_controller, write_estimator
from page_server import SyntheticServer, served
from serving_desk import chat, event, table

from paceline import dashboard
from paceline.cli import dashboard as command
from paceline.cli.main import run
from paceline.dashboard import Dashboard, live_dashboard, report_dashboard
from paceline.errors import InvalidValueError, RemoteServerError
from paceline.page.files import page_files
from paceline.remote import ServerAddress


@contextmanager
def shown(dashboard):
    thread = threading.Thread(target=dashboard.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield dashboard.url
    finally:
        dashboard.shutdown()
        thread.join()
        dashboard.server_close()


@contextmanager
def relayed(app):
    with served(app) as address, shown(live_dashboard(ServerAddress.parse(address))) as url:
        yield ServerAddress.parse(url)


def asked(address, method, path, body=None, headers=None):
    connection = address.connection(timeout_seconds=30)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def test_the_page_and_what_it_asks_for_are_there_and_nothing_else():
    app = SyntheticServer()
    with relayed(app) as address:
        for path, file in page_files().items():
            status, headers, content = asked(address, "GET", path)
            assert (status, content) == (200, file.content) and file.headers.items() <= headers.items()
        assert json.loads(asked(address, "GET", "/v1/models")[2])["data"][0]["id"] == "synthetic"
        body = json.dumps(chat(2000, stream=True)).encode()
        sent = {"Content-Type": "application/json", "Authorization": "Bearer key", "Cookie": "secret"}
        status, headers, content = asked(address, "POST", "/v1/chat/completions", body, sent)
        assert status == 200 and headers["content-type"] == "text/event-stream"
        assert headers["x-paceline-config"] == "high_8_16" and "prefill;dur=" in headers["server-timing"]
        assert content.endswith(b"data: [DONE]\n\n") and b'"paceline"' in content
        assert app.authorizations[-1] == b"Bearer key"
        assert len(json.loads(asked(address, "GET", "/paceline/recent")[2])) == 1
        assert b"paceline:promises_total" in asked(address, "GET", "/metrics")[2]
        for method, path in (("GET", "/v1/files"), ("POST", "/v1/models"), ("GET", "/page/none"), ("GET", "//evil/")):
            assert asked(address, method, path, b"" if method == "POST" else None)[0] == 404
        refused = asked(address, "POST", "/v1/chat/completions", json.dumps(chat("soon")).encode(), sent)
        assert refused[0] == 400 and "latency_budget_ms" in json.loads(refused[2])["error"]["message"]


@pytest.mark.parametrize(
    "headers",
    [{"Host": "rebound.example"}, {"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_pages_of_other_sites_are_turned_away(headers):
    with relayed(SyntheticServer()) as address:
        for method, path in (("GET", "/"), ("GET", "/metrics"), ("POST", "/v1/chat/completions")):
            status, _, content = asked(address, method, path, b"{}" if method == "POST" else None, headers)
            assert status == 403 and b"own browser" in content


def test_it_listens_on_this_machine_alone():
    with shown(report_dashboard("<p>report")) as url:
        assert url.startswith("http://127.0.0.1:")
        status, headers, content = asked(ServerAddress.parse(url), "GET", "/")
        assert (status, content) == (200, b"<p>report") and headers["x-content-type-options"] == "nosniff"
        assert asked(ServerAddress.parse(url), "GET", "/v1/models")[0] == 404


class Held:
    """A server whose stream goes on until it is told to, and which says how its client left."""

    def __init__(self):
        self.go_on, self.left = threading.Event(), threading.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] == "POST":
            await receive()
            kind = (b"content-type", b"text/event-stream")
            await send({"type": "http.response.start", "status": 200, "headers": [kind]})
            await send({"type": "http.response.body", "body": event(choices=[]), "more_body": True})
            leaving = asyncio.ensure_future(receive())
            while not self.go_on.is_set() and not leaving.done():
                await asyncio.sleep(0.01)
            if leaving.done():
                self.left.set()
            leaving.cancel()
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        else:
            await SyntheticServer()(scope, receive, send)


def test_a_stream_is_handed_on_as_it_comes():
    app = Held()
    with relayed(app) as address:
        connection = address.connection(timeout_seconds=30)
        connection.request("POST", "/v1/chat/completions", b"{}", {})
        answer = connection.getresponse()
        assert answer.read1(1000) == event(choices=[])  # the server has not ended it
        app.go_on.set()
        assert answer.read() == b"data: [DONE]\n\n"
        connection.close()


def test_what_is_relayed_waits_for_no_acknowledgement(monkeypatch):
    """Held back by Nagle's algorithm, a token would reach the page 40 ms after the one before it."""
    at_once = []

    def answering(handler, *_):
        at_once.append(handler.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(dashboard._Handler, "log_message", answering)
    with relayed(SyntheticServer()) as address:
        assert asked(address, "GET", "/v1/models")[0] == 200
    assert at_once and all(at_once)


def test_a_client_that_leaves_is_gone_for_the_server_too():
    app = Held()
    with relayed(app) as address:
        connection = address.connection(timeout_seconds=30)
        connection.request("POST", "/v1/chat/completions", b"{}", {})
        connection.getresponse().read1(1000)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        assert app.left.wait(30)


def test_a_server_that_goes_is_said_to_be_gone():
    with served(SyntheticServer()) as there:
        dashboard = live_dashboard(ServerAddress.parse(there))
    with shown(dashboard) as url:
        status, _, content = asked(ServerAddress.parse(url), "GET", "/v1/models")
        assert status == 502 and "does not answer: Connection refused" in json.loads(content)["error"]["message"]


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: HOST\r\n\r\n", 411),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: HOST\r\nContent-Length: -1\r\n\r\n", 411),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: HOST\r\nContent-Length: 999999999\r\n\r\n", 413),
        (b"POST /v1/chat/completions HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"DELETE / HTTP/1.1\r\nHost: HOST\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\n\r\n", 403),
    ],
)
def test_requests_that_are_none_get_an_answer(request_head, status):
    with relayed(SyntheticServer()) as address, socket.create_connection((address.host, address.port), 30) as client:
        client.sendall(request_head.replace(b"HOST", f"{address.host}:{address.port}".encode()))
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == status
        answer.close()


def test_mistakes_are_sentences(capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(InvalidValueError, match=r"port is \d+; expected a free port"):
            report_dashboard("", port=port)
        with pytest.raises(RemoteServerError, match=r"does not answer: Connection refused; start it first"):
            live_dashboard(ServerAddress.parse(f"http://127.0.0.1:{port}"))
    with pytest.raises(InvalidValueError, match="port"):
        report_dashboard("", port=99_999)
    for source, words in (
        ("ftp://host", "expected the address of a server"),
        ("localhost:8000", "for a server, http://localhost:8000"),
        (str(tmp_path / "none"), "there is nothing at this path"),
        (str(tmp_path), str(tmp_path)),
    ):
        assert run(["dashboard", source, "--no-browser"]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://host:8000/v1/", "http://host:8000"),
        ("https://host/proxy/7", "https://host/proxy/7"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_addresses_are_read(url, expected):
    assert str(ServerAddress.parse(url)) == expected


@pytest.mark.parametrize(
    "url", ["", "host", "http://", "http://h:x", "http://h:99999", "http://a:b@h", "http://h?q=1", "http://h/a\nb"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InvalidValueError, match="expected the address of a server"):
        ServerAddress.parse(url)


@pytest.fixture
def opened(monkeypatch, capsys):
    """Run the command, look at the page that it shows, end it by Ctrl-C; gives the page and the document printed."""

    def open_page(source):
        seen = {}

        def serve_forever(self):
            seen["page"] = self.files["/"].content.decode() if self.upstream is None else str(self.upstream)
            raise KeyboardInterrupt

        browsed = []
        monkeypatch.setattr(Dashboard, "serve_forever", serve_forever)
        monkeypatch.setattr(command.webbrowser, "open", browsed.append)
        assert run(["dashboard", str(source), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert browsed == [document["url"]]
        return seen["page"], document

    return open_page


def test_a_profile_a_table_and_a_server_open_what_there_is(opened, tmp_path):
    samples = tmp_path / "synthetic.parquet"
    estimated_samples(20).write_parquet(samples)
    page, _ = opened(samples)
    assert "Paceline profile report" in page
    (tmp_path / "table.json").write_text(json.dumps(table().document()))
    page, _ = opened(tmp_path / "table.json")
    assert "Paceline: lookup table" in page and "Synthetic data" in page
    assert page.index("from 12.0 ms") < page.index("low_2_16") < page.index("from 18.0 ms") < page.index("low_8_16")
    with served(SyntheticServer()) as address:
        seen, document = opened(f"{address}/v1")
        assert seen == document["server"] == address


@pytest.mark.filterwarnings("ignore::paceline.errors.PacelineWarning")
def test_an_estimator_and_a_learned_controller_show_what_budgets_buy(opened, tmp_path):
    (tmp_path / "estimator").mkdir()
    write_estimator(tmp_path / "estimator")
    page, _ = opened(tmp_path / "estimator")
    assert "Paceline: latency estimator" in page and "95 of 100" in page and "from " in page
    page, _ = opened(write_controller(tmp_path / "learned"))
    assert "Paceline: learned controller" in page and "prefers by each request" in page
