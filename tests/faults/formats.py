"""Every format that is read: an undamaged original, how it is read, and what its content truly says, told without the readers.

`says` gives what a reader's value has to equal, by an independent reading of the damaged bytes; it raises where they say nothing.
Formats without it (pictures) are held to a sentence or a value in range. All originals are synthetic.
"""

import base64
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import polars as pl
from estimators import grid_description, write_grid_estimator
from PIL import Image
from serving_desk import calibrated_desk, chat
from store_work import RUN, question, sample, table

from paceline.certify.procedure import PlannedTest
from paceline.certify.sequence import StoppingRule
from paceline.control import LookupTable
from paceline.control.certificate import Certificate, CertifiedClaim
from paceline.control.learned.artifact import NUM_INPUTS, chooser_files, read_chooser, weight_shapes
from paceline.control.learned.description import ChooserDescription
from paceline.control.learned.reward import Reward
from paceline.estimate.bounds_file import load_bounds
from paceline.estimate.network import NetworkEstimator
from paceline.fit.certified.plan import fixed_plan
from paceline.json_document import SEAL, sealed
from paceline.models.loading import EMBEDDED
from paceline.models.model_settings import SETTINGS_FILE, read_model_settings
from paceline.models.picture_header import size_of_data_url
from paceline.models.pictures import LARGEST_PIXELS, open_picture
from paceline.profiles import ProfileStore, import_profile, read_profile, write_core_exp
from paceline.profiles.answers import Answer, read_answers
from paceline.profiles.description import StoreDescription
from paceline.profiles.fields import FIELDS, OPTIONAL
from paceline.profiles.parts import QuestionParts, part_questions
from paceline.profiles.questions import read_questions, write_questions
from paceline.profiles.sentinels import read_drifts
from paceline.records import KnobConfig, Provenance
from paceline.request_vector import REQUEST_VECTOR_NAMES
from paceline.schedule import RequestTimes
from paceline.schedule.step_log import PrefillChunk, StepRecord, read_step_log
from paceline.schedule.step_time import LinearStepTime
from paceline.server.chat_request import question_of_request, read_request
from paceline.server.limits import Limits
from paceline.simulate import VidurTables
from paceline.simulate.tables import BY_TOKENS
from paceline.tune import read_trace
from paceline.tune.metrics_csv import read_metric, write_metric
from paceline.tune.run_files import read_requests
from paceline.wire.budget import TTFT_HEADERS
from paceline.wire.events import EventSplitter, holds_token, with_report

COUNT = 4


@dataclass(frozen=True, kw_only=True)
class Format:
    name: str
    target: str
    shape: str
    read: Callable[[Path], Any]
    says: Callable[[bytes], Any] | None = None
    seal: Callable[[dict], dict] | None = None
    rehash: Callable[[Path], None] | None = (
        None  # let the description name the damaged file, as whoever forges one would
    )


WRITTEN: dict[str, Any] = {}  # by format, the value of files that hold a digest of all their bytes


def rows_of(frame: pl.DataFrame) -> list[dict[str, Any]]:
    rows = frame.with_columns(pl.col("dataset", "tier").cast(pl.String)).to_dicts()
    return [{**row, "metadata": json.loads(row["metadata"])} for row in rows]


def _json(content: bytes) -> Any:
    return json.loads(content)


# --- profiles


def store_files(home: Path) -> None:
    names = [f"s{index}" for index in range(COUNT)]
    with ProfileStore.open_or_create(home / "store", RUN, questions=map(question, names), fsync=False) as store:
        for name in names:
            store.append(sample(name))
        for index in range(12):
            store.append_sentinel({"prefill_ms": 10.0 + index % 3})
    answers = [
        Answer(
            dataset="text_vqa",
            sample_id=name,
            config="low_4_8",
            accuracy=1.0,
            pred="x",
            output_tokens=1,
            batch_size=2,
        )
        for name in names
    ]
    (home / "store" / "answers-rank0.jsonl").write_bytes(
        b"".join(msgspec.json.encode(each) + b"\n" for each in answers)
    )
    part_questions([question(name) for name in names], choosing=2, seed=3).write(home / "store")
    (home / "asked").mkdir()
    write_questions(home / "asked", [question(name) for name in names])
    samples = read_profile(home / "store").samples
    write_core_exp(samples, home / "core")
    import_profile(home / "core", home / "imported")
    (home / "parquet").mkdir()
    (home / "imported" / "samples.parquet").rename(home / "parquet" / "samples.parquet")
    WRITTEN["Parquet"] = rows_of(samples.select(list(FIELDS)))
    older = json.loads(next((home / "core").rglob("*.json")).read_text())
    for each in older["per_sample_results"]:
        each["input_text_tokens"] = each.pop("actual_text_tokens")
        del each["T_total"], each["T_decode_per_token"]
    (home / "older" / "text-vqa").mkdir(parents=True)
    (home / "older" / "text-vqa" / "text-vqa_imgsizetier-low_crops2_topk4_blocks8.json").write_text(json.dumps(older))


