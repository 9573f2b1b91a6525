"""`paceline warm-up` against servers with budgets: their own desks count who was alone, over a synthetic engine."""

import json
import subprocess
import sys
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_server import SyntheticServer, _answer, served
from serving_desk import FakeSizes, new_desk, table

from paceline.cli.main import run
from paceline.errors import InvalidValueError, RemoteServerError, UnknownChoiceError
from paceline.models.picture_header import size_of_data_url
from paceline.quick.asking import Caller
from paceline.records import TIERS, KnobConfig
from paceline.remote import ServerAddress
from paceline.serving.desk import WARM_UP_REQUESTS
from paceline.serving.middleware import BudgetMiddleware
from paceline.warm_up.calibration import calibration_of
from paceline.warm_up.requests import WarmUpRequests
from paceline.warm_up.warming import MOST_IN_VAIN, WarmUp

NEEDED = {0.2: 11, 0.05: 45, 0.01: 230}  # what a bound takes at confidence 0.9
SMALL = {"sizes_px": [(32, 48), (64, 64)], "words": [3, 9]}


class Server(SyntheticServer):
    """A server that has answered nobody; `restarts_at` are the numbers of requests before which it is started anew."""

    def __init__(self, *, alpha=0.2, restarts_at=(), down_for=0, key=None, refuses=None, sizes=None, **more):
        super().__init__(calibration=0, alpha=alpha, answers=dict.fromkeys((*TIERS, None), "4"), **more)
        self.slowed, self.alpha, self.sizes, self.looks = 0.001, alpha, sizes or FakeSizes(), 0
        self.restarts_at, self.down_for, self.key, self.refuses = restarts_at, down_for, key, refuses
        self.chats = self.down = 0
        self.start()

    def start(self):
        self.desk = new_desk(controllers={"ttft": table(self.configs)}, alpha=self.alpha, sizes=self.sizes)
        self.budgeted = BudgetMiddleware(self.engine, self.desk)

    def cost(self, fields):
        return None, 1.0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"authorization")
        if self.down and not scope["path"].startswith("/v1/"):
            self.down -= 1
            await _answer(send, b"", status=503)
        elif self.key and scope["path"].startswith("/v1/") and sent != f"Bearer {self.key}".encode():
            await _answer(send, b'{"error": {"message": "Unauthorized"}}', status=401)
        elif scope["path"] == "/v1/chat/completions" and self.refuses:
            status, message = self.refuses
            self.chats += 1
            await _answer(send, json.dumps({"error": {"message": message}}).encode(), status=status)
        else:
            if scope["path"] == "/v1/chat/completions":
                self.chats += 1
                if self.chats in self.restarts_at:
                    self.start()
                    self.down = self.down_for
            await super().__call__(scope, receive, send)


class WithoutBudgets(SyntheticServer):
    """A page of metrics, and nothing of ours on it."""

    def __init__(self):
        super().__init__(budgets=False)
        self.budgeted = self.engine


class TextSizes(FakeSizes):
    tiers, smallest_cap = (None,), None


def caller_of(address, key=None):
    return Caller(address=ServerAddress.parse(address), clock=lambda: 0.0, key=key)


def warmed(app, *, key=None, seed=1, shapes=SMALL, **given):
    slept = []
    with served(app) as address:
        requests = WarmUpRequests(seed=seed, **shapes)
        result = WarmUp(caller_of(address, key), requests, **{"sleep": slept.append, **given}).run()
    return result, slept


def pictures(body):
    return [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]


def text(body):
    (only,) = [part["text"] for part in body["messages"][0]["content"] if part["type"] == "text"]
    return only


@pytest.mark.parametrize("alpha", NEEDED)
def test_it_ends_with_as_many_as_the_server_needs_and_no_sooner(alpha):
    app = Server(alpha=alpha)
    result, _ = warmed(app)
    assert app.desk.alone["ttft"].scores.pooled.upper is not None
    assert result.calibration.reached and result.calibration.needed == NEEDED[alpha] and result.why_not is None
    assert result.asked == len(app.received) == NEEDED[alpha] + WARM_UP_REQUESTS
    assert result.calibration.requests == NEEDED[alpha] and result.calibration.drift_factor > 0 and not result.restarts
    assert len({url for body in app.received for url in pictures(body)}) == result.asked
    assert len({text(body)[:12] for body in app.received}) == result.asked


def test_a_server_that_is_calibrated_is_asked_nothing():
    app = SyntheticServer(calibration=50)
    result, _ = warmed(app)
    assert result.asked == 0 and result.calibration.reached and not app.received


