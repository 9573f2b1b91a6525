"""`paceline quick` against servers of every kind: with budgets and without, that stream or not, fail, are slow or say little."""

import asyncio
import itertools
import json
import re
import socket

import pytest
from page_server import SyntheticServer, served

from paceline.cli.main import run
from paceline.errors import InvalidValueError, RemoteServerError, UnknownChoiceError
from paceline.models.picture_header import size_of_data_url
from paceline.quick.asking import Answer
from paceline.quick.levels import Level, LevelTimes
from paceline.quick.pictures import picture_url
from paceline.quick.run import KnobFound, QuickJudge, QuickResult, ignored
from paceline.quick.words import WELL, sentences_of
from paceline.remote import ServerAddress

SIDES = (64, 224)
BUDGET_MS = 300.0


class AnyServer:
    """A server with OpenAI's interface and no budgets; each picture is 1 token for 784 pixels, and takes time by its tokens.

    The small picture takes a few milliseconds, the large one is slower than the budget.
    """

    def __init__(self, *, streams=True, usage=True, detail=True, limits="max_pixels", ms_per_token=6.0, fail=None):
        self.streams, self.usage, self.detail, self.limits = streams, usage, detail, limits
        self.ms_per_token, self.fail, self.asked = ms_per_token, fail, []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await SyntheticServer()(scope, receive, send)
        elif scope["path"] == "/v1/models":
            await self.answer(send, {"data": [{"id": "any"}]})
        else:
            await self.chat(json.loads((await whole(receive)) or b"{}"), send)

    async def answer(self, send, document, status=200):
        start = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]}
        await send(start)
        await send({"type": "http.response.body", "body": json.dumps(document).encode()})

    def tokens(self, body):
        images = [part["image_url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
        if not images:
            return 0
        size = size_of_data_url(images[0]["url"])
        tokens = round(size.width * size.height / 784)
        if self.limits in (body.get("mm_processor_kwargs") or {}):
            tokens = min(tokens, 20)
        return min(tokens, 10) if self.detail and images[0].get("detail") == "low" else tokens

    async def chat(self, body, send):
        self.asked.append(body)
        if self.fail is not None and (error := self.fail(body, len(self.asked))):
            await self.answer(send, self.refusal(error), status=500)
            return
        if "stream_options" in body and self.usage == "refused":
            await self.answer(send, {"error": {"message": "stream_options is not known"}}, status=400)
            return
        tokens = self.tokens(body)
        usage = {"usage": {"prompt_tokens": 9 + tokens}} if self.usage is True else {}
        if not (self.streams and body.get("stream")):
            await asyncio.sleep(self.ms_per_token * tokens / 1e3)
            await self.answer(send, {"choices": [{"message": {"content": "4"}}], **usage})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number, part in enumerate(self.chunks(usage)):
            if number == 1:  # the role may come before a token is there
                await asyncio.sleep(self.ms_per_token * tokens / 1e3)
            event = f"data: {json.dumps(part)}\r\n\r\n".encode()
            for piece in (event[:9], event[9:-1], event[-1:]):  # events cut anywhere
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\r\n\r\n"})

    def refusal(self, message):
        return {"error": {"message": message}}

    def chunks(self, usage):
        yield {"choices": [{"delta": {"role": "assistant", "content": ""}}]}
        yield {"choices": [{"delta": {"content": "4"}}]}
        yield {"choices": [], **usage}


class ServerOfSglangsShape(AnyServer):
    """Answers as SGLang's server does (sglang/srt/entrypoints/openai): fields beyond OpenAI's, nulls or, in newer versions,
    nothing where there is nothing, an empty delta at the end, and errors that are no object `error`; it obeys no knob."""

    def __init__(self, *, nulls, **settings):
        super().__init__(detail=False, limits="none", **settings)
        self.nulls = nulls

    def refusal(self, message):
        return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}

    def chunks(self, usage):
        nothing = {"role": None, "content": None, "reasoning_content": None, "tool_calls": None} if self.nulls else {}
        more = {"usage": None} if self.nulls else {}

        def chunk(finish=None, **delta):
            choice = {"index": 0, "delta": {**nothing, **delta}, "logprobs": None, "finish_reason": finish}
            named = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "any"}
            return {**named, "choices": [{**choice, "matched_stop": None}], **more}

        yield chunk(role="assistant", content="")
        yield chunk(content="4")
        yield chunk(finish="length")
        told = {**usage["usage"], "total_tokens": 99, "prompt_tokens_details": None, "reasoning_tokens": 0}
        yield {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "any", "choices": [], "usage": told}


