"""Latency budgets over HTTP: one vLLM server of the embedded model, started by `paceline vllm serve`, asked by real clients."""

import asyncio
import http.client
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest
from budget_server import GENEROUS_MS, PRICE_FLOOR, STEP_TIME, ask, budget_server, chat, transformers_tokens
from budget_table import write_table
from certified_tables import HELD, certified_table
from learned_controllers import synthetic_learned

from paceline.control.choosing import configurations
from paceline.dashboard import live_dashboard
from paceline.datasets.digits import digit_questions
from paceline.errors import EngineError, InvalidValueError, TableError
from paceline.fit import save_table
from paceline.models.loading import load_request_plans
from paceline.quick.run import QuickJudge
from paceline.records import KnobConfig
from paceline.remote import ServerAddress
from paceline.serving.answer import EngineTimes
from paceline.vllm_plugin.budgets_server import (
    BudgetSettings,
    load_controller_of,
    load_controllers,
    open_budgets,
    read_budget_settings,
)
from paceline.vllm_plugin.encoder_times import EncoderClock, with_encoder_ms
from paceline.vllm_plugin.relied_on_server import (
    admission,
    require_server,
    require_trusted_tiers,
    tell_encoder_times,
    tell_steps,
    tell_times,
)
from paceline.vllm_plugin.timed_encoders import TimedEncoders


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with budget_server(tmp_path_factory.mktemp("budgets")) as started:
        yield started


@pytest.fixture(scope="module")
def reference():
    return transformers_tokens()


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=300)


@pytest.fixture(scope="module")
def asked():
    names = ("digits_read", "digits_count", "digits_exist")
    return [question for name in names for question in digit_questions(name, split="test", count=4, seed=7)]


def metrics(server):
    with urllib.request.urlopen(f"{server.address}/metrics", timeout=60) as page:
        lines = page.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}


def wait_until_time_is_cheap(server):
    """What was asked for before has a price, which falls with time: until then not even a long budget gets the largest."""
    deadline = time.monotonic() + 120
    while metrics(server)["paceline:work_price"] > PRICE_FLOOR and time.monotonic() < deadline:
        time.sleep(0.1)


def test_answers_are_those_of_the_configuration_that_a_budget_leads_to(client, asked, reference):
    budgets = (5, 12, 16, 22, 30, 38, 50, 200, GENEROUS_MS)
    with ThreadPoolExecutor(len(budgets)) as pool:  # all at once: configurations share steps
        answers = list(
            pool.map(lambda pair: ask(client, pair[1], latency_budget_ms=pair[0]), zip(budgets, asked, strict=False))
        )
    configs = set()
    for answer, question in zip(answers, asked, strict=False):
        report = answer.paceline
        config = KnobConfig(**report["config"])
        assert answer.choices[0].token_ids == reference(question, config), config
        plans = load_request_plans("digits").plans([question.picture.size])
        assert report["image_tokens"] == plans[config.tier].tokens
        assert 0 < report["ttft_ms"] <= report["total_ms"]
        assert report["within_budget"] == (report["ttft_ms"] <= report["budget_ms"])
        assert answer.metrics["time_to_first_token_ms"] > 0  # vLLM's own, beside it
        configs.add(config)
    assert len(configs) > 1


def test_two_pictures_are_each_under_the_tier_that_one_budget_leads_to(client, asked, reference):
    budgets = (5, 12, 22, 30, 50, GENEROUS_MS)
    pairs = list(zip(asked, asked[1:], budgets, strict=False))
    with ThreadPoolExecutor(len(budgets)) as pool:
        answers = list(pool.map(lambda each: ask(client, each[1], before=each[:1], latency_budget_ms=each[2]), pairs))
    tiers = set()
    for answer, (first, second, _) in zip(answers, pairs, strict=True):
        report = answer.paceline
        config = KnobConfig(**report["config"])
        assert answer.choices[0].token_ids == reference(second, config, before=[first]), config
        sizes = [first.picture.size, second.picture.size]
        assert report["image_tokens"] == load_request_plans("digits").plans(sizes)[config.tier].tokens
        assert not report["promised"] and report["not_promised_because"]
        tiers.add(config.tier)
    assert len(tiers) > 1
    with pytest.raises(openai.BadRequestError, match="3 pictures; this server takes at most 2"):
        ask(client, asked[0], before=asked[1:3], latency_budget_ms=GENEROUS_MS)


