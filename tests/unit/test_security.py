"""The threat model of docs/security.md: that each of its tests exists, and those that no other file holds."""

import ast
import json
import os
import pickle
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from estimators import write_grid_estimator

import paceline
from paceline.control.loading import load_controller
from paceline.errors import ModelError, PacelineError
from paceline.fit.artifact_directory import replaced_artifact
from paceline.models.loading import load_model
from paceline.profiles import read_profile, write_core_exp
from paceline.profiles.atomic import write_atomically
from paceline.profiles.description import StoreDescription
from paceline.profiles.parquet import ParquetNote, write_parquet
from paceline.profiles.sentinels import read_drifts
from paceline.server.request_log import RequestLog
from paceline.simulate import VidurTables
from paceline.tune.capacity_chart import capacity_chart

ROOT = Path(__file__).parents[2]
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
EVALUATES = {"eval", "exec", "__import__"}
LOADERS = {("np", "load"): "allow_pickle", ("numpy", "load"): "allow_pickle", ("torch", "load"): "weights_only"}


def test_every_test_that_the_threat_model_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "security.md").read_text())
    assert len(named) > 25
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"


def test_each_line_of_the_threat_model_names_a_test():
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    assert all("::test_" in row for row in rows if not row.startswith("| what |"))


def wrong_calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.split(".")[0] in PICKLES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PICKLES:
            yield node.module
        elif isinstance(node, ast.Call):
            yield from wrong_call(node)


def wrong_call(node):
    keywords = {each.arg: getattr(each.value, "value", None) for each in node.keywords}
    called = node.func
    if isinstance(called, ast.Name) and called.id in EVALUATES:
        yield called.id
    if keywords.get("shell"):
        yield "a shell"
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        safe = LOADERS.get((called.value.id, called.attr))
        if safe is not None and keywords.get(safe) is not (safe == "weights_only"):
            yield f"{called.value.id}.{called.attr} without {safe}"
        if (called.value.id, called.attr) in {("os", "system"), ("os", "popen"), ("yaml", "load")}:
            yield f"{called.value.id}.{called.attr}"


def test_no_module_unpickles_or_evaluates():
    files = sorted(Path(paceline.__file__).parent.rglob("*.py"))
    assert len(files) > 200
    found = {str(path): wrong for path in files if (wrong := list(wrong_calls(ast.parse(path.read_text()))))}
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "np.load(x)",
        "torch.load(x, weights_only=False)",
        "eval(x)",
        "run(x, shell=True)",
    ],
)
def test_what_would_unpickle_or_evaluate_is_found(line):
    assert list(wrong_calls(ast.parse(line)))