async def whole(receive):
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def judged(app, **settings):
    with served(app) as address:
        given = {"budget_ms": BUDGET_MS, "seconds": 1.5, "sides_px": SIDES, **settings}
        return QuickJudge(ServerAddress.parse(address), **given).run()


def found(result):
    return {each.name: each.what for each in result.knobs}


def test_a_server_without_budgets_is_judged_by_size_and_by_detail():
    app = AnyServer()
    result = judged(app)
    small, large, low = result.levels
    assert (small.tokens, large.tokens, low.tokens) == (5, 64, 10) and low.level.detail == "low"
    assert min(small.kept.share, low.kept.share) >= WELL and large.kept.share == 0
    assert re.fullmatch(
        r"With 300 ms to first token this server keeps \d+ of 100 at 5 image tokens \(95 % interval \d+ to \d+, n = \d+\); "
        r"at 64 image tokens only 0 \(95 % interval 0 to \d+, n = \d+\)\.",
        sentences_of(result)[0],
    )
    assert found(result) == {"detail": "obeyed", "mm_processor_kwargs": "obeyed", "latency_budget_ms": "ignored"}
    assert ignored(result.knobs) == ["latency_budget_ms"]
    pictures = [part["image_url"]["url"] for body in app.asked for part in body["messages"][0]["content"][:-1]]
    assert len(set(pictures)) == len(pictures)  # no cache has seen one before


@pytest.mark.parametrize("nulls", [True, False])
def test_a_server_of_sglangs_shape_is_judged_too(nulls):
    result = judged(ServerOfSglangsShape(nulls=nulls))
    small, large = result.levels
    assert (small.tokens, large.tokens) == (5, 64) and small.kept.share >= WELL and large.kept.share == 0
    assert result.streams and set(found(result).values()) == {"ignored"} and not small.errors + large.errors


def test_errors_of_sglangs_shape_are_told_in_its_words():
    app = ServerOfSglangsShape(
        nulls=True, fail=lambda body, _: "no such field" if "mm_processor_kwargs" in body else None
    )
    assert "500: no such field" in judged(app, seconds=0.3).knobs[1].how
    with pytest.raises(RemoteServerError, match="question about a picture: 500: Invalid image"):
        judged(ServerOfSglangsShape(nulls=True, fail=lambda *_: "Invalid image"))


def test_levels_take_turns_in_a_random_order():
    app = AnyServer(ms_per_token=0.1)
    ticks = itertools.count(step=0.01)
    result = judged(app, seconds=8.0, clock=lambda: next(ticks))  # as many rounds on any machine
    counts = [each.kept.count for each in result.levels]
    assert max(counts) - min(counts) <= 1
    asked = [app.tokens(body) for body in app.asked][-3 * (result.rounds - 1) :]
    rounds = {tuple(asked[place : place + 3]) for place in range(0, len(asked), 3)}
    assert len(rounds) > 1


@pytest.mark.parametrize("limits", ["size"])
def test_other_names_of_a_processors_limits_are_tried(limits):
    assert found(judged(AnyServer(limits=limits, detail=False), seconds=0.5)) == {
        "detail": "ignored",
        "mm_processor_kwargs": "obeyed",
        "latency_budget_ms": "ignored",
    }