def _records(content: bytes) -> list[Any]:
    """The JSON values of a file, however many lines each takes."""
    text, decoder, found, at = content.decode(), json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        found.append(value)
    return found


def says_journal(content: bytes) -> Any:
    whole = content[: content.rfind(b"\n") + 1]
    rows = []
    for record in _records(whole):
        assert set(record) <= set(FIELDS), "an unknown field"
        rows.append(
            {
                **dict.fromkeys(OPTIONAL),
                **record,
                "dataset": record["dataset"].replace("-", "_"),
            }
        )
    assert len({row["sample_id"] for row in rows}) == len(rows), "a sample twice"
    return rows


def says_questions(content: bytes) -> Any:
    found = [{"choices": [], "picture_id": None, "types": [], **each} for each in _records(content)]
    assert all(set(each) == set(msgspec.to_builtins(question(""))) for each in found), "an unknown field"
    by_name = {(each["dataset"], each["sample_id"]): each for each in found}
    assert all(by_name[each["dataset"], each["sample_id"]] == each for each in found), "a question twice"
    return list(by_name.values())


def says_sentinels(content: bytes) -> Any:
    lines = content.split(b"\n")[:-1]
    assert all(_json(line)["prefill_ms"] > 0 for line in lines)
    return [len(lines)] if len(lines) >= 10 else []


def says_core_exp(content: bytes) -> Any:
    document = json.loads(content.decode("utf-8", "replace"))  # a summary that nobody reads may be no UTF-8
    results = document["per_sample_results"]
    assert document.get("num_samples", len(results)) == len(results)
    head = (
        {**document, **(document.get("summary") or [{}])[0]} if isinstance(document.get("summary"), list) else document
    )

    def lacks(name: str) -> bool:
        return not any(name in each for each in results)

    rows = []
    for each in results:
        row = {"dataset": "text_vqa", **dict.fromkeys(OPTIONAL)}
        row |= {
            name: each[name] for name in FIELDS if name in each and name not in ("dataset", "T_preprocess", "T_other")
        }
        for name in ("tier", "top_k", "num_active_blocks"):
            if name not in row:
                row[name] = head[name]
            assert name not in head or head[name] == row[name], "two configurations"
        if lacks("actual_text_tokens"):
            row["actual_text_tokens"] = each["input_text_tokens"]
        if lacks("T_total"):
            row["T_total"] = each["T_vision_total"] + each["T_LLM_prefill"] + each["T_LLM_decode"]
        if lacks("T_decode_per_token"):
            steps = each["output_tokens"]
            row["T_decode_per_token"] = each["T_LLM_decode"] / steps if steps else None
        row["sample_id"] = str(row["sample_id"])
        rows.append(row)
    return rows


def says_description(content: bytes) -> Any:
    """Every field that stands there, and no other; what is absent is absent in the value's own defaults."""
    document = _json(content)
    defaults = {"imported_from": None, "left_out": [], "schema_version": 1}
    assert set(document) <= {"provenance", *defaults}, "an unknown field"
    optional = {
        each.name: each.default if each.default is not MISSING else each.default_factory()
        for each in fields(Provenance)
        if each.default is not MISSING or each.default_factory is not MISSING
    }
    known = {each.name for each in fields(Provenance)}
    assert all(set(run) <= known for run in document["provenance"]), "an unknown field of a run"
    return {**defaults, **document, "provenance": [{**optional, **run} for run in document["provenance"]]}


# --- artifacts


