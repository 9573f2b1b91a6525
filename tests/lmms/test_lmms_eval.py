"""A local task of lmms-eval under a latency budget, end to end; runs where lmms-eval is installed.

`make test-lmms` makes an environment for it and runs this.
"""

import importlib.util
import io
import json
import os
import subprocess
import sys

import pytest

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.datasets import digit_questions
from paceline.records import KnobConfig

if importlib.util.find_spec("lmms_eval") is None:
    pytest.skip("lmms-eval is not installed here", allow_module_level=True)

RANKING = [15, 9, 14, 7, 12, 13, 10, 4, 11, 8, 5, 6, 3, 2, 1]
SEVERAL = "paceline_several_synthetic"
TASK = """
task: paceline_digits_synthetic
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.doc_to_visual
doc_to_text: !function functions.doc_to_text
doc_to_target: "answer"
generation_kwargs:
  max_new_tokens: 8
  temperature: 0
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
FUNCTIONS = """
def doc_to_visual(doc):
    return [doc["image"].convert("RGB")]


def doc_to_pictures(doc):
    return doc_to_visual(doc) * doc["pictures"]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]
"""


@pytest.fixture
def task_folder(tmp_path):
    from datasets import Dataset, Features, Image, Value

    rows = {"question": [], "answer": [], "image": [], "pictures": []}
    for number, question in enumerate(digit_questions("digits_count", split="test", count=6)):
        stream = io.BytesIO()
        question.picture.save(stream, "PNG")
        rows["pictures"].append(number % 3)
        rows["question"].append(question.prompt)
        rows["answer"].append(question.references[0])
        rows["image"].append({"bytes": stream.getvalue(), "path": None})
    kinds = Features(
        {"question": Value("string"), "answer": Value("string"), "image": Image(), "pictures": Value("int64")}
    )
    Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "digits.parquet")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "paceline_digits.yaml").write_text(TASK.format(file=tmp_path / "digits.parquet"))
    several = TASK.replace("task: paceline_digits_synthetic", f"task: {SEVERAL}").replace(
        "doc_to_visual\n", "doc_to_pictures\n"
    )
    (folder / "several.yaml").write_text(several.format(file=tmp_path / "digits.parquet"))
    (folder / "functions.py").write_text(FUNCTIONS)
    return folder


@pytest.fixture
def table_path(tmp_path):
    entries = [
        TableEntry(
            config=KnobConfig(tier=tier, top_k=8, num_active_blocks=16),
            accuracy=accuracy,
            latency_ms=latency_ms,
            num_samples=9,
            accuracy_std=0.1,
            latency_std_ms=1.0,
        )
        for tier, accuracy, latency_ms in (("low", 0.5, 10.0), ("high", 0.9, 500.0))
    ]
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind="prefill",
        datasets=("digits_count",),
        num_profiling_results=9,
        provenance=({"model": "digits", "block_ranking": RANKING},),
    )
    path = tmp_path / "table.json"
    path.write_text(json.dumps(LookupTable(entries=entries, metadata=metadata).document()))
    return path


def evaluated(task_folder, table_path, out, *more, budget_ms=100_000, task="paceline_digits_synthetic"):
    arguments = f"pretrained=digits,controller={table_path},budget_ms={budget_ms},records={out}.jsonl,device=cpu"
    command = [sys.executable, "-m", "lmms_eval", "--model", "paceline", "--model_args", arguments, "--batch_size", "1"]
    command += ["--tasks", task, "--include_path", str(task_folder), "--output_path", str(out)]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(out / "home")}
    return subprocess.run([*command, *more], capture_output=True, text=True, env={**os.environ, **offline}, timeout=540)


def test_a_task_runs_under_a_budget_and_its_results_say_so(task_folder, table_path, tmp_path):
    out = tmp_path / "results"
    done = evaluated(task_folder, table_path, out)
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = out.rglob("*results.json")
    results = json.loads(file.read_text())
    task = results["results"]["paceline_digits_synthetic"]
    assert task["exact_match,none"] >= 0.5
    run = results["throughput"]
    assert run["avg_adherence"] == 1.0 and run["avg_budget_ms"] == 100_000 and run["avg_config_high_8_16"] == 6
    assert 0 < run["avg_ttft_ms"] < 100_000 and "budget_ms=100000" in json.dumps(results["config"])
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [each["doc_id"] for each in records] == list(range(6)) and all(each["within_budget"] for each in records)


def test_a_budget_decides_the_configuration(task_folder, table_path, tmp_path):
    done = evaluated(task_folder, table_path, tmp_path / "results", budget_ms=20)
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {each["config"] for each in records} == {"low_8_16"} and all(each["promised"] for each in records)


def test_documents_without_a_picture_and_with_several_are_asked_as_they_are(task_folder, table_path, tmp_path):
    done = evaluated(task_folder, table_path, tmp_path / "results", task=SEVERAL)
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [each["promised"] for each in records] == [False, True, False] * 2
    assert all(each["within_budget"] for each in records)


def test_a_cache_of_answers_is_refused(task_folder, table_path, tmp_path):
    done = evaluated(task_folder, table_path, tmp_path / "results", "--use_cache", str(tmp_path / "cache"))
    assert "what is not run keeps no budget" in done.stderr + done.stdout