def test_a_server_with_budgets_is_asked_to_choose_too():
    result = judged(SyntheticServer(), budget_ms=1000.0, seconds=0.8)
    assert found(result)["latency_budget_ms"] == "obeyed"
    assert found(result)["mm_processor_kwargs"] == "ignored"
    chosen = result.levels[-1]
    assert chosen.level.budget_ms == 1000 and chosen.tokens == 90 and chosen.kept.share == 1
    assert "asked for latency_budget_ms 1000 it keeps 100 of 100" in " ".join(sentences_of(result))


def test_a_server_that_does_not_stream_is_said_to():
    result = judged(AnyServer(streams=False), seconds=0.5)
    assert not result.streams and result.levels[0].kept.share >= WELL and result.levels[1].kept.share == 0


@pytest.mark.parametrize("usage", [False, "refused"])
def test_a_server_that_tells_no_usage_is_judged_by_pixels(usage):
    result = judged(AnyServer(usage=usage), seconds=0.5)
    assert found(result)["detail"] == "not told"
    assert "at 64 × 64 pixels" in sentences_of(result)[0] and "at 224 × 224 pixels only 0" in sentences_of(result)[0]


def test_errors_of_some_requests_count_as_not_kept():
    app = AnyServer(ms_per_token=0.1, fail=lambda _, count: "out of memory" if count > 8 and count % 2 else None)
    result = judged(app, seconds=0.6)
    said = [error for each in result.levels for error in each.errors]
    assert said and set(said) == {"500: out of memory"}
    assert sum(each.kept.count - each.kept.successes for each in result.levels) >= len(said)


def test_knobs_that_are_refused_are_told_with_the_reason():
    app = AnyServer(
        fail=lambda body, _: "unknown field" if "mm_processor_kwargs" in body or "latency_budget_ms" in body else None
    )
    result = judged(app, seconds=0.5)
    assert found(result)["mm_processor_kwargs"] == found(result)["latency_budget_ms"] == "refused"
    assert "500: unknown field" in result.knobs[1].how


def test_a_slow_server_is_given_up_and_counted_only_where_the_budget_was_over():
    app = AnyServer(ms_per_token=8.0, detail=False, limits="none")  # 40 ms and 512 ms
    result = judged(app, seconds=0.3, budget_ms=250.0)
    small, large = result.levels[:2]
    assert small.kept.share >= WELL and large.kept is not None and large.kept.successes == 0
    assert large.errors == []


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n[]", b"\x00\xff", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_what_is_no_server_of_openais_interface_is_one_sentence(answer):
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak():
            for _ in range(2):
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.recv(10_000)
                    client.sendall(answer)

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        with pytest.raises(RemoteServerError, match="does not answer|something else than a list of models"):
            QuickJudge(ServerAddress.parse(f"http://127.0.0.1:{listener.getsockname()[1]}")).run()


def test_a_model_without_eyes_a_missing_model_and_bad_settings_are_sentences():
    with served(AnyServer(fail=lambda *_: "this model takes no images")) as address:
        at = ServerAddress.parse(address)
        with pytest.raises(
            RemoteServerError, match="question about a picture: 500: this model takes no images; name a model"
        ):
            QuickJudge(at).run()
        with pytest.raises(UnknownChoiceError, match="model 'none' is unknown; expected any"):
            QuickJudge(at, model="none").run()
        for settings in (
            {"budget_ms": 0},
            {"seconds": float("nan")},
            {"sides_px": (448, 224)},
            {"sides_px": (1.5,)},
            {"sides_px": ()},
        ):
            with pytest.raises(InvalidValueError):
                QuickJudge(at, **settings)