def artifact_files(home: Path) -> None:
    directory = home / "controller" / "estimator"
    directory.parent.mkdir(parents=True)
    write_grid_estimator(directory, 0)
    digest = hashlib.sha256((directory / "estimator.safetensors").read_bytes()).hexdigest()
    described, random = grid_description(), np.random.default_rng(0)
    chooser = ChooserDescription(
        learner="supervised",
        latency_kind="prefill",
        alpha=0.05,
        configs=described.configs,
        input_ranges=dict.fromkeys(REQUEST_VECTOR_NAMES, (0.0, 1.0)),
        budget_range_ms=(10.0, 100.0),
        members=1,
        hidden_dim=2,
        num_layers=1,
        reward=Reward(),
        split=described.split,
        training={"steps": 1},
        learning=({"step": 1.0},),
        datasets=("synthetic",),
        num_requests=10,
        estimator_sha256=digest,
        provenance=({"model": "synthetic"},),
    )
    shapes = weight_shapes(chooser)
    chosen = {name: np.abs(random.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    assert chosen["input_mean_I"].shape == (NUM_INPUTS,)
    for name, data in chooser_files(chooser, chosen).items():
        (home / "controller" / name).write_bytes(data)


def described(document: Any, names: tuple[str, ...]) -> Any:
    return {name: document[name] for name in names}


ESTIMATOR_FIELDS = (
    "hidden_dim",
    "num_layers",
    "decode_definition",
    "num_rows",
    "num_decode_rows",
    "typical_text_tokens",
)
CHOOSER_FIELDS = ("learner", "latency_kind", "alpha", "members", "hidden_dim", "num_layers", "num_requests")


def read_estimator(folder: Path) -> Any:
    model = NetworkEstimator.load(folder / "controller" / "estimator")
    found = model.description
    assert all(np.isfinite(layer.weight_IH).all() for layer in model._layers)
    return {
        **{name: getattr(found, name) for name in ESTIMATOR_FIELDS},
        "configs": [each.key for each in found.configs],
        "feature_ranges": {name: list(span) for name, span in found.feature_ranges.items()},
        "datasets": list(found.datasets),
    }


def says_estimator(content: bytes) -> Any:
    return described(_json(content), (*ESTIMATOR_FIELDS, "configs", "feature_ranges", "datasets"))


def read_bounds(folder: Path) -> Any:
    found = load_bounds(folder / "controller" / "estimator")
    for scores in found.scores.values():
        assert np.isfinite(scores.scores_N).all()
    return {
        "latency_kinds": list(found.scores),
        "configs": [
            {
                "config": each.config.key,
                "accuracy": each.accuracy,
                "accuracy_std": each.accuracy_std,
                "num_samples": each.num_samples,
                "expected_output_tokens": each.expected_output_tokens,
            }
            for each in found.configs
        ],
        "provenance": list(found.provenance),
    }


def says_bounds(content: bytes) -> Any:
    document = _json(content)
    names = ("config", "accuracy", "accuracy_std", "num_samples", "expected_output_tokens")
    return {
        "latency_kinds": document["latency_kinds"],
        "configs": [described(each, names) for each in document["configs"]],
        "provenance": document["provenance"],
    }


def read_policy(folder: Path) -> Any:
    found = read_chooser(folder / "controller").description
    return {
        **{name: getattr(found, name) for name in CHOOSER_FIELDS},
        "configs": [each.key for each in found.configs],
        "input_ranges": {name: list(span) for name, span in found.input_ranges.items()},
        "budget_range_ms": list(found.budget_range_ms),
    }


def says_policy(content: bytes) -> Any:
    return described(_json(content), (*CHOOSER_FIELDS, "configs", "input_ranges", "budget_range_ms"))


def table_file(home: Path) -> None:
    claim = CertifiedClaim(
        config=table(1).entries[0].config,
        verdict="certified",
        asked=10,
        broken=1,
        mended=1,
        mean_loss=0.0,
        bound_ms=12.0,
        requests=10,
        exceeded=0,
        needed=8,
    )
    certificate = Certificate(
        epsilon=0.05,
        delta=0.1,
        rule="two_looks",
        latency_kind="prefill",
        full=claim.config,
        claims=(claim,),
        choosing_questions=5,
        certifying_questions=10,
        mix={"synthetic": 10},
        model="synthetic",
        seed=1,
        plan_sha256="0",
    )
    plain = table(3)
    whole = LookupTable(entries=plain.entries, metadata=replace(plain.metadata, certificate=certificate, chosen_on=5))
    (home / "table.json").write_text(json.dumps(whole.document()))


def read_table(folder: Path) -> Any:
    found = LookupTable.load(folder / "table.json")
    held = found.metadata
    return {
        "entries": {
            each.config.key: [each.accuracy, each.latency_ms, each.num_samples, each.accuracy_std, each.latency_std_ms]
            for each in found.entries
        },
        "tolerance": held.tolerance,
        "method": held.aggregation_method,
        "datasets": list(held.datasets),
        "chosen_on": held.chosen_on,
        "certificate": None if held.certificate is None else unsealed(held.certificate.document()),
    }


def unsealed(certificate: Any) -> Any:
    """Return the fields that a certificate holds, but its seal: a field that may be absent and one that is null say the same."""
    if not isinstance(certificate, dict):
        return certificate
    return {name: value for name, value in certificate.items() if name != SEAL and value is not None}


def says_table(content: bytes) -> Any:
    document = _json(content)
    held = document["metadata"]
    cells = ("accuracy", "latency", "num_samples", "accuracy_std", "latency_std")
    return {
        "entries": {key: [entry[name] for name in cells] for key, entry in document["config_table"].items()},
        "tolerance": held["tolerance"],
        "method": held["aggregation_method"],
        "datasets": held["datasets"],
        "chosen_on": held.get("chosen_on"),
        "certificate": unsealed(held.get("certificate")),
    }


def sealed_certificate(document: dict) -> dict:
    held = document.get("metadata")
    if isinstance(held, dict) and isinstance(held.get("certificate"), dict):
        held["certificate"] = sealed({name: value for name, value in held["certificate"].items() if name != SEAL})
    return document


# --- runs and loads


def run_files(home: Path) -> None:
    (home / "model.json").write_text(
        json.dumps(
            LinearStepTime(
                base_ms=5.0,
                per_decode_token_ms=0.1,
                per_decode_context_token_ms=0.0,
                per_prefill_token_ms=0.2,
                per_prefill_attention_token_ms=0.0,
            ).document()
        )
    )
    steps = [
        StepRecord(
            step=index,
            started_seconds=0.1 * index,
            execute_ms=9.0,
            plan_us=1.0,
            schedule_us=2.0,
            predicted_ms=None,
            token_budget=64,
            decode_tokens=1,
            decode_context_tokens=7,
            chunks={"r1": PrefillChunk(tokens=8, context_tokens=8 * index)},
            decoding=("r0",),
            waiting=0,
            running=2,
            preempted=(),
        )
        for index in range(4)
    ]
    (home / "steps.jsonl").write_text("".join(f"{step.line()}\n" for step in steps))
    (home / "trace.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        + "".join(f"2023-11-16 18:15:4{index}.6805900,{20 + index},{5 + index}\n" for index in range(5))
    )
    lines = [
        {"request_id": f"r{index}", "arrival": 0.5 * index, "prompt_tokens": 20, "output_tokens": 5, "budget_ms": 100}
        for index in range(5)
    ]
    (home / "trace.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    times = [
        RequestTimes(
            request_id=f"r{index}",
            arrival_seconds=1.0,
            first_scheduled_seconds=1.5,
            first_token_seconds=2.0,
            completion_seconds=3.0,
            execution_seconds=0.5,
            prompt_tokens=20,
            output_tokens=5,
        )
        for index in range(4)
    ]
    (home / "requests.jsonl").write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in times))
    write_metric(home / "metric.csv", "prefill_e2e_time", {f"r{index}": 0.5 + index for index in range(4)})
    by_tokens = {name: np.linspace(0.01, 0.02, 65) for name in BY_TOKENS}
    by_tokens["add"][0] = np.nan  # the time of no token
    meta = {
        "layers_per_stage": 4,
        "tp": 1,
        "decode_overhead": 0.1,
        "prefill_overhead": 0.1,
        "nccl_launch_ms": 0.0,
        "nccl_skew_ms": 0.0,
    }
    np.savez(
        home / "tables.npz",
        meta=np.array(json.dumps(meta)),
        attn_decode=np.ones((9, 5)),
        attn_prefill=np.ones((9, 65)),
        **by_tokens,
    )


