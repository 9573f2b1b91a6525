import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from synthetic_run import provenance
from typer.testing import CliRunner, Result

from paceline.cli.interchange import register
from paceline.errors import PacelineError
from paceline.profiles import ProfileStore, read_profile, write_core_exp
from paceline.records import KnobGrid, ProfileSample


@pytest.fixture(scope="module")
def run() -> Callable[..., Result]:
    app = typer.Typer()
    register(app)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    run = provenance(
        grid=KnobGrid(tiers=("low",), top_ks=(4, 8), block_counts=(16,)),
        datasets={"text_vqa": "synthetic", "doc_qa": "synthetic", "st_qa": "synthetic"},
    )
    with ProfileStore.open_or_create(tmp_path / "store", run) as opened:
        for dataset in run.datasets:
            for top_k in run.grid.top_ks:
                opened.append(sample(dataset, top_k))
    return tmp_path / "store"


def sample(dataset: str, top_k: int | None) -> ProfileSample:
    return ProfileSample(
        dataset=dataset,
        sample_id="s0",
        tier="low",
        top_k=top_k,
        num_active_blocks=16,
        target_vision_tokens=432,
        actual_vision_tokens=430,
        actual_text_tokens=21,
        output_tokens=3,
        accuracy=0.6,
        pred="a café",
        metadata={"question_type": "what"},
        T_vision_total=31.25,
        T_LLM_prefill=60.1,
        T_LLM_decode=40.0,
        T_decode_per_token=20.0,
        T_total=133.0,
        T_preprocess=4.5,
        T_ttft=97.3,
        T_other=1.65,
    )


def printed(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_export_and_import_bring_the_samples_back(run: Callable[..., Result], store: Path, tmp_path: Path) -> None:
    exported = printed(run("export", store, "--out", tmp_path / "exported", "--json"))
    assert (exported["samples"], exported["files"], exported["left_out"]) == (6, 6, [])
    imported = printed(run("import", tmp_path / "exported", "--out", tmp_path / "imported", "--json"))
    assert imported["datasets"]["doc_qa"] == {"samples": 2, "configurations": 2}
    before, after = read_profile(store).samples, read_profile(tmp_path / "imported").samples
    kept = [name for name in before.columns if name not in ("T_preprocess", "T_other")]
    assert before.select(kept).sort("dataset", "top_k").equals(after.select(kept).sort("dataset", "top_k"))


def test_only_the_named_datasets_go_out(run: Callable[..., Result], store: Path, tmp_path: Path) -> None:
    words = ("export", store, "--datasets", "doc-qa", "st_qa", "--out", tmp_path / "exported", "--json")
    assert set(printed(run(*words))["datasets"]) == {"doc_qa", "st_qa"}
    assert sorted(each.name for each in (tmp_path / "exported").iterdir()) == ["doc-qa", "st-qa"]


def test_skip_bad_lists_what_it_left_out(run: Callable[..., Result], store: Path, tmp_path: Path) -> None:
    write_core_exp(read_profile(store).samples, tmp_path / "exported")
    bad = next((tmp_path / "exported" / "doc-qa").iterdir())
    bad.write_text(bad.read_text()[:-5])
    stopped = run("import", tmp_path / "exported", "--out", tmp_path / "imported")
    assert isinstance(stopped.exception, PacelineError) and str(bad) in str(stopped.exception)
    assert not (tmp_path / "imported").exists()
    result = run("import", tmp_path / "exported", "--out", tmp_path / "imported", "--skip-bad", "--json")
    assert [(each["path"], each["sample"]) for each in printed(result)["left_out"]] == [(str(bad), None)]
    assert printed(result)["samples"] == 5 and bad.name in result.stderr


def test_merge_joins_parts_and_tells_what_was_the_same(run: Callable[..., Result], store: Path, tmp_path: Path) -> None:
    merged = printed(run("merge", store, store, "--out", tmp_path / "merged", "--json"))
    assert (merged["parts"], merged["samples"], merged["joined"]) == (2, 6, 6)
    words = run("merge", store, "--out", tmp_path / "again")
    assert words.exit_code == 0 and "6 samples" in words.stdout and "doc_qa" in words.stdout


@pytest.mark.parametrize("command", ["import", "export", "merge"])
def test_an_occupied_output_is_refused_and_left_alone(
    run: Callable[..., Result], store: Path, tmp_path: Path, command: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "note.txt").write_text("mine")
    refused = run(command, store, "--out", out)
    assert isinstance(refused.exception, PacelineError) and "never overwritten" in str(refused.exception)
    assert [each.name for each in out.iterdir()] == ["note.txt"]