@pytest.mark.parametrize("seeds", [(1, 2), (7, 7_000_000)])
def test_requests_differ_from_their_first_word_on_within_a_run_and_between_runs(seeds):
    made = [WarmUpRequests(seed=seed, **SMALL) for seed in seeds]
    bodies = [each.next_body("m") for each in made for _ in range(60)]
    for one, other in combinations(bodies, 2):
        assert text(one)[:12] != text(other)[:12]  # the name that each question begins with
        assert pictures(one) != pictures(other)
    assert all(body["messages"][0]["content"][0]["type"] == "text" for body in bodies)
    again = WarmUpRequests(seed=seeds[0], **SMALL)
    assert [again.next_body("m") for _ in range(60)] == bodies[:60]


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(32, 80), st.integers(32, 80)), max_size=3, unique=True),
    st.lists(st.integers(1, 30), min_size=1, max_size=3, unique=True),
    st.lists(st.integers(1, 5000), min_size=1, max_size=2, unique=True),
)
def test_every_size_comes_first_and_then_every_combination_alike(seed, sizes, words, budgets):
    made = WarmUpRequests(seed=seed, sizes_px=sizes, words=words, budgets_ms=budgets)
    firsts = [made.next_body("m") for _ in sizes or [None]]
    sides = [(size_of_data_url(url).width, size_of_data_url(url).height) for body in firsts for url in pictures(body)]
    assert sides == sizes
    rounds = [made.next_body("m") for _ in range(len(sizes or [None]) * len(words) * len(budgets))]
    found = [
        (
            tuple((size_of_data_url(url).width, size_of_data_url(url).height) for url in pictures(body)),
            len(text(body).split(".")[0].split()),
            body["latency_budget_ms"],
        )
        for body in rounds
    ]
    assert len(set(found)) == len(found)


def test_a_server_that_is_never_alone_is_given_up_with_a_sentence():
    app = Server()
    app.desk.accept_native(0.0)  # somebody who is never answered
    result, _ = warmed(app)
    assert not result.calibration.reached and result.asked == MOST_IN_VAIN
    assert f"{MOST_IN_VAIN} requests in a row calibrated nothing: other requests come in between" in result.why_not


def test_a_model_that_answers_with_errors_is_given_up_with_its_words():
    result, _ = warmed(Server(refuses=(500, "out of memory")))
    assert result.asked == MOST_IN_VAIN and "500: out of memory" in result.why_not


def test_a_bound_in_time_ends_it():
    ticks = iter(range(10**6))
    result, _ = warmed(Server(), seconds=5.0, clock=lambda: float(next(ticks)))
    assert not result.calibration.reached and 1 <= result.asked < 10 and result.why_not == "5 s are over"


@pytest.mark.parametrize("down_for", [0, 4])
def test_a_server_that_is_started_anew_meanwhile_is_calibrated_all_the_same(down_for):
    app = Server(restarts_at=(9,), down_for=down_for)
    result, slept = warmed(app)
    assert (
        result.calibration.reached and result.restarts == 1 and app.desk.alone["ttft"].scores.pooled.upper is not None
    )
    assert result.asked == 8 + NEEDED[0.2] + WARM_UP_REQUESTS
    assert len(slept) == max(0, down_for - 1)  # its page of metrics was asked first


def test_a_server_is_waited_for_and_one_that_is_never_up_is_a_sentence():
    app, heard = Server(down_for=3), []
    app.down = 3
    result, slept = warmed(app, on_wait=heard.append)
    assert result.calibration.reached and len(slept) == 3 and heard == ["answered 503 to /health"]
    app.down = 10**6
    ticks = iter(range(10**6))
    with pytest.raises(RemoteServerError, match="is not up after 7 s: answered 503 to /health; see its log"):
        warmed(app, wait_seconds=7.0, clock=lambda: float(next(ticks)))


def test_what_cannot_be_warmed_up_is_a_sentence():
    with pytest.raises(
        RemoteServerError, match="without a usable paceline:calibration_requests; name a server with budg"
    ):
        warmed(WithoutBudgets())
    with pytest.raises(RemoteServerError, match="refuses to be warmed up so: 400: no eyes; choose pictures"):
        warmed(Server(refuses=(400, "no eyes")))
    with pytest.raises(UnknownChoiceError, match="model 'none' is unknown; expected synthetic"):
        warmed(Server(), model="none")


def test_a_key_is_sent_and_a_wrong_one_is_a_sentence():
    with pytest.raises(RemoteServerError, match="asks for a key; give it in a file"):
        warmed(Server(key="right"))
    with pytest.raises(RemoteServerError, match="does not take this key; give it in a file"):
        warmed(Server(key="right"), key="wrong")
    assert warmed(Server(key="right"), key="right")[0].calibration.reached