def says_lines(content: bytes) -> list[Any]:
    """The records of a log; lines that are no JSON are taken for torn."""
    records = []
    for line in content.decode().split("\n"):
        if line:
            try:
                records.append(_json(line.encode()))
            except ValueError:
                assert line.startswith("{"), "no torn line begins so"
    return records


STEP_FIELDS = (
    "step",
    "started_seconds",
    "execute_ms",
    "token_budget",
    "decode_tokens",
    "decode_context_tokens",
    "waiting",
)


def read_steps(folder: Path) -> Any:
    return [
        {
            **{name: getattr(step, name) for name in (*STEP_FIELDS, "engine", "run", "used_blocks")},
            "chunks": {name: [chunk.tokens, chunk.context_tokens] for name, chunk in step.chunks.items()},
            "decoding": list(step.decoding),
        }
        for step in read_step_log(folder / "steps.jsonl")
    ]


def says_steps(content: bytes) -> Any:
    later = {"engine": 0, "run": None, "used_blocks": None}
    return [
        described(record, (*STEP_FIELDS, "chunks", "decoding"))
        | {name: record.get(name, value) for name, value in later.items()}
        for record in says_lines(content)
    ]  # fmt: skip


def read_times(folder: Path) -> Any:
    return [msgspec.to_builtins(each) for each in read_requests(folder)]