def test_a_stream_reports_in_its_usage_chunk_and_its_headers_come_first(server, client, asked):
    wait_until_time_is_cheap(server)
    started = time.perf_counter()
    with client.chat.completions.with_streaming_response.create(
        **chat(asked[0]), stream=True, extra_body={"latency_budget_ms": GENEROUS_MS}
    ) as response:
        assert response.headers["x-paceline-config"] == "high_8_16"
        stages = dict(stage.split(";dur=") for stage in response.headers["server-timing"].split(", "))
        assert list(stages) == ["preprocess", "queue", "vision", "prefill"]
        assert all(float(stages[name]) > 0 for name in ("preprocess", "vision", "prefill"))
        first_ms, chunks = None, []
        for line in response.iter_lines():
            if line.startswith("data: {"):
                chunks.append(json.loads(line[6:]))
                if first_ms is None and chunks[-1]["choices"] and chunks[-1]["choices"][0]["delta"].get("content"):
                    first_ms = 1e3 * (time.perf_counter() - started)
    (usage,) = [chunk for chunk in chunks if not chunk["choices"]]  # nobody asked for one but the budget
    assert usage is chunks[-1] and usage["usage"]["completion_tokens"] > 0
    assert 0 < usage["paceline"]["ttft_ms"] <= first_ms
    assert sum(map(float, stages.values())) <= usage["paceline"]["ttft_ms"]
    assert usage["paceline"]["ttft_ms"] <= usage["paceline"]["total_ms"]
    assert not any("paceline" in chunk for chunk in chunks[:-1])


def test_without_a_budget_nothing_is_chosen_and_a_clients_own_knobs_are_stripped(client, asked, reference):
    native = KnobConfig(tier=None, top_k=8, num_active_blocks=16)
    knobs = {
        "vllm_xargs": {"paceline_top_k": 1, "paceline_active_blocks": 8},
        "mm_processor_kwargs": {"size": {"longest_edge": 4096}},
    }
    plain, sent = ask(client, asked[1]), ask(client, asked[1], **knobs)
    assert plain.choices[0].token_ids == sent.choices[0].token_ids
    assert plain.usage.prompt_tokens == sent.usage.prompt_tokens
    assert not hasattr(plain, "paceline") and native.top_k == 8
    raw = client.chat.completions.with_raw_response.create(**chat(asked[1]), extra_body=knobs)
    assert raw.headers["x-paceline-stripped"].startswith("mm_processor_kwargs, vllm_xargs.paceline_")


def test_a_second_content_type_brings_no_knobs_to_the_engine(server, asked):
    wait_until_time_is_cheap(server)
    host, _, port = server.address.removeprefix("http://").partition(":")
    body = json.dumps(chat(asked[1], vllm_xargs={"paceline_top_k": 1}, latency_budget_ms=GENEROUS_MS)).encode()
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    connection.putrequest("POST", "/v1/chat/completions")
    for kind in ("application/json", "multipart/form-data; boundary=x"):  # vLLM reads the first
        connection.putheader("Content-Type", kind)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert answer.headers["x-paceline-stripped"] == "vllm_xargs.paceline_top_k"
    assert document["paceline"]["budget_ms"] == GENEROUS_MS and document["paceline"]["config"]["top_k"] != 1