def test_the_command_prints_sentences_and_one_document(capsys, tmp_path):
    with served(AnyServer()) as address:
        words = ["quick", address, "--budget", "150", "--seconds", "0.3", "--sizes", "64", "224"]
        assert run(words) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "With 150 ms to first token this server keeps" in out and "Not controlled for:" in out
        assert "latency_budget_ms ignored: its answer says nothing of a budget" in out
        assert run([*words, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
    assert document["ignored_knobs"] == ["latency_budget_ms"] and document["servers"][0]["model"] == "any"
    first = document["levels"][0]
    assert first["image_tokens"] == 5 and first["kept"] >= WELL and first["ci"][1] == 1 and first["ttft_ms"]["p50"] > 0
    (tmp_path / "key").write_text("a\nb\n")
    assert run(["quick", address, "--api-key-file", str(tmp_path / "key")]) == 2
    assert run(["quick", address]) == 2
    assert "does not answer: Connection refused" in " ".join(capsys.readouterr().err.split())


def test_two_runs_ask_about_no_picture_twice(capsys):
    """The second run's would come from the server's caches."""
    app = AnyServer(ms_per_token=0.1)
    with served(app) as address:
        for _ in range(2):
            assert run(["quick", address, "--seconds", "0.2", "--sizes", "64", "--json"]) == 0
    pictures = [part["image_url"]["url"] for body in app.asked for part in body["messages"][0]["content"][:-1]]
    assert len(set(pictures)) == len(pictures) > 2


def result_of(*levels):
    return QuickResult(server="s", model="m", budget_ms=300, streams=True, knobs=(), levels=list(levels), seed=0)


def level(tokens, kept, count, **how):
    times = LevelTimes(level=Level(side_px=448, **how), budget_ms=300)
    times.times_ms, times.image_tokens = [100.0] * kept + [400.0] * (count - kept), [tokens] * count
    return times


@pytest.mark.parametrize(
    ("levels", "sentence"),
    [
        (
            [level(560, 95, 100), level(1120, 41, 100)],
            "With 300 ms to first token this server keeps 95 of 100 at 560 image tokens (95 % interval 89 to 98, n = 100); at "
            "1,120 image tokens only 41 (95 % interval 31 to 51, n = 100).",
        ),
        (
            [level(64, 100, 100), level(560, 199, 200)],
            "With 300 ms to first token this server keeps 99 of 100 even at 560 image tokens, its largest (95 % interval 97 to "
            "100, n = 200).",
        ),
        (
            [level(64, 1, 400), level(560, 0, 400)],
            "With 300 ms to first token this server keeps only 1 of 100 at 64 image tokens, its smallest (95 % interval 0 to 1, "
            "n = 400).",
        ),
    ],
)
def test_sentences_say_shares_with_their_intervals(levels, sentence):
    assert sentences_of(result_of(*levels))[0] == sentence


def test_an_answer_that_failed_is_no_time():
    times = LevelTimes(level=Level(side_px=64), budget_ms=300)
    assert times.kept is None and times.document()["kept"] is None
    times.add(Answer(status=500, waited_ms=3.0, error="500: no"), None, None)
    assert times.kept.share == 0 and times.document()["ttft_ms"] == {"p50": None, "p95": None}


def test_pictures_are_one_scene_at_any_size_and_never_twice_the_same():
    urls = {
        picture_url(seed=1, scene=2, variant=variant, size_px=(side, side)) for variant in (1, 2) for side in (64, 224)
    }
    assert len(urls) == 4
    assert {size_of_data_url(url).width for url in urls} == {64, 224}
    assert picture_url(seed=1, scene=2, variant=1, size_px=(64, 64)) == picture_url(
        seed=1, scene=2, variant=1, size_px=(64, 64)
    )


def test_what_was_found_of_knobs_is_listed_by_name():
    knobs = [
        KnobFound(name=name, what=what, how="") for name, what in (("a", "ignored"), ("b", "obeyed"), ("c", "refused"))
    ]
    assert ignored(knobs) == ["a", "c"]