def says_times(content: bytes) -> Any:
    return [
        {"preemptions": 0, "ttft_budget_ms": None, **described(each, REQUEST_FIELDS), **_known(each)}
        for each in says_lines(content)
    ]


REQUEST_FIELDS = (
    "request_id",
    "arrival_seconds",
    "first_scheduled_seconds",
    "first_token_seconds",
    "completion_seconds",
    "execution_seconds",
    "prompt_tokens",
    "output_tokens",
)


def _known(record: dict) -> dict:
    return {name: record[name] for name in ("preemptions", "ttft_budget_ms") if name in record}


def read_jsonl_trace(folder: Path) -> Any:
    return [
        [each.request_id, each.prompt_tokens, each.output_tokens, each.ttft_budget_ms]
        for each in read_trace(folder / "trace.jsonl").requests
    ]


def says_jsonl_trace(content: bytes) -> Any:
    records = [_json(line.encode()) for line in content.decode("utf-8-sig").split("\n") if line.strip()]
    if any(not isinstance(each.get("arrival"), (int, float)) for each in records):
        return ANYTHING  # dates and numbers in quotes: held to their own tests
    ordered = sorted(records, key=lambda each: each["arrival"])

    def cell(each: dict, *names: str) -> Any:
        plain = {key.replace("_", "").replace("-", "").replace(" ", "").lower(): value for key, value in each.items()}
        return next((plain[name] for name in names if name in plain), None)

    def number(value: Any) -> Any:
        return value if value is None else float(value)

    return [
        [
            str(index) if (told := cell(each, "requestid", "id")) is None else str(told),
            number(cell(each, "prompttokens")),
            number(cell(each, "outputtokens")),
            number(cell(each, "budgetms", "ttftbudgetms")),
        ]
        for index, each in enumerate(ordered)
    ]


def read_csv_trace(folder: Path) -> Any:
    requests = read_trace(folder / "trace.csv").requests
    assert all(0 <= each.arrival_seconds < 1e12 for each in requests)
    return [(each.prompt_tokens, each.output_tokens) for each in requests]


ANYTHING = object()  # what is not held to one value here


def read_tables(folder: Path) -> Any:
    found = VidurTables.load(folder / "tables.npz")
    whole = (found.before_attention, found.mlp, found.add, found.layernorm)
    for array in (
        *(each[8:] for each in whole),
        found.decode[1:],
        found.prefill[:, 1:],
    ):  # padded to multiples of 8, 0 for no token
        assert np.isfinite(array).all() and (array >= 0).all(), "times that are none"
    assert found.decode.ndim == found.prefill.ndim == 2 and found.add.ndim == 1
    assert found.layers >= 1 and np.isfinite(found.decode_factor) and found.decode_factor > 0
    return None


# --- pictures and bodies


def picture_files(home: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        picture.save(
            home / f"picture.{kind.lower()}", kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {})
        )