def test_budgets_that_are_none_are_openai_errors(client, asked):
    with pytest.raises(openai.BadRequestError, match="expected a number of milliseconds") as refused:
        ask(client, asked[0], latency_budget_ms="soon")
    assert refused.value.param == "latency_budget_ms"
    with pytest.raises(openai.BadRequestError, match="expected ttft"):
        ask(client, asked[0], latency_budget_ms=30, latency_budget_kind="total")
    with pytest.raises(openai.BadRequestError):  # vLLM's own passes through a budget
        ask(client, asked[0], latency_budget_ms=30, temperature="hot")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_with_a_gateways_header(server, asked, tmp_path):
    wait_until_time_is_cheap(server)
    (tmp_path / "body.json").write_text(json.dumps(chat(asked[2])))
    command = [
        *("curl", "-sS", "-i", f"{server.address}/v1/chat/completions", "-H", "Content-Type: application/json"),
        *("-H", "x-llm-d-slo-ttft-ms: 60000", "-d", f"@{tmp_path / 'body.json'}"),
    ]
    head, _, body = subprocess.run(command, capture_output=True, text=True, check=True).stdout.partition(
        "\n\n"
    )  # line ends are read as one
    assert "200 OK" in head and "x-paceline-config: high_8_16" in head
    assert json.loads(body)["paceline"]["budget_ms"] == 60_000


def test_requests_that_go_away_leave_nothing_behind(server, client, asked, reference):
    """Clients that leave after a while of any length, with and without a budget, streaming or not, and answers beside them."""

    def leave(number):
        impatient = client.with_options(timeout=0.01 * (1 + number % 12), max_retries=0)
        try:
            return ask(impatient, asked[number % 12], **({"latency_budget_ms": 20 + number} if number % 3 else {}))
        except openai.APIConnectionError:  # timed out, or not yet connected
            return None

    with ThreadPoolExecutor(8) as pool:
        leaving = pool.map(leave, range(48))
        staying = [ask(client, asked[3], latency_budget_ms=GENEROUS_MS) for _ in range(4)]
        answers = list(leaving)
    assert answers.count(None) > 3
    for answer in staying:
        assert answer.choices[0].token_ids == reference(asked[3], KnobConfig(**answer.paceline["config"]))
    deadline = time.monotonic() + 60
    while metrics(server)["paceline:requests_unfinished"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert metrics(server)["paceline:requests_unfinished"] == 0


def test_beside_others_budgets_are_promised_once_such_requests_were_answered(server, client, asked):
    def one(number):
        budget = {} if number % 6 == 5 else {"latency_budget_ms": GENEROUS_MS}
        return ask(client, asked[number % len(asked)], **budget)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, range(60)))
    reports = [answer.paceline for answer in answers if hasattr(answer, "paceline")]
    beside = [each for each in reports if "beside others" in each.get("not_promised_because", "")]
    assert all(each["bound_ms"] is None for each in beside)  # they came while too few were answered
    promised = [each for each in reports if each["promised"]]
    assert len(promised) >= 3 and all(each["within_budget"] and each["bound_ms"] > 0 for each in promised)
    page = metrics(server)
    assert page["paceline:step_drift_factor"] != 1.0 and page["paceline:coverage_beside_ratio"] > 0.5
    assert page["paceline:work_price"] >= PRICE_FLOOR and page["paceline:requests_unfinished"] == 0
    assert "Iteration(" not in server.log.read_text()


