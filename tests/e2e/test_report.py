import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from evaluated_controllers import RuledBySight, synthetic_samples_with_vectors
from headless import PATIENCE_MS, launched
from latency_models import synthetic_samples as evaluated_samples
from latency_models import token_linear
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from paceline.cli import report as report_command
from paceline.cli.simulate import command as simulate_command
from paceline.control import LookupTable
from paceline.control.estimated import BoundController
from paceline.errors import InvalidValueError, OutputPathError, RequestFileError, UnknownChoiceError
from paceline.evaluate import Evaluation, evaluate
from paceline.evaluate.knob_shares import knob_shares
from paceline.fit import build_dataset_tables, build_lookup_table
from paceline.fit.candidates import estimator_candidates, table_candidates
from paceline.fit.conformal import calibrate_bounds
from paceline.profiles import SCHEMA, Profile, Split, read_profile, split_samples
from paceline.profiles.request_features import request_vectors
from paceline.report import write_report
from paceline.report.comparison import write_comparison
from paceline.report.decisions import decided_document
from paceline.report.evaluation import FIRST_SHOWN, write_evaluation
from paceline.report.lines import LINES, lines_of, words_of
from paceline.report.page import report_page
from paceline.report.parts import LARGEST_PAGE_BYTES
from paceline.report.timeline import timeline_rows, write_timeline
from paceline.schedule import read_step_log
from paceline.tune.run_files import read_requests

HOSTILE = "<img src=x onerror=alert(1)>"
HOSTILE_RUN = f"{HOSTILE} run"
TIERS = {"low": 20.0, "medium": 40.0, "high": 60.0}


def synthetic_samples(datasets: tuple[str, ...] = ("text_vqa", "ok_vqa"), count: int = 12) -> pl.DataFrame:
    """Three tiers by two block counts; accuracy and time grow with both, medium/16 is dominated on ok_vqa."""
    rows: list[dict[str, Any]] = []
    for dataset in datasets:
        for tier, vision_ms in TIERS.items():
            for blocks in (12, 16):
                worse = dataset == "ok_vqa" and (tier, blocks) == ("medium", 16)
                for index in range(count):
                    accuracy = 0.1 if worse else 0.3 + vision_ms / 200 + (blocks - 12) / 40 + (index % 3) / 10
                    prefill_ms = 5.0 * blocks + index / 4
                    rows.append(
                        {
                            "dataset": dataset,
                            "sample_id": str(index),
                            "tier": tier,
                            "top_k": None,
                            "num_active_blocks": blocks,
                            "target_vision_tokens": 144,
                            "actual_vision_tokens": 144,
                            "actual_text_tokens": 9,
                            "output_tokens": 3,
                            "accuracy": accuracy,
                            "pred": "7",
                            "metadata": "{}",
                            "T_vision_total": vision_ms,
                            "T_LLM_prefill": prefill_ms,
                            "T_LLM_decode": 30.0,
                            "T_decode_per_token": 15.0,
                            "T_total": vision_ms + prefill_ms + 32.0,
                            "T_preprocess": None,
                            "T_ttft": None,
                            "T_other": 2.0,
                        }
                    )
    return pl.DataFrame(rows, schema=SCHEMA)


def profile_of(samples: pl.DataFrame, name: str = "synthetic.parquet") -> Profile:
    return Profile(samples=samples, provenance=(), source=Path(name), left_out=())


@pytest.fixture(scope="module")
def profile_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "synthetic.parquet"
    synthetic_samples().write_parquet(path)
    return path


@pytest.fixture(scope="module")
def page_file(profile_file: Path) -> Path:
    path = profile_file.parent / "report.html"
    written = CliRunner().invoke(command_line(), [str(profile_file), "-o", str(path)], catch_exceptions=False)
    assert "MB" in written.stderr
    return path


browser = pytest.fixture(scope="module")(launched)


def command_line() -> typer.Typer:
    app = typer.Typer()
    report_command.register(app)
    return app


class Visit:
    """An opened page with all that went wrong in it."""

    def __init__(self, browser: Browser, path: Path, *, width: int = 1280, scheme: Any = "light") -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready=yes]")

    def slide_to(self, index: int) -> float:
        self.page.evaluate(
            "index => { const s = document.getElementById('budget'); s.value = index; "
            "s.dispatchEvent(new Event('input')); }",
            index,
        )
        return float(self.page.inner_text("#budget-shown").removesuffix(" ms"))

    def taken(self, controller: str, dataset: str) -> str:
        return self.page.inner_text(f'[data-taken="{controller}"][data-dataset="{dataset}"]')