def read_picture(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> None:
        found = open_picture(folder / name)
        assert found.mode == "RGB" and 0 < found.width * found.height <= LARGEST_PIXELS
        found.getpixel((found.width - 1, found.height - 1))

    return read


def read_header(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> None:
        url = "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode()
        found = size_of_data_url(url)
        assert found.width >= 0 and found.height >= 0

    return read


def body_files(home: Path) -> None:
    document = chat(50.0, vllm_xargs={"paceline_top_k": 3, "other": 1}, stream=True, temperature=0.5)
    (home / "body.json").write_text(json.dumps(document))


DESK = calibrated_desk()


def read_body(folder: Path) -> Any:
    body = (folder / "body.json").read_bytes()
    reading = DESK.read("/v1/chat/completions", [], body)
    if reading.asked is None:
        return {"budget": None, "knobs": any(name.startswith("paceline_") for name in _extra_of(reading.body))}
    ticket = DESK.accept(reading, received_seconds=0.0, now_seconds=0.0)
    try:
        try:
            sent = json.loads(ticket.body)
        except UnicodeDecodeError:  # in a field that is not read here: the engine's server refuses it, as it came
            return {"budget": None, "knobs": False}
        assert "latency_budget_ms" not in sent and "paceline_nothing" not in str(sent)
        return {"budget": reading.asked.ms, "knobs": False}
    finally:
        DESK.finish(ticket, now_seconds=0.0)


def _extra_of(body: bytes) -> list[str]:
    try:
        extra = json.loads(body).get("vllm_xargs")
    except (ValueError, AttributeError, RecursionError):
        return []
    return list(extra) if isinstance(extra, dict) else []


def says_body(content: bytes) -> Any:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {"budget": None, "knobs": False}
    if not isinstance(document, dict) or document.get("latency_budget_ms") is None:
        return {"budget": None, "knobs": False}
    return {"budget": document["latency_budget_ms"], "knobs": False}


def read_chat(folder: Path) -> Any:
    """What the server of one model is asked by the same body."""
    request = read_request((folder / "chat.json").read_bytes(), served="m")
    question, _ = question_of_request(request, Limits())
    json.dumps(question.messages)
    return {
        "max_tokens": question.max_tokens,
        "stops": list(question.stops),
        "pictures": len(question.pictures),
        "temperature": None if question.sampling is None else question.sampling.temperature,
        "stream": bool(request.stream),
        "seed": None if question.sampling is None else question.sampling.seed,
    }


def says_chat(content: bytes) -> Any:
    document = json.loads(content)
    kinds = {"max_tokens": int, "max_completion_tokens": int, "temperature": (int, float), "stream": bool, "seed": int}
    told = {name: document.get(name) for name in kinds}
    if any(value is not None and type(value) not in _each(kinds[name]) for name, value in told.items()):
        return ANYTHING  # numbers in quotes, as engines take them: held to their own tests
    stop, parts = document.get("stop"), [message.get("content") for message in document["messages"]]
    sampled = told["temperature"] is not None and told["temperature"] >= 1e-3
    if not sampled and document.get("top_p") is not None:
        return ANYTHING
    pictures = [part for content in parts if isinstance(content, list) for part in content if isinstance(part, dict)]
    return {
        "max_tokens": told["max_completion_tokens"] or told["max_tokens"],
        "stops": [] if stop is None else [stop] if isinstance(stop, str) else stop,
        "pictures": sum((part.get("type") or "image_url") == "image_url" and "image_url" in part for part in pictures),
        "temperature": told["temperature"] if sampled else None,
        "stream": bool(told["stream"]),
        "seed": told["seed"] if sampled else None,
    }


def _each(kind: Any) -> tuple[type, ...]:
    return kind if isinstance(kind, tuple) else (kind,)


HEADERS = [
    b"host: a",
    b"content-type: application/json",
    b"x-llm-d-slo-ttft-ms: 50",
    b"x-slo-ttft-ms: 50.0",
    b"x-other: 1",
]
EVENTS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"index": 0, "delta": {"content": "4"}}]},
    {"choices": [{"index": 0, "delta": {"content": " 2"}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}},
]


def wire_files(home: Path) -> None:
    document = chat(None, max_tokens=9, stop=["x", "yz"], temperature=0.5, seed=3, stream=True)
    (home / "chat.json").write_text(json.dumps(document))
    (home / "headers.txt").write_bytes(b"\n".join(HEADERS) + b"\n")
    (home / "events.txt").write_bytes(b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in EVENTS))
    (home / "settings").mkdir()
    shutil.copy(EMBEDDED["digits"] / SETTINGS_FILE, home / "settings")
    (home / "plan").mkdir()
    read_plan(home)