def test_a_minute_with_the_server_and_the_page_before_it(server):
    """`paceline quick` and the relay of `paceline dashboard`, before a real vLLM."""
    address = ServerAddress.parse(server.address)
    result = QuickJudge(address, budget_ms=GENEROUS_MS, seconds=2, sides_px=(64, 160)).run()
    found = {each.name: each.what for each in result.knobs}
    assert result.streams and found["latency_budget_ms"] == "obeyed"
    assert found["detail"] == found["mm_processor_kwargs"] == "ignored"  # what clients set is stripped, and said to be
    assert all(each.kept.share == 1 for each in result.levels)
    assert 0 < result.levels[0].tokens < result.levels[1].tokens
    dashboard = live_dashboard(address)
    thread = threading.Thread(target=dashboard.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        for path, expected in (
            ("", b"Ask within a budget"),
            ("metrics", b"paceline:promises_total"),
            ("v1/models", b"digits"),
        ):
            with urllib.request.urlopen(dashboard.url + path, timeout=60) as answer:
                assert expected in answer.read()
        with urllib.request.urlopen(dashboard.url + "paceline/recent", timeout=60) as answer:
            reports = json.load(answer)
        assert reports and reports[-1]["budget_ms"] == GENEROUS_MS
    finally:
        dashboard.shutdown()
        thread.join()
        dashboard.server_close()


def test_vllm_bench_serve_asks_with_a_budget_and_metrics_count_it(server):
    before = metrics(server)
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--backend", "openai-chat"),
        *("--base-url", server.address, "--endpoint", "/v1/chat/completions", "--model", "digits"),
        *("--tokenizer", str(next(Path(server.environment["XDG_CACHE_HOME"]).glob("paceline/digits-*")))),
        *("--dataset-name", "random", "--random-input-len", "24", "--random-output-len", "4", "--num-prompts", "6"),
        *("--extra-body", '{"latency_budget_ms": 60000}'),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=server.environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Successful requests:                     6" in done.stdout
    after = metrics(server)
    decided = [name for name in after if name.startswith("paceline:decisions_total")]
    assert sum(after[name] - before.get(name, 0) for name in decided) >= 6
    assert any(name.startswith("vllm:time_to_first_token_seconds") for name in after)


def state(**changes):
    args = {"api_server_count": 1, "trust_request_mm_kwargs": True, "api_key": None} | changes.pop("args", {})
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(worker_cls="paceline.vllm_plugin.worker"),
        scheduler_config=SimpleNamespace(scheduler_cls="paceline.vllm_plugin.scheduler"),
        additional_config=changes.pop("additional_config", {}),
    )
    return SimpleNamespace(
        args=SimpleNamespace(**args), vllm_config=config, engine_client=None, **{"log_stats": True, **changes}
    )


def test_servers_that_budgets_cannot_be_kept_on_are_refused():
    with pytest.raises(EngineError, match="--api-server-count is 2"):
        require_server(state(args={"api_server_count": 2}))
    with pytest.raises(EngineError, match="--disable-log-stats"):
        require_server(state(log_stats=False))
    other = state()
    other.vllm_config.parallel_config.worker_cls = "auto"
    with pytest.raises(EngineError, match="--worker-cls"):
        require_server(other)
    with pytest.raises(EngineError, match="add --trust-request-mm-kwargs"):
        require_trusted_tiers(state(args={"trust_request_mm_kwargs": False}), "qwen3_vl")
    with pytest.raises(
        EngineError, match="compared in vLLM for idefics3.* and not for aria, where one may end the engine"
    ):
        require_trusted_tiers(state(), "aria")
    require_trusted_tiers(state(), "qwen3_vl_moe")
    with pytest.raises(InvalidValueError, match="controller"):
        open_budgets(None, state())
    for cells, key in (
        ({"controller": "c", "alpha": 2}, "alpha"),
        ({"controller": "c", "client_knobs": 1.5}, "client_knobs"),
        ({"controller": "c", "certified_only": "yes"}, "certified_only"),
        ({"controller": "c", "certified_only": True, "client_knobs": True}, "client_knobs"),
        ({"controller": "c", "price_floor": "high"}, "price_floor"),
        ({"controller": "c", "price_floor": -1}, "floor"),
        ({"controller": "c", "price_per_arrival": -1}, "per_arrival"),
        ({"controller": "c", "price_share": 2}, "share"),
    ):
        with pytest.raises(InvalidValueError, match=key):
            read_budget_settings(cells)


def test_nothing_but_what_is_certified_is_served_where_that_is_asked(tmp_path):
    save_table(certified_table(HELD), tmp_path / "table.json")
    cells = {"controller": str(tmp_path / "table.json"), "certified_only": True}
    [served] = load_controllers(read_budget_settings(cells)).values()
    assert configurations(served) == HELD.certified[::-1]
    [whole] = load_controllers(read_budget_settings({**cells, "certified_only": False})).values()
    assert len(configurations(whole)) == len(configurations(served)) + 1
    save_table(certified_table(None), tmp_path / "plain.json")
    with pytest.raises(TableError, match="holds no certificate"):
        load_controllers(read_budget_settings({**cells, "controller": str(tmp_path / "plain.json")}))