def test_a_model_without_eyes_is_warmed_up_by_texts_and_one_with_eyes_is_not():
    configs = {KnobConfig(tier=None, top_k=top_k, num_active_blocks=16): (10.0 + top_k, 0.5) for top_k in (2, 8)}
    app = Server(sizes=TextSizes(), configs=configs)
    result, _ = warmed(app, shapes={"sizes_px": [], "words": [3, 9]})
    assert result.calibration.reached and not any(pictures(body) for body in app.received)
    result, _ = warmed(Server(), shapes={"sizes_px": []})
    assert not result.calibration.reached and "of another kind of request" in result.why_not


def test_a_calibrated_server_is_watched_until_it_is_started_anew():
    app = Server()
    for _ in range(NEEDED[0.2]):
        app.desk.alone["ttft"].scores.pooled.observe(13.0, 10.0)
    with served(app) as address:
        looks = []

        def sleep(seconds):
            looks.append(seconds)
            if len(looks) == 3:
                app.start()

        warmer = WarmUp(caller_of(address), WarmUpRequests(seed=1, **SMALL), sleep=sleep)
        warmer.wait_until_lost()
        assert len(looks) == 3 and not calibration_of(warmer.caller).reached
        assert warmer.run().calibration.reached
        warmer.caller = caller_of("http://127.0.0.1:9")
        warmer.wait_until_lost()  # one that is gone is lost, too


@pytest.mark.parametrize(
    "wrong",
    [
        {"sizes_px": [(16, 64)]},
        {"sizes_px": [(64, 99_999)]},
        {"words": []},
        {"words": [0]},
        {"budgets_ms": [0.0]},
        {"budgets_ms": [float("nan")]},
        {"seed": -1},
    ],
)
def test_what_no_request_can_be_made_of_is_refused(wrong):
    with pytest.raises(InvalidValueError):
        WarmUpRequests(**{"seed": 1, **wrong})


def test_the_command_says_what_it_did_checks_and_prints_one_document(capsys, tmp_path):
    app = Server(key="right", alpha=0.05)
    (tmp_path / "key").write_text("right\n")
    with served(app) as address:
        small = ["--picture", "32x48", "64x64", "--words", "3,9", "--budgets", "300", "900"]
        assert run(["warm-up", address, "--check"]) == 1
        assert f"not calibrated: {address} has 0 of the 45" in capsys.readouterr().out
        assert run(["warm-up", address, *small]) == 2
        assert "asks for a key" in " ".join(capsys.readouterr().err.split())
        assert run(["warm-up", address, *small, "--api-key-file", str(tmp_path / "key"), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["calibrated"] and document["asked"] == 48 and document["calibration_requests"] == 45
        assert {body["max_tokens"] for body in app.received} == {1} and len(app.received) == 48
        assert run(["warm-up", address, "--check"]) == 0 and run(["warm-up", address, "--check", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.partition("\n")[2])["calibration_needed"] == 45
        app.start()
        app.desk.accept_native(0.0)
        assert run(["warm-up", address, *small, "--api-key-file", str(tmp_path / "key")]) == 1
        assert "not calibrated after 30 requests" in capsys.readouterr().out
        for wrong in (
            ["--picture", "64"],
            ["--words", "1.5"],
            ["--words", "inf"],
            ["--text-only", "--picture", "64x64"],
        ):
            assert run(["warm-up", address, *wrong]) == 2
        assert run(["warm-up", address, "--watch", "--check"]) == 2
    assert run(["warm-up", "http://127.0.0.1:9", "--check"]) == 2
    assert run(["warm-up", "http://127.0.0.1:9", "--wait-seconds", "0"]) == 2
    assert "waiting for http://127.0.0.1:9, which does not answer" in " ".join(capsys.readouterr().err.split())


def test_two_commands_ask_nothing_alike():
    app = Server()
    with served(app) as address:
        for _ in range(2):
            assert run(["warm-up", address, "--picture", "32x32", "--words", "3"]) == 0
            app.start()
    assert len({url for body in app.received for url in pictures(body)}) == len(app.received) == 2 * 14
    assert len({text(body)[:12] for body in app.received}) == 2 * 14


@pytest.mark.parametrize(
    ("imports", "without"),
    [
        ("paceline.cli.warm_up", "sklearn PIL torch transformers"),  # a probe starts every few seconds
        ("paceline.warm_up.requests, paceline.warm_up.warming", "torch transformers vllm fastapi uvicorn"),
    ],
)
def test_it_starts_light_and_needs_no_extra(imports, without):
    check = f"import sys, {imports}; left = set({without!r}.split()) & set(sys.modules); assert not left, left"
    subprocess.run([sys.executable, "-W", "error", "-c", check], check=True)