def read_headers(folder: Path) -> Any:
    lines = (folder / "headers.txt").read_bytes().split(b"\n")
    pairs = [(name.strip(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    reading = DESK.read("/v1/chat/completions", pairs, json.dumps(chat(None)).encode())
    return None if reading.asked is None else [reading.asked.ms, reading.asked.kind]


def says_headers(content: bytes) -> Any:
    pairs = [line.partition(b":") for line in content.split(b"\n")]
    told = {name.strip().decode("latin-1").lower(): value.strip().decode("latin-1").strip() for name, _, value in pairs}
    budgets = {float(told[name]) for name in TTFT_HEADERS if name in told}
    assert len(budgets) <= 1
    return [budgets.pop(), "ttft"] if budgets else ANYTHING  # a proxy's ceiling is held to its own tests


def read_stream(folder: Path) -> Any:
    """Whether each event holds a token: no byte is lost in parts of nine, and a chunk with a report beside it is whole."""
    content, splitter = (folder / "events.txt").read_bytes(), EventSplitter()
    events = [event for at in range(0, len(content), 9) for event in splitter.feed(content[at : at + 9])]
    assert b"".join(events) + splitter.rest() == content, "bytes were lost"
    for event in events:
        reported = with_report(event, {"bound_ms": 1.0})
        assert reported is None or json.loads(reported[6:])["paceline"] == {"bound_ms": 1.0}
    return [holds_token(event) for event in events]


def read_settings(folder: Path) -> Any:
    return {
        name: value for name, value in asdict(read_model_settings(folder / "settings")).items() if value is not None
    }


def says_settings(content: bytes) -> Any:
    names = ("tier_token_caps", "block_ranking", "default_top_ks", "default_block_counts")
    return {name: value for name, value in _json(content).items() if name in names}


def read_plan(folder: Path) -> Any:
    configs = (table(1).entries[0].config, KnobConfig(tier="high", top_k=8, num_active_blocks=16))
    rule = StoppingRule(kind="two_looks", epsilon=0.05, delta=0.1, questions=100)
    planned = [PlannedTest(place=0, expected_loss=0.01, needed=80, rule=rule, bound_ms=12.0)]
    told = {
        "epsilon": 0.05,
        "delta": 0.1,
        "seed": 1,
        "latency_kind": "prefill",
        "parts_sha256": "0",
        "answers_sha256": "1",
    }
    chosen: Any = SimpleNamespace(configs=configs, full=1)
    found = fixed_plan(folder / "plan", planned, chosen, requests=40, told=told)
    return {
        "requests": found.requests,
        "sequence": [
            [
                configs[each.place].key,
                each.rule.kind,
                each.rule.questions,
                each.expected_loss,
                each.needed,
                each.bound_ms,
            ]
            for each in found.tests
        ],
    }


def says_plan(content: bytes) -> Any:
    document = _json(content)
    names = ("config", "rule", "questions", "expected_loss", "needed", "bound_ms")
    return {
        "requests": document["requests"],
        "sequence": [[each[name] for name in names] for each in document["sequence"]],
    }


# --- all of them


def rehashed(description: str, named: str, file: str) -> Callable[[Path], None]:
    """Let a description name the hash of a file that was changed, sealed anew."""

    def rehash(folder: Path) -> None:
        path = folder / description
        document = json.loads(path.read_bytes())
        document[named] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        path.write_text(json.dumps(sealed({name: value for name, value in document.items() if name != SEAL})))

    return rehash


def resealed(document: dict) -> dict:
    return sealed({name: value for name, value in document.items() if name != SEAL})


CORE = "text-vqa/text-vqa_imgsizetier-low_crops2_topk4_blocks8.json"
ESTIMATOR = "controller/estimator"
FORMATS = {
    each.name: each
    for each in (
        Format(
            name="profile.json",
            target="store/profile.json",
            shape="json",
            read=lambda folder: msgspec.to_builtins(StoreDescription.read(folder / "store")),
            says=says_description,
        ),
        Format(
            name="journal",
            target="store/journal-rank0.jsonl",
            shape="lines",
            read=lambda folder: rows_of(read_profile(folder / "store").samples),
            says=says_journal,
        ),
        Format(
            name="sentinels",
            target="store/sentinels-rank0.jsonl",
            shape="lines",
            read=lambda folder: [each.count for each in read_drifts(folder / "store")],
            says=says_sentinels,
        ),
        Format(
            name="answers",
            target="store/answers-rank0.jsonl",
            shape="lines",
            read=lambda folder: [msgspec.to_builtins(each) for each in read_answers(folder / "store")],
            says=lambda content: [{"seconds": None, **_json(line)} for line in content.split(b"\n")[:-1]],
        ),
        Format(
            name="questions",
            target="asked/questions.jsonl",
            shape="lines",
            read=lambda folder: [msgspec.to_builtins(each) for each in read_questions(folder / "asked").values()],
            says=says_questions,
        ),
        Format(
            name="certify-parts",
            target="store/certify-parts.json",
            shape="json",
            seal=resealed,
            read=lambda folder: QuestionParts.read(folder / "store")._document(),
            says=lambda content: described(_json(content), ("format", "seed", "pictures", "choosing", "certifying")),
        ),
        Format(
            name="core-exp",
            target=f"core/{CORE}",
            shape="json",
            read=lambda folder: rows_of(read_profile(folder / "core").samples),
            says=says_core_exp,
        ),
        Format(
            name="older core-exp",
            target=f"older/{CORE}",
            shape="json",
            read=lambda folder: rows_of(read_profile(folder / "older").samples),
            says=says_core_exp,
        ),
        Format(
            name="Parquet",
            target="parquet/samples.parquet",
            shape="bytes",
            read=lambda folder: rows_of(read_profile(folder / "parquet" / "samples.parquet").samples),
            says=lambda _content: WRITTEN["Parquet"],
        ),
        Format(
            name="table",
            target="table.json",
            shape="json",
            seal=sealed_certificate,
            read=read_table,
            says=says_table,
        ),
        Format(
            name="estimator",
            target=f"{ESTIMATOR}/estimator.json",
            shape="json",
            seal=resealed,
            read=read_estimator,
            says=says_estimator,
        ),
        Format(
            name="estimator weights",
            target=f"{ESTIMATOR}/estimator.safetensors",
            shape="safetensors",
            read=read_estimator,
            rehash=rehashed(f"{ESTIMATOR}/estimator.json", "weights_sha256", f"{ESTIMATOR}/estimator.safetensors"),
        ),
        Format(
            name="bounds",
            target=f"{ESTIMATOR}/bounds.json",
            shape="json",
            seal=resealed,
            read=read_bounds,
            says=says_bounds,
        ),
        Format(
            name="bounds scores",
            target=f"{ESTIMATOR}/bounds.safetensors",
            shape="safetensors",
            read=read_bounds,
            rehash=rehashed(f"{ESTIMATOR}/bounds.json", "scores_sha256", f"{ESTIMATOR}/bounds.safetensors"),
        ),
        Format(
            name="policy",
            target="controller/controller.json",
            shape="json",
            seal=resealed,
            read=read_policy,
            says=says_policy,
        ),
        Format(
            name="policy weights",
            target="controller/controller.safetensors",
            shape="safetensors",
            read=read_policy,
            rehash=rehashed("controller/controller.json", "weights_sha256", "controller/controller.safetensors"),
        ),
        Format(
            name="step-time model",
            target="model.json",
            shape="json",
            read=lambda folder: LinearStepTime.load(folder / "model.json").document(),
            says=lambda content: described(_json(content), tuple(LinearStepTime.__slots__)),
        ),
        Format(name="step log", target="steps.jsonl", shape="lines", read=read_steps, says=says_steps),
        Format(name="recorded requests", target="requests.jsonl", shape="lines", read=read_times, says=says_times),
        Format(
            name="trace lines",
            target="trace.jsonl",
            shape="lines",
            read=read_jsonl_trace,
            says=says_jsonl_trace,
        ),
        Format(name="trace table", target="trace.csv", shape="csv", read=read_csv_trace),
        Format(
            name="metric table",
            target="metric.csv",
            shape="csv",
            read=lambda folder: (
                all(
                    0 <= value < float("inf")
                    for value in read_metric(folder / "metric.csv", "prefill_e2e_time").values()
                )
                or 1 / 0
            ),
        ),
        Format(name="step-time tables", target="tables.npz", shape="npz", read=read_tables),
        *(
            Format(
                name=f"{kind} picture", target=f"picture.{kind}", shape="bytes", read=read_picture(f"picture.{kind}")
            )
            for kind in ("png", "jpeg", "webp", "gif", "bmp", "tiff")
        ),
        *(
            Format(name=f"{kind} header", target=f"picture.{kind}", shape="bytes", read=read_header(f"picture.{kind}"))
            for kind in ("png", "jpeg", "webp", "gif")
        ),
        Format(name="HTTP body", target="body.json", shape="json", read=read_body, says=says_body),
        Format(name="HTTP chat", target="chat.json", shape="json", read=read_chat, says=says_chat),
        Format(name="HTTP headers", target="headers.txt", shape="bytes", read=read_headers, says=says_headers),
        Format(name="streamed answer", target="events.txt", shape="events", read=read_stream),
        Format(
            name="model settings", target="settings/paceline.json", shape="json", read=read_settings, says=says_settings
        ),
        Format(
            name="certificate plan",
            target="plan/certify-plan.json",
            shape="json",
            seal=resealed,
            read=read_plan,
            says=says_plan,
        ),
    )
}


def originals(home: Path) -> None:
    """Write an undamaged original of every format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for write in (store_files, artifact_files, table_file, run_files, picture_files, body_files, wire_files):
            write(home)