@pytest.mark.parametrize(("latency_kind", "served"), [("ttft", "ttft"), ("prefill", "ttft"), ("total", "total")])
def test_milliseconds_of_totals_serve_no_budget_of_first_tokens(tmp_path, latency_kind, served):
    settings = BudgetSettings(controller=write_table(tmp_path / "table.json", latency_kind=latency_kind))
    assert list(load_controllers(settings)) == [served]


def test_a_learned_controller_is_served_by_its_bounds_and_that_is_said(tmp_path, monkeypatch, caplog):
    learned = synthetic_learned()
    monkeypatch.setattr("paceline.serving.controllers.load_controller", lambda path, alpha, certified_only: learned)
    with caplog.at_level("WARNING", "vllm.paceline"):
        controllers = load_controllers(BudgetSettings(controller=tmp_path))
    assert controllers == {"ttft": learned.bound}
    (said,) = [record.getMessage() for record in caplog.records if record.name == "vllm.paceline"]
    assert "looks at pixels and prompts, which are not read before a decision; its bounds choose instead" in said


def test_what_the_encoder_took_comes_with_a_requests_own_statistics():
    class Processor:
        def __init__(self):
            self.request_states = {"a-1": SimpleNamespace(stats=SimpleNamespace()), "b-1": SimpleNamespace(stats=None)}

        def process_outputs(self, outputs, when):
            return [vars(self.request_states["a-1"].stats), when]

    engine = SimpleNamespace(output_processor=Processor())
    tell_encoder_times(engine)
    headers = with_encoder_ms(with_encoder_ms({"traceparent": "x"}, 2.5), 1.5)  # two pictures, one after the other
    outputs = [
        SimpleNamespace(request_id=name, trace_headers=given)
        for name, given in (
            ("a-1", headers),
            ("b-1", headers),
            ("gone", headers),
            ("a-1", None),
            ("a-1", {"traceparent": "x"}),
        )
    ]
    assert engine.output_processor.process_outputs(outputs, 7.0) == [{"paceline_encoder_ms": 4.0}, 7.0]


class Updated:
    def __init__(self, requests):
        self.requests = requests

    def update_from_output(self, scheduler_output, model_runner_output):
        return [request.trace_headers for request in self.requests.values()]


def test_a_steps_encoder_counts_for_the_budgeted_requests_whose_pictures_it_encoded():
    class Timed(TimedEncoders, Updated):
        pass

    def request(**extra):
        return SimpleNamespace(trace_headers=None, sampling_params=SimpleNamespace(extra_args=extra))

    scheduler = Timed({"a": request(paceline_top_k=2), "native": request(), "text": request(paceline_ttft_budget_ms=9)})
    step = SimpleNamespace(scheduled_encoder_inputs={"a": [0], "native": [0], "gone": [1]})
    clock, output = EncoderClock(), SimpleNamespace()
    runner = SimpleNamespace(_execute_mm_encoder=lambda found: found)
    clock.follow(runner)
    runner._execute_mm_encoder([])
    assert clock.tell(None) is None and not vars(clock.tell(SimpleNamespace()))
    runner._execute_mm_encoder(["features"])
    assert clock.tell(None) is None
    headers, *others = scheduler.update_from_output(step, clock.tell(output))
    assert float(headers["paceline-vision-ms"]) == 1e3 * output.paceline_encoder_seconds > 0
    assert others == [None, None] and not vars(clock.tell(SimpleNamespace()))


def test_who_decides_beside_others_knows_the_engines_order_and_steps():
    settings = read_budget_settings({"controller": "c", "price_floor": 0.5})
    config = state().vllm_config
    config.scheduler_config.max_num_batched_tokens = 2048
    cells = {"policy": "edf", "no_budget_seconds": 3.0}
    plain = load_controller_of(settings, cells, config)
    assert (plain.planner.policy, plain.planner.chunk_size, plain.model.per_prefill_token_ms) == ("edf", 1, 1.0)
    assert plain.planner.weights.no_budget_seconds == 3.0
    fitted = load_controller_of(settings, {**cells, "step_time": STEP_TIME}, config)
    assert (fitted.planner.chunk_size, fitted.model.document()) == (2048, STEP_TIME)
    config.scheduler_config.scheduler_cls = "paceline.vllm_plugin.stock"
    assert load_controller_of(settings, cells, config).planner.policy == "fcfs"
    assert (settings.price_floor, settings.price_step, settings.price_share) == (0.5, None, 0.5)
    assert settings.price_per_arrival == 0.25
    assert read_budget_settings({"controller": "c", "price_per_arrival": 0}).price_per_arrival == 0