class Runs:
    """A pickle that leaves a file where it is read."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


def test_a_pickle_among_weights_does_not_run(dense_folder, tmp_path):
    mark, folder = tmp_path / "it ran", tmp_path / "model"
    shutil.copytree(dense_folder, folder)
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(Exception):  # noqa: B017  whose sentence it is differs by version; that nothing ran is the point
        load_model(str(folder), device="cpu")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Runs(mark))).close()
    assert mark.exists(), "it would have run"


def test_a_pickle_among_tables_does_not_run(tmp_path):
    mark = tmp_path / "it ran"
    np.savez(tmp_path / "tables.npz", meta=np.array(Runs(mark), dtype=object))
    with pytest.raises(PacelineError):
        VidurTables.load(tmp_path / "tables.npz")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../up", "/tmp/x", "a/b", "..", ".hidden", "a\x00b", "a\\b", "x" * 300])
def test_no_name_in_a_profile_leads_out_of_a_directory(name, tmp_path, synthetic_samples_frame):
    store, samples = synthetic_samples_frame
    journal = store / "journal-rank0.jsonl"
    line = {**json.loads(journal.read_text().splitlines()[0]), "dataset": name}
    journal.write_text(json.dumps(line) + "\n")
    (store / "samples.parquet").unlink(missing_ok=True)
    with pytest.raises(PacelineError, match="dataset"):
        read_profile(store)
    inner = tmp_path / "a" / "b" / "out"
    with pytest.raises(PacelineError):
        write_core_exp(samples.with_columns(dataset=samples["dataset"].cast(str).replace("text_vqa", name)), inner)
    assert not inner.exists() and {each.name for each in tmp_path.iterdir()} <= {"a", "store"}


@pytest.fixture
def synthetic_samples_frame(tmp_path):
    from store_work import RUN, sample

    from paceline.profiles import ProfileStore

    with ProfileStore.open_or_create(tmp_path / "store", RUN, fsync=False) as store:
        store.append(sample("one"))
    return tmp_path / "store", read_profile(tmp_path / "store").samples


def test_writing_does_not_follow_a_link(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "ours").symlink_to(tmp_path / "theirs")
    write_atomically(tmp_path / "ours", b"ours")
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert (tmp_path / "ours").read_text() == "ours" and not (tmp_path / "ours").is_symlink()


def test_a_replaced_artifact_keeps_its_links_as_links(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "secret").write_text("theirs")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "made.json").write_text("{}")
    (tmp_path / "ours" / "link").symlink_to(tmp_path / "theirs")
    with replaced_artifact(tmp_path / "ours", "made.json") as (new, kept):
        (new / "made.json").write_text("[]")
    assert (kept / "link").is_symlink() and (tmp_path / "theirs" / "secret").read_text() == "theirs"
    assert [each.name for each in (tmp_path / "ours").iterdir()] == ["made.json"]


def test_a_request_cannot_write_a_line_of_its_own_into_the_log():
    lines = []
    visit = SimpleNamespace(status=404, wall=0.0, ended=1.0, started=0.0, held_bytes=7, body=b"the prompt")
    log = RequestLog(lines.append)
    log({"path": '/x\n{"path": "forged"}\x1b[31m\u202e', "method": "GET"}, visit)
    (line,) = lines
    assert line.count("\n") == 1 and line.isascii() and "\x1b" not in line and "the prompt" not in line
    assert msgspec.json.decode(line)["path"].startswith("/x\n")


@pytest.mark.parametrize(
    "name", ["journal-rank0.jsonl", ".journal-rank0.jsonl.lock", "sentinels-rank0.jsonl", ".store.lock"]
)
def test_a_store_whose_files_lead_elsewhere_is_not_written(name, tmp_path, synthetic_samples_frame):
    """A store from elsewhere, unpacked: what is cut, emptied and appended to is its own."""
    from store_work import RUN, sample

    from paceline.profiles import ProfileStore

    store, _ = synthetic_samples_frame
    theirs = tmp_path / "theirs"
    theirs.write_text("whole line\nand one without an end")
    (store / name).unlink(missing_ok=True)
    (store / name).symlink_to(theirs)

    def go_on():
        with ProfileStore.open_or_create(store, RUN, fsync=False) as again:
            again.append(sample("two"))
            again.append_sentinel({"prefill_ms": 1.0})

    with pytest.raises(PacelineError, match="symbolic link, which is not followed"):
        go_on()
    assert theirs.read_text() == "whole line\nand one without an end"


def test_a_name_in_a_chart_is_text():
    need = SimpleNamespace(controller="<script>&", router="a</svg>", accuracy_floor=0.5, planned=2)
    drawn = ElementTree.fromstring(capacity_chart([need]))
    assert [each.text for each in drawn.iter("{http://www.w3.org/2000/svg}text")][-1] == "<script>&, a</svg>"


@pytest.mark.parametrize("answer", ["y", "yes"])
def test_nobody_is_asked_at_the_terminal_whether_code_may_run(answer, dense_folder, tmp_path, monkeypatch):
    mark, folder = tmp_path / "it ran", tmp_path / "model"
    shutil.copytree(dense_folder, folder)
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil:\n    pass\n")
    named = {"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.Evil"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(named))
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    with pytest.raises(ModelError):
        load_model(str(folder), device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize("what", ["a pipe", "a device"])
@pytest.mark.parametrize("name", ["journal-rank0.jsonl", "samples.parquet", "sentinels-rank0.jsonl"])
def test_what_has_no_end_is_no_file_of_a_store(name, what, synthetic_samples_frame):
    """A store from elsewhere, unpacked: reading it ends, in bounded memory."""
    store, _ = synthetic_samples_frame
    (store / name).unlink(missing_ok=True)
    if what == "a pipe":
        os.mkfifo(store / name)
    else:
        (store / name).symlink_to("/dev/full")
    with pytest.raises(PacelineError, match="a device, a pipe or a socket, and no file"):
        read_drifts(store) if name.startswith("sentinels") else read_profile(store)


@pytest.mark.parametrize("name", ["estimator.json", "estimator.safetensors", "bounds.json", "bounds.safetensors"])
def test_what_has_no_end_is_no_file_of_an_artifact(name, tmp_path):
    write_grid_estimator(tmp_path / "estimator", 1)
    (tmp_path / "estimator" / name).unlink()
    (tmp_path / "estimator" / name).symlink_to("/dev/full")
    with pytest.raises(PacelineError, match="a device, a pipe or a socket, and no file"):
        load_controller(tmp_path / "estimator", alpha=0.05)


@pytest.mark.parametrize("name", ["../../up", "/etc/passwd", "", "journal-rank/../0.jsonl", "a" * 5000])
def test_a_compaction_that_names_no_journal_of_its_store_is_a_sentence(name, synthetic_samples_frame):
    store, samples = synthetic_samples_frame
    note = ParquetNote(description=StoreDescription.read(store), journal_bytes={name: 5})
    write_parquet(samples, store / "samples.parquet", note)
    with pytest.raises(PacelineError, match="covers the journal") as refused:
        read_profile(store)
    assert len(str(refused.value)) < 3000