def test_the_slider_shows_what_the_tables_decide(browser: Browser, page_file: Path, profile_file: Path) -> None:
    profile = read_profile(profile_file)
    everything, own = build_lookup_table(profile), build_dataset_tables(profile)
    visit = Visit(browser, page_file)
    last = int(visit.page.get_attribute("#budget", "max") or 0)
    for index in (0, last // 3, last // 2, last):
        budget_ms = visit.slide_to(index)
        assert everything.key_at(budget_ms) in visit.page.inner_text("#taken")
        for dataset, table in own.items():
            assert visit.taken("global", dataset).startswith(everything.key_at(budget_ms))
            assert visit.taken("own", dataset).startswith(table.key_at(budget_ms))
            assert kept_in(visit.taken("own", dataset)) == kept_of(profile, dataset, table, budget_ms)
    assert visit.complaints == []
    assert visit.requests == [page_file.as_uri()]


def kept_in(words: str) -> int:
    return int(words.split("kept by ")[1].split(" %")[0])


def kept_of(profile: Profile, dataset: str, table: LookupTable, budget_ms: float) -> int:
    tier, _, blocks = table.key_at(budget_ms).split("_")
    chosen = profile.samples.filter(
        pl.col("dataset").cast(pl.String) == dataset,
        pl.col("tier").cast(pl.String) == tier,
        pl.col("num_active_blocks") == int(blocks),
    )
    latencies = (chosen["T_vision_total"] + chosen["T_LLM_prefill"]).to_list()
    return round(100 * round(sum(each <= budget_ms for each in latencies) / len(latencies), 3))


def test_a_budget_that_nothing_keeps_is_marked(browser: Browser, page_file: Path) -> None:
    visit = Visit(browser, page_file)
    visit.slide_to(0)
    assert "No configuration fits" in visit.page.inner_text("#taken")
    assert "none fits, the nearest" in visit.taken("own", "ok_vqa")


def test_the_slider_works_from_the_keyboard(browser: Browser, page_file: Path) -> None:
    visit = Visit(browser, page_file)
    before = visit.page.inner_text("#budget-shown")
    visit.page.keyboard.press("Tab")  # the skip link
    visit.page.keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.id") == "budget"
    visit.page.keyboard.press("ArrowRight")
    after = visit.page.inner_text("#budget-shown")
    assert after != before
    assert (visit.page.get_attribute("#budget", "aria-valuetext") or "").startswith(after)


def test_every_chart_is_drawn_and_the_marks_move(browser: Browser, page_file: Path) -> None:
    visit = Visit(browser, page_file)
    charts = visit.page.locator("[data-chart]")
    assert charts.count() == visit.page.locator("[data-chart] svg").count()
    names = charts.evaluate_all("all => all.map(each => each.dataset.chart)")
    assert sorted(set(names)) == ["front", "histogram", "knob_accuracy", "knob_latency", "percentiles", "stages"]
    assert names.count("front") == 2
    assert names.count("knob_accuracy") == 2  # the model has no top_k
    front = visit.page.locator("[data-chart=front] svg").first
    visit.slide_to(0)
    at_start = front.inner_html()
    visit.slide_to(80)
    visit.page.wait_for_function(
        "before => document.querySelector('[data-chart=front] svg').innerHTML !== before", arg=at_start
    )


@pytest.mark.parametrize(
    ("width", "scheme", "paper"), [(1280, "dark", "rgb(20, 23, 27)"), (390, "light", "rgb(255, 255, 255)")]
)
def test_it_fits_a_phone_and_follows_the_colour_scheme(
    browser: Browser, page_file: Path, width: int, scheme: str, paper: str
) -> None:
    visit = Visit(browser, page_file, width=width, scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert visit.complaints == []


def test_print_is_light_and_opens_every_table(browser: Browser, page_file: Path) -> None:
    visit = Visit(browser, page_file, scheme="dark")
    visit.page.emulate_media(media="print")
    visit.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert visit.page.locator("details:not([open])").count() == 0
    assert not visit.page.is_visible("#budget")
    assert visit.page.locator("[data-chart=stages] svg").get_attribute("viewBox", timeout=PATIENCE_MS) is not None
    visit.page.wait_for_function("document.querySelector('[data-chart=stages] svg').viewBox.baseVal.width <= 680")


def test_names_from_files_are_text_not_markup(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(report_page(profile_of(synthetic_samples((HOSTILE, "</script><script>alert(2)</script>"), 2))))
    visit = Visit(browser, path)
    assert visit.complaints == []
    assert HOSTILE in visit.page.locator("h3").all_inner_texts()
    assert visit.page.locator("img").count() == 0


def test_generated_data_is_labelled(page_file: Path) -> None:
    assert "Synthetic data: generated, not measured" in page_file.read_text()
    assert "Synthetic data" not in report_page(profile_of(synthetic_samples(count=1), "measured.parquet"))


def test_stages_that_were_not_measured_are_said_to_be_missing() -> None:
    without_other = synthetic_samples(count=2).with_columns(T_other=pl.lit(None, dtype=pl.Float64))
    assert "Not in these files: other." in report_page(profile_of(without_other))


def test_a_page_of_nine_datasets_stays_below_the_limit() -> None:
    page = report_page(profile_of(synthetic_samples(tuple(f"synthetic_{index}" for index in range(9)), 3)))
    assert len(page.encode()) < LARGEST_PAGE_BYTES


def test_the_page_says_which_samples_judge_its_tables(learned_evaluation: Evaluation) -> None:
    profile, decided = profile_of(synthetic_samples(count=2)), decided_document(learned_evaluation)
    assert "held-out requests is shown with --estimator" in report_page(profile)
    assert "held-out requests stands above" in report_page(profile, decided=decided)


def test_mistakes_are_named(profile_file: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputPathError, match="cannot write"):
        write_report(profile_file, tmp_path / "absent" / "report.html")
    with pytest.raises(UnknownChoiceError, match="latency kind 'decode'"):
        CliRunner().invoke(command_line(), [str(profile_file), "--latency", "decode"], catch_exceptions=False)


@pytest.mark.parametrize("package", ["altair", "vl_convert"])
def test_a_missing_extra_is_named_with_its_remedy(package: str) -> None:
    code = f"""
import sys
sys.modules["{package}"] = None
try:
    import paceline.cli.report
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtraError")
    assert "pip install 'paceline[report]'" in done.stdout


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    parts = split_samples(evaluated_samples(300), Split(seed=4))
    judged = profile_of(evaluated_samples(150))
    bounds = calibrate_bounds(token_linear(), parts)
    controllers = {**table_candidates(judged, parts), **estimator_candidates(token_linear(), bounds)}
    return evaluate(parts.test, controllers, budgets_ms=(10.0, 20.0, 40.0))


@pytest.fixture(scope="module")
def evaluation_file(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("evaluation") / "evaluation.html"
    assert write_evaluation(evaluation, profile_of(synthetic_samples()), path) == path.stat().st_size
    return path


def test_an_evaluation_draws_both_charts_with_a_line_a_controller(
    browser: Browser, evaluation: Evaluation, evaluation_file: Path
) -> None:
    visit = Visit(browser, evaluation_file)
    assert visit.page.locator("[data-chart] svg").count() == 2
    drawn = [name for name in LINES if name in evaluation.controllers]
    assert drawn == [
        "bound",
        "point",
        "table",
        "dataset_tables",
        "table_equal_adherence",
        "oracle_within_bound",
        "oracle",
    ]
    for chart in ("adherence", "accuracy"):
        svg = visit.page.locator(f"[data-chart={chart}] svg")
        names = svg.locator(".role-legend-label text")
        assert names.count() == len(drawn)
        lines = svg.locator(".mark-line.role-mark path")
        assert lines.count() == len(FIRST_SHOWN) == 3
        assert svg.locator(".mark-symbol.role-mark path").count() == 3 * len(FIRST_SHOWN)
        assert svg.locator(".mark-rule.role-mark line").count() == (chart == "adherence")
        for count, name in ((4, "estimator, point"), (3, "estimator, point"), (2, "table")):  # shown, and away again
            names.get_by_text(name, exact=True).click()
            visit.page.wait_for_function(
                "([chart, count]) => document.querySelectorAll("
                "`[data-chart=${chart}] svg .mark-line.role-mark path`).length === count",
                arg=[chart, count],
            )
    assert visit.complaints == []
    assert visit.requests == [evaluation_file.as_uri()]


def test_an_evaluation_shows_the_figures_it_was_given(
    browser: Browser, evaluation: Evaluation, evaluation_file: Path
) -> None:
    visit = Visit(browser, evaluation_file)
    visit.page.click("summary")
    rows = visit.page.locator("tbody tr")
    assert rows.count() == 3 * len(evaluation.controllers)
    bound = evaluation.controllers["bound"]
    shown = rows.filter(has_text="estimator with bound").all_inner_texts()
    assert [f"{each.adherence.share:.3f}" in text for each, text in zip(bound, shown, strict=True)] == [True] * 3
    assert "Synthetic data: generated, not measured" in visit.page.inner_text("header")
    assert "No fixed configuration keeps" in visit.page.inner_text("main") or all(evaluation.within_possible)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_an_evaluation_fits_a_phone(browser: Browser, evaluation_file: Path, width: int, scheme: str) -> None:
    visit = Visit(browser, evaluation_file, width=width, scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.complaints == []


CURVES = {
    "grpo": [{"step": 0.0, "validation_reward": 0.1}, {"step": 50.0, "validation_reward": 0.3, "kl": 0.2}],
    "supervised": [{"step": 0.0, "validation_reward": 0.2, "training_loss": 0.7}],
}


@pytest.fixture(scope="module")
def learned_evaluation() -> Evaluation:
    parts = split_samples(synthetic_samples_with_vectors(300), Split(seed=4))
    judged = profile_of(evaluated_samples(150))
    bounds = calibrate_bounds(token_linear(), parts)
    bound = BoundController(model=token_linear(), bounds=bounds)
    controllers = {
        "table": table_candidates(judged, parts)["table"],
        "bound": bound,
        "grpo": RuledBySight(bound=bound, pick=lambda _budget, _vector, fitting: fitting[-1], refuses=True),
        "grpo_other": RuledBySight(bound=bound, pick=lambda _budget, _vector, fitting: fitting[0]),
        "supervised": RuledBySight(
            bound=bound, pick=lambda _budget, vector, fitting: fitting[int(vector[6] > 0.5) - 1]
        ),
    }
    vectors = request_vectors(parts.test, Path("synthetic"))
    return evaluate(parts.test, controllers, budgets_ms=(10.0, 20.0, 40.0), vectors=vectors)


@pytest.fixture(scope="module")
def learned_file(learned_evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("learned") / "evaluation.html"
    write_evaluation(learned_evaluation, profile_of(synthetic_samples()), path, curves=CURVES)
    return path


def test_learned_controllers_have_lines_and_learning_curves(
    browser: Browser, learned_evaluation: Evaluation, learned_file: Path
) -> None:
    visit = Visit(browser, learned_file)
    charts = visit.page.locator("[data-chart]").evaluate_all("all => all.map(each => each.dataset.chart)")
    assert charts == [
        "adherence",
        "accuracy",
        *(f"learning_{name}" for name in ("validation_reward", "kl", "training_loss")),
    ]
    assert visit.page.locator("[data-chart] svg").count() == len(charts)
    drawn = ["bound", "grpo", "grpo_other", "supervised", "table", "table_equal_adherence"]
    lines = lines_of(learned_evaluation.controllers)
    assert list(lines) == [*drawn, "oracle_within_bound", "oracle"]
    assert lines["grpo_other"][0] != lines["grpo"][0]
    assert visit.page.locator("[data-chart=accuracy] svg .role-legend-label text").count() == len(lines)
    assert visit.page.locator("[data-chart=accuracy] svg .mark-line.role-mark path").count() == 3
    rewards = visit.page.locator("[data-chart=learning_validation_reward] svg .mark-symbol.role-mark path")
    assert rewards.count() == 3
    assert visit.complaints == []
    assert visit.requests == [learned_file.as_uri()]


def test_what_is_recovered_refused_and_taken_stands_on_the_page(
    browser: Browser, learned_evaluation: Evaluation, learned_file: Path
) -> None:
    visit = Visit(browser, learned_file)
    shown = visit.page.locator("section[aria-labelledby=recovered-title]").inner_text()
    for name, figures in learned_evaluation.learned.items():
        assert words_of(name) in shown
        for each in figures.recovered:
            if each.overall is not None:
                assert f"{100 * each.overall.gain.difference:.2f}" in shown
                assert each.overall.share is not None and f"{each.overall.share:.3f}" in shown
    refused = sum(row.refused for row in learned_evaluation.controllers["grpo"])
    assert refused > 0 and f"learned preferences (GRPO)\t{3 * learned_evaluation.num_requests}\t{refused}\t" in shown
    rows = visit.page.locator("section[aria-labelledby=knobs-title] tbody tr").all_inner_texts()
    for name in ("bound", "grpo", "grpo_other", "supervised"):
        for each in knob_shares(learned_evaluation.controllers[name]):
            cells = [words_of(name), each.dataset, f"{each.accuracy:.3f}"]
            assert any(row.split("\t")[:3] == cells for row in rows)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_an_evaluation_of_learned_controllers_fits_a_phone(
    browser: Browser, learned_file: Path, width: int, scheme: str
) -> None:
    visit = Visit(browser, learned_file, width=width, scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.complaints == []


def test_two_controllers_of_one_learner_look_different() -> None:
    lines = lines_of(["grpo_new", "grpo_old", "bound"])
    assert len({str(line) for line in lines.values()}) == 3
    assert words_of("grpo_old") == "learned preferences (GRPO) old"


def test_without_learned_controllers_the_page_says_nothing_of_them(evaluation_file: Path) -> None:
    assert "What learning wins back" not in evaluation_file.read_text()


STEP_TIME = {
    "base_ms": 5.0,
    "per_decode_token_ms": 0.05,
    "per_decode_context_token_ms": 0.0001,
    "per_prefill_token_ms": 0.04,
    "per_prefill_attention_token_ms": 0.00001,
}


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    rows = [f"{index * 0.004},{60 + index % 7 * 40},{20 + index}" for index in range(80)]
    (folder / "trace.csv").write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    (folder / "step_time.json").write_text(json.dumps(STEP_TIME))
    app = typer.Typer()
    simulate_command.register(app)
    engine = ["--engine", "reference", "--rules", "vllm", "--max-num-seqs", "16", "--num-blocks", "120"]
    flags = ["--step-time", str(folder / "step_time.json"), "--chunk-size", "128", "--out", str(folder / HOSTILE_RUN)]
    CliRunner().invoke(app, [str(folder / "trace.csv"), *engine, *flags], catch_exceptions=False)
    return folder / HOSTILE_RUN


@pytest.fixture(scope="module")
def timeline_file(run_directory: Path) -> Path:
    path = run_directory.parent / "timeline.html"
    written = CliRunner().invoke(command_line(), [str(run_directory), "-o", str(path)], catch_exceptions=False)
    assert "MB" in written.stderr
    return path


def test_a_run_is_a_timeline_of_queue_tokens_running_and_memory(
    browser: Browser, timeline_file: Path, run_directory: Path
) -> None:
    visit = Visit(browser, timeline_file)
    charts = visit.page.locator("[data-chart]").evaluate_all("all => all.map(each => each.dataset.chart)")
    assert charts == ["waiting", "tokens", "running", "used_blocks"]
    for chart, areas in zip(charts, (1, 2, 1, 1), strict=True):
        svg = visit.page.locator(f"[data-chart={chart}] svg")
        assert svg.locator(".mark-area path").count() == areas
    assert visit.page.locator("[data-chart=used_blocks] svg .mark-rule.role-mark line").count() == 1
    header = visit.page.inner_text("header")
    assert HOSTILE_RUN in header and "Simulated: in virtual time, no model ran" in header
    preemptions = sum(each.preemptions for each in read_requests(run_directory))
    assert preemptions > 0 and f"{preemptions:,}" in header
    assert visit.complaints == []
    assert visit.requests == [timeline_file.as_uri()]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_a_timeline_fits_a_phone(browser: Browser, timeline_file: Path, width: int, scheme: str) -> None:
    visit = Visit(browser, timeline_file, width=width, scheme=scheme)
    assert visit.page.evaluate("document.documentElement.scrollWidth") == width
    assert visit.complaints == []


def test_a_timeline_adds_up_to_what_the_steps_did(run_directory: Path) -> None:
    requests, steps = read_requests(run_directory), read_step_log(run_directory / "steps.jsonl")
    rows = timeline_rows(requests, steps, spans=37)
    span = rows[1]["seconds"]
    for name in ("waiting", "running", "used_blocks"):
        whole = sum(getattr(step, name) * step.execute_ms / 1e3 for step in steps)
        assert sum(row[name] for row in rows) * span == pytest.approx(whole, rel=1e-3)
    busy = sum(step.execute_ms / 1e3 for step in steps)
    assert sum(row["busy"] for row in rows) * span == pytest.approx(busy, rel=1e-3)
    prefill = sum(step.load.prefill_tokens * step.execute_ms / 1e3 for step in steps)
    assert sum(row["prefill_tokens"] * row["busy"] for row in rows) * span == pytest.approx(prefill, rel=1e-3)
    assert max(row["used_blocks"] for row in rows) <= 119


def test_a_log_without_blocks_has_a_timeline(browser: Browser, run_directory: Path, tmp_path: Path) -> None:
    steps = [replace(step, used_blocks=None) for step in read_step_log(run_directory / "steps.jsonl")]
    path = tmp_path / "old.html"
    write_timeline(read_requests(run_directory), steps, path, title="old", document={})
    visit = Visit(browser, path)
    assert visit.page.locator("[data-chart] svg").count() == 3
    assert "does not say how many blocks" in visit.page.inner_text("main")
    assert "Simulated" not in visit.page.inner_text("body")
    assert visit.complaints == []


def test_a_description_that_cannot_be_read_is_a_sentence(run_directory: Path, tmp_path: Path) -> None:
    for content, words in (("[]", r"run\.json: holds \[\]"), ("{", r"run\.json: cannot be read")):
        broken = tmp_path / f"run{len(content)}"
        shutil.copytree(run_directory, broken)
        (broken / "run.json").write_text(content)
        with pytest.raises(RequestFileError, match=words):
            CliRunner().invoke(command_line(), [str(broken), "-o", str(tmp_path / "x.html")], catch_exceptions=False)


@pytest.fixture(scope="session")
def two_profiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An earlier profile, and one in which tier high takes a quarter longer and everything a little."""
    folder = tmp_path_factory.mktemp("two")
    before = synthetic_samples()
    slowed = pl.when(pl.col("tier").cast(pl.String) == "high").then(1.25).otherwise(1.01)
    wobble = 1 + 0.01 * ((pl.col("sample_id").cast(pl.Int64) * 7) % 5 - 2)
    after = before.with_columns(pl.col("T_vision_total", "T_LLM_prefill") * slowed * wobble)
    for name, frame in {"before": before, "after": after}.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return folder / "after.parquet", folder / "before.parquet"


def test_two_profiles_are_compared_on_one_page(
    browser: Browser, two_profiles: tuple[Path, Path], tmp_path: Path
) -> None:
    after, before = two_profiles
    page = tmp_path / "comparison.html"
    found, size_bytes = write_comparison(after, before, page)
    assert size_bytes == page.stat().st_size and {each.config.tier for each in found.slower} >= {"high"}
    visit = Visit(browser, page)
    configs = len(found.changes)
    for chart in ("latency", "accuracy"):
        svg = visit.page.locator(f"[data-chart={chart}] svg")
        assert svg.locator(".mark-symbol.role-mark path").count() == configs
        assert svg.locator(".mark-rule.role-mark line").count() == configs + 1
    rows = visit.page.locator("section[aria-labelledby=numbers-title] tbody tr").all_inner_texts()
    assert len(rows) == configs and sum("slower" in row for row in rows) == len(found.slower)
    assert visit.complaints == [] and visit.requests == [page.as_uri()]


def test_the_command_names_what_became_slower(two_profiles: tuple[Path, Path], tmp_path: Path) -> None:
    app = typer.Typer()
    report_command.register(app)
    words = [str(two_profiles[0]), "--compare", str(two_profiles[1]), "-o", str(tmp_path / "c.html")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "high_none_16" in done.output and "became slower" in done.output
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert document["pairs"] == 144 and document["left_out"] == 0
    assert all(each["ratio_interval"]["low"] <= each["ratio"] for each in document["changes"])


@pytest.mark.parametrize("option", ["--estimator", "--controller", "--under-load", "--compare", "--latency"])
def test_an_option_that_a_page_does_not_use_is_refused(
    option: str, two_profiles: tuple[Path, Path], run_directory: Path, tmp_path: Path
) -> None:
    out = tmp_path / "unread.html"
    pages = {"a run": [str(run_directory)], "two profiles": [str(two_profiles[0]), "--compare", str(two_profiles[1])]}
    if option in ("--compare", "--latency"):
        del pages["two profiles"]
    for page, words in pages.items():
        with pytest.raises(InvalidValueError, match=f"^{option} is .*the page of {page}: it goes with ") as found:
            asked = [*words, option, "/nowhere", "-o", str(out)]
            CliRunner().invoke(command_line(), asked, catch_exceptions=False)
        assert "/nowhere" in str(found.value) and page in str(found.value) and not out.exists()


def test_the_slider_shows_what_the_bound_and_learned_controllers_take(
    browser: Browser, learned_evaluation: Evaluation, profile_file: Path, tmp_path: Path
) -> None:
    decided = decided_document(learned_evaluation)
    path = tmp_path / "decided.html"
    path.write_text(report_page(read_profile(profile_file), decided=decided))
    visit = Visit(browser, path)
    budgets = json.loads(visit.page.inner_text("#figures", timeout=1000) or visit.page.text_content("#figures"))[
        "budgets"
    ]
    names = [each["words"] for each in decided["controllers"]]
    for index in (0, len(budgets) // 2, len(budgets) - 1):
        visit.page.locator("#budget").fill(str(index))
        place = max([at for at, budget in enumerate(decided["budgets"]) if budget <= budgets[index]], default=0)
        assert visit.page.locator("#decided dt").all_inner_texts() == names
        for each, said in zip(decided["controllers"], visit.page.locator("#decided dd").all_inner_texts(), strict=True):
            row = each["rows"][place]
            assert said.startswith(row["taken"]) and f"at {decided['budgets'][place]:g} ms" in said
            assert f"accuracy {row['accuracy']:.3f}" in said
            how = "promised to" if each["promises"] else "a mean fits for"
            if row["kept"] is not None:
                assert f"{how} {row['promised']} of {decided['requests']}" in said
            assert each["promises"] or "promised to" not in said
    assert visit.complaints == [] and visit.requests == [path.as_uri()]


def test_effects_under_load_stand_on_the_page_of_a_profile(
    browser: Browser, profile_file: Path, tmp_path: Path
) -> None:
    interval = {"low": 0.05, "high": 0.35}
    effects = [
        {"in_flight": count, "full_ms": 40.0 * count, "low_ms": 40.0 * count * (1 - saved), "saved": saved,
         "saved_interval": interval, "reason": None}
        for count, saved in ((1, 0.3), (4, 0.1), (8, -0.125))
    ]  # fmt: skip
    document, out = tmp_path / "verify.json", tmp_path / "report.html"
    document.write_text(json.dumps({"model": HOSTILE, "under_load": {"tier": effects, "top_k": effects[:1]}}))
    words = [str(profile_file), "--under-load", str(document), "-o", str(out)]
    CliRunner().invoke(command_line(), words, catch_exceptions=False)
    visit = Visit(browser, out, width=390)
    section = visit.page.locator("section[aria-labelledby=load-title]")
    assert HOSTILE in section.inner_text() and section.locator("img").count() == 0
    rows = section.locator("tbody tr").all_inner_texts()
    shown = [("tier", "1", "30.0%"), ("tier", "4", "10.0%"), ("tier", "8", "-12.5%"), ("top_k", "1", "30.0%")]
    assert [tuple(row.split("\t")[place] for place in (0, 1, 4)) for row in rows] == shown
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    assert visit.complaints == []


def test_what_is_decided_is_what_was_judged(learned_evaluation: Evaluation) -> None:
    decided = decided_document(learned_evaluation)
    bound = decided["controllers"][0]
    table = decided["controllers"][-1]
    assert table["words"] == "table" and [each["promises"] for each in decided["controllers"]] == [True] * 4 + [False]
    for row, figures in zip(table["rows"], learned_evaluation.controllers["table"], strict=True):
        assert row["accuracy"] == pytest.approx(figures.accuracy.mean, abs=1e-3)
    assert bound["words"] == "estimator with bound" and decided["requests"] == learned_evaluation.num_requests
    for row, figures in zip(bound["rows"], learned_evaluation.controllers["bound"], strict=True):
        assert row["taken"] in figures.configs and row["accuracy"] == pytest.approx(figures.accuracy.mean, abs=1e-3)
        if figures.promised is not None:
            assert row["promised"] == figures.promised.count
            assert row["kept"][1] <= row["kept"][0] <= row["kept"][2]