def test_whom_the_api_key_does_not_admit_is_not_read():
    def scope(path, key):
        return {"type": "http", "path": path, "headers": [(b"authorization", f"Bearer {key}".encode())]}

    admits = admission(SimpleNamespace(api_key=["one", "two"]))
    assert admits(scope("/v1/chat/completions", "two")) and not admits(scope("/v1/chat/completions", "three"))
    assert not admits({"type": "http", "path": "/v1/chat/completions", "headers": []})
    assert admits(scope("/tokenize", "three"))  # vLLM guards it with no key
    assert admission(SimpleNamespace(api_key=None))(scope("/v1/chat/completions", "three"))


class Outputs:
    """An engine's client whose outputs may fail, and which counts how many of its generators have ended."""

    def __init__(self, fails):
        self.ended, self.fails = 0, fails

    async def generate(self, *args, **kwargs):
        try:
            for number in range(3):
                await asyncio.sleep(0)
                if self.fails and number == 1:
                    raise RuntimeError("engine")
                later = {
                    "first_token_latency": 0.5 * (number > 0),
                    "queued_ts": 1.0,
                    "scheduled_ts": 1.2,
                    "first_token_ts": 1.7,
                }
                yield SimpleNamespace(number=number, metrics=SimpleNamespace(arrival_time=100.0, **later))
        finally:
            self.ended += 1


async def consumed(engine, ends):
    outputs, found = engine.generate("prompt", request_id="r"), []
    async for output in outputs:
        found.append(output.number)
        if ends == "closed":
            await outputs.aclose()
    return found


async def consumed_by_a_task(engine, ends):
    task = asyncio.ensure_future(consumed(engine, ends))
    if ends == "cancelled":
        await asyncio.sleep(0)
        task.cancel()
    (found,) = await asyncio.gather(task, return_exceptions=True)
    return found


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("ends", "expected"),
    [("itself", [0, 1, 2]), ("closed", [0]), ("cancelled", asyncio.CancelledError), ("failed", RuntimeError)],
)
def test_an_engines_outputs_pass_and_end_as_they_did(ends, expected, told):
    engine, times = Outputs(ends == "failed"), EngineTimes()
    tell_times(engine, lambda: times if told else None)
    found = asyncio.run(consumed_by_a_task(engine, ends))
    assert engine.ended == 1
    assert found == expected if isinstance(expected, list) else isinstance(found, expected)
    if ends == "itself" and told:
        assert times.first_token_wall == 100.5
        assert times.handed_over_wall <= time.time()
        assert (times.queue_ms, times.vision_ms, times.prefill_ms) == (pytest.approx(200), None, pytest.approx(500))


def test_steps_are_told_and_stay_out_of_vllms_log():
    recorded, told = [], []
    manager = SimpleNamespace(record=lambda **stats: recorded.append(stats))
    tell_steps(SimpleNamespace(logger_manager=manager), lambda *step: told.append(step))
    tell_steps(SimpleNamespace(), told.append)  # an engine without statistics
    details = SimpleNamespace(num_ctx_tokens=64, num_generation_tokens=3, elapsed_ms=7.5, is_dummy=False)
    for each in (details, None, SimpleNamespace(is_dummy=True)):
        stats = SimpleNamespace(iteration_details=each)
        manager.record(scheduler_stats=stats, iteration_stats=None, engine_idx=0)
        assert recorded[-1]["scheduler_stats"] is stats and stats.iteration_details is None
    manager.record(scheduler_stats=None)
    assert told == [(64, 3, 7.5)] and len(recorded) == 4
