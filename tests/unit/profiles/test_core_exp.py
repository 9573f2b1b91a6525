import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from paceline.errors import (
    InvalidValueError,
    OutputPathError,
    ProfileConflictError,
    ProfileDataError,
    UnknownChoiceError,
)
from paceline.profiles import (
    SCHEMA,
    ProfileStore,
    core_exp_processes,
    import_profile,
    read_profile,
    write_core_exp,
)
from paceline.records import ProfileSample, Provenance

Build = Callable[..., ProfileSample]
Document = dict[str, Any]
NAME = "text-vqa_imgsizetier-low_crops2_topk4_blocks16.json"
CORE_EXP_FIELDS = [name for name in SCHEMA if name not in ("dataset", "T_preprocess", "T_ttft", "T_other")]


def document(*changes: dict[str, Any], **head: Any) -> Document:
    """A file of the present form with one sample for each of `changes`, two where none is given."""
    samples: list[dict[str, Any]] = [
        {
            "sample_id": f"s{index}",
            "tier": "low",
            "top_k": 4,
            "num_active_blocks": 16,
            "target_vision_tokens": 432,
            "actual_vision_tokens": 430 + index,
            "actual_text_tokens": 21,
            "output_tokens": 4,
            "accuracy": 0.6,
            "pred": "a café",
            "metadata": {"question_type": "what", "answers": ["a", "b"]},
            "T_vision_total": 31.25,
            "T_LLM_prefill": 60.1,
            "T_LLM_decode": 40.0,
            "T_decode_per_token": 13.3,
            "T_total": 133.0,
            **change,
        }
        for index, change in enumerate(changes or ({}, {}))
    ]
    whole = {"tier": "low", "top_k": 4, "num_active_blocks": 16, "accuracy": 0.6, "num_samples": len(samples)}
    return {**whole, "aggregate_stats": {}, "per_sample_results": samples, **head}


def written(directory: Path, content: Document | str, *, dataset: str = "text-vqa", name: str = NAME) -> Path:
    path = directory / dataset / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def without(content: Document, *names: str, head: tuple[str, ...] = ()) -> Document:
    samples = [{k: v for k, v in each.items() if k not in names} for each in content["per_sample_results"]]
    return {**{k: v for k, v in content.items() if k not in head}, "per_sample_results": samples}


def test_the_present_form_is_read_field_by_field(tmp_path: Path) -> None:
    content = document()
    written(tmp_path, content)
    profile = read_profile(tmp_path)
    assert profile.samples.schema == SCHEMA and profile.provenance == () and profile.left_out == ()
    rows = [{**row, "metadata": json.loads(row["metadata"])} for row in profile.samples.to_dicts()]
    assert [{name: row[name] for name in CORE_EXP_FIELDS} for row in rows] == content["per_sample_results"]
    assert {row["dataset"] for row in rows} == {"text_vqa"} and {row["T_other"] for row in rows} == {None}


def test_times_to_first_token_are_read_where_they_are_and_made_up_nowhere(tmp_path: Path) -> None:
    written(tmp_path, document({"T_ttft": 99.5}, {"sample_id": "older"}))
    written(tmp_path, without(document({"T_ttft": 98.5}, {"sample_id": "older"}), "T_total"), dataset="doc-qa")
    found = read_profile(tmp_path).samples.with_columns(pl.col("dataset").cast(pl.String)).sort("dataset", "sample_id")
    # "s0" has one, "older" none, in the present form and, read value by value, in an older one
    assert found.select("sample_id", "T_ttft").rows() == [("older", None), ("s0", 98.5), ("older", None), ("s0", 99.5)]
    written(tmp_path, document({"T_ttft": -1.0}), dataset="st-qa")
    with pytest.raises(ProfileDataError, match="T_ttft"):
        read_profile(tmp_path)


def test_times_to_first_token_go_out_and_come_back_where_any_sample_has_one(tmp_path: Path) -> None:
    written(tmp_path / "in", document({"T_ttft": 99.5}, {"sample_id": "older"}))
    written(tmp_path / "in", document(), dataset="doc-qa")
    samples = read_profile(tmp_path / "in").samples
    write_core_exp(samples, tmp_path / "out")
    assert read_profile(tmp_path / "out").samples["T_ttft"].to_list() == samples["T_ttft"].to_list()
    plain, timed = (next((tmp_path / "out" / dataset).iterdir()) for dataset in ("doc-qa", "text-vqa"))
    assert "T_ttft" not in plain.read_text()
    assert json.loads(timed.read_text())["aggregate_stats"]["T_ttft"]["mean"] == 99.5


def test_datasets_are_the_directories_and_dashes_are_underscores(tmp_path: Path) -> None:
    written(tmp_path, document())
    written(tmp_path, document({"sample_id": "u"}), dataset="text_vqa")
    written(tmp_path, document(), dataset="doc-qa")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "notes.txt").write_text("not a dataset")
    counts = read_profile(tmp_path).samples["dataset"].cast(pl.String).value_counts().sort("dataset").rows()
    assert counts == [("doc_qa", 2), ("text_vqa", 3)]
    chosen = read_profile(tmp_path, datasets=["doc-qa"], columns=["accuracy", "dataset"])
    assert chosen.samples.columns == ["accuracy", "dataset"] and chosen.samples.height == 2
    with pytest.raises(UnknownChoiceError, match="did you mean 'doc_qa'"):
        read_profile(tmp_path, datasets=["doc_qq"])
    with pytest.raises(UnknownChoiceError, match="profile column 'T_totl' is unknown"):
        read_profile(tmp_path, columns=["T_totl"])


CONFIGURED = ("tier", "top_k", "num_active_blocks")


@pytest.mark.parametrize(
    "variant",
    [
        without(document(), *CONFIGURED),
        without(document(), head=CONFIGURED),
        without(document(summary=[{"tier": "low", "top_k": 4, "num_active_blocks": 16}]), *CONFIGURED, head=CONFIGURED),
        without(document(), head=("num_samples", "aggregate_stats", "accuracy")),
        document(aggregate_stats={"mean": float("nan")}),
    ],
    ids=["top level", "samples", "summary", "no counts", "NaN where nothing is read"],
)
def test_the_configuration_may_stand_in_three_places(tmp_path: Path, variant: Document) -> None:
    written(tmp_path / "present", document())
    written(tmp_path / "older", variant)
    assert read_profile(tmp_path / "older").samples.equals(read_profile(tmp_path / "present").samples)


def test_older_files_are_completed_by_their_own_definitions(tmp_path: Path) -> None:
    content = document({"input_text_tokens": 17}, {"input_text_tokens": 18})
    written(tmp_path, without(content, "actual_text_tokens", "T_decode_per_token", "T_total"))
    samples = read_profile(tmp_path).samples
    assert samples["actual_text_tokens"].to_list() == [17, 18]
    assert samples["T_decode_per_token"].to_list() == [40.0 / 4] * 2
    assert samples["T_total"].to_list() == [31.25 + 60.1 + 40.0] * 2
    only = read_profile(tmp_path, columns=["T_total", "accuracy"]).samples
    assert only.equals(samples.select("T_total", "accuracy"))


def test_numbered_samples_are_read_as_text(tmp_path: Path) -> None:
    written(tmp_path, document({"sample_id": 17}, {"sample_id": 18}))
    assert read_profile(tmp_path).samples["sample_id"].to_list() == ["17", "18"]


def test_a_model_without_a_knob_has_null_there(tmp_path: Path) -> None:
    config = {"tier": None, "top_k": None}
    written(tmp_path, document(config, config, **config))
    samples = read_profile(tmp_path).samples
    assert samples["tier"].to_list() == samples["top_k"].to_list() == [None, None]


@pytest.mark.parametrize(
    ("content", "field", "named"),
    [
        ("", None, "is not whole JSON"),
        ("picture", None, "is not whole JSON"),
        (json.dumps(document())[:-30], None, "is not whole JSON"),
        ("[" * 100_000, None, "is not whole JSON"),
        ("[]", None, "is JSON, but no object"),
        ({"tier": "low"}, "per_sample_results", "is missing"),
        (document(per_sample_results=[]), "per_sample_results", "holds no samples"),
        (document(per_sample_results={}), "per_sample_results", "holds no samples"),
        (document(num_samples=3), "num_samples", "is 3, but the file holds 2 samples"),
        (document(per_sample_results=[document()["per_sample_results"][0], 3]), None, "result 1: is no object"),
        (document({}, {"T_total": float("nan")}), "T_total", "is nan"),
        (document({}, {"T_vision_total": -0.5}), "T_vision_total", "is -0.5"),
        (document({}, {"T_LLM_decode": "12"}), "T_LLM_decode", "is '12'"),
        (document({}, {"accuracy": True}), "accuracy", "is True"),
        (document({}, {"output_tokens": 3.5}), "output_tokens", "is 3.5"),
        (document({}, {"output_tokens": 2**40}), "output_tokens", "is 1099511627776"),
        (document({}, {"metadata": {"score": float("inf")}}), "metadata", "is {'score': inf}"),
        (document({}, {"pred": "\ud800"}), "pred", "is '\\ud800'"),
        (document({"tier": "hgih"}, {"tier": "hgih"}, tier="hgih"), "tier", "is 'hgih'"),
        (document({"tier": "high"}, {}), "tier", "is 'high' in one place and 'low' in another"),
        (without(document(), *CONFIGURED, head=CONFIGURED), "tier", "is missing"),
        (without(document(), "pred"), "pred", "is missing"),
        (without(document(), "T_total", "T_LLM_prefill"), "T_LLM_prefill", "is missing"),
        (without(document({"output_tokens": 0}), "T_decode_per_token"), "T_decode_per_token", "is missing"),
    ],
)
def test_a_bad_file_is_named_with_field_and_remedy(
    tmp_path: Path, content: Document | str, field: str | None, named: str
) -> None:
    good = written(tmp_path, document({"sample_id": "good"}), name="good.json")
    bad = written(tmp_path, content, name="zz.json")
    with pytest.raises(ProfileDataError) as caught:
        read_profile(tmp_path)
    assert caught.value.path == bad and caught.value.field == field
    assert named in str(caught.value) and "expected" in str(caught.value) and "--skip-bad" in caught.value.mend
    rest = read_profile(tmp_path, skip_bad=True)
    assert "good" in rest.samples["sample_id"].to_list() and good.is_file()
    assert {note.path for note in rest.left_out} == {bad}


def test_one_field_that_some_samples_lack_is_missing_not_older(tmp_path: Path) -> None:
    content = document()
    del content["per_sample_results"][1]["T_total"]
    written(tmp_path, content)
    with pytest.raises(ProfileDataError, match="sample 's1', field 'T_total': is missing"):
        read_profile(tmp_path)
    rest = read_profile(tmp_path, skip_bad=True)
    assert rest.samples["sample_id"].to_list() == ["s0"] and [note.sample for note in rest.left_out] == ["s1"]


@pytest.mark.parametrize("other", [NAME, "another-name.json"])
def test_a_sample_that_stands_twice_is_refused(tmp_path: Path, other: str) -> None:
    same = {"sample_id": "same"}
    written(tmp_path, document(same, same) if other == NAME else document(same))
    written(tmp_path, document(same, same) if other == NAME else document(same, {}), name=other)
    with pytest.raises(ProfileConflictError, match="sample 'same' of text_vqa") as caught:
        read_profile(tmp_path, columns=["accuracy"])
    assert other in str(caught.value)
    rest = read_profile(tmp_path, skip_bad=True)
    assert rest.samples["sample_id"].to_list().count("same") == 1 and rest.left_out[0].sample == "same"


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_several_processes_read_what_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    for number, dataset in enumerate(("doc-qa", "mmmu", "okvqa", "st-qa", "text-vqa")):
        written(tmp_path, document(*({"pred": f"{dataset} {index}"} for index in range(1 + number))), dataset=dataset)
    bad = written(tmp_path, "{", dataset="mmmu", name="bad.json")
    alone = read_profile(tmp_path, skip_bad=True)
    monkeypatch.setattr(core_exp_processes, "PAYS_FROM_BYTES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    together = read_profile(tmp_path, skip_bad=True)
    assert together.samples.equals(alone.samples) and together.left_out == alone.left_out
    assert together.samples.height == 1 + 2 + 3 + 4 + 5
    with pytest.raises(ProfileDataError) as caught:
        read_profile(tmp_path)
    assert caught.value.path == bad


def test_an_empty_directory_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ProfileDataError, match="holds no dataset directories; expected a sub-directory for each"):
        read_profile(tmp_path)
    (tmp_path / "text-vqa").mkdir()
    with pytest.raises(ProfileDataError, match=r"text-vqa: holds no \.json file"):
        read_profile(tmp_path)
    with pytest.raises(ProfileDataError, match="does not exist"):
        read_profile(tmp_path / "missing")
    with pytest.raises(ProfileDataError, match="name the directory above"):
        read_profile(written(tmp_path, document()))


def test_two_profiles_in_one_directory_are_refused(tmp_path: Path, synthetic_run: Callable[..., Provenance]) -> None:
    ProfileStore.open_or_create(tmp_path / "a" / "cpu", synthetic_run()).close()
    ProfileStore.open_or_create(tmp_path / "a" / "cuda", synthetic_run(device="cuda")).close()
    with pytest.raises(ProfileConflictError, match=r"holds 2 native stores \(cpu, cuda\)"):
        read_profile(tmp_path / "a")
    written(tmp_path / "a" / "cpu", document())
    with pytest.raises(ProfileConflictError, match="holds core-exp files too"):
        read_profile(tmp_path / "a" / "cpu")


def test_the_layout_is_written_as_it_is_read(tmp_path: Path, synthetic_sample: Build) -> None:
    written(tmp_path / "first", document())
    written(tmp_path / "first", document({"tier": None}, tier=None), dataset="coco-2014-vqa", name="none.json")
    imported = import_profile(tmp_path / "first", tmp_path / "store")
    stored = read_profile(tmp_path / "store")
    assert stored.samples.equals(imported.samples)
    assert write_core_exp(stored.samples, tmp_path / "second") == 2
    files = sorted(str(path.relative_to(tmp_path / "second")) for path in (tmp_path / "second").rglob("*.json"))
    assert files == [
        "coco-2014-vqa/coco-2014-vqa_imgsizetier-none_cropsnone_topk4_blocks16.json",
        f"text-vqa/{NAME}",
    ]
    rewritten = json.loads((tmp_path / "second" / files[1]).read_text())
    assert list(rewritten) == list(document())
    assert rewritten["per_sample_results"] == document()["per_sample_results"]
    assert rewritten["accuracy"] == 0.6 and rewritten["num_samples"] == 2
    assert rewritten["aggregate_stats"]["actual_vision_tokens"]["mean"] == 430.5
    assert read_profile(tmp_path / "second").samples.equals(imported.samples)


def test_an_import_says_where_it_came_from_and_takes_no_run(
    tmp_path: Path, synthetic_run: Callable[..., Provenance]
) -> None:
    written(tmp_path / "source", document({}, {"T_total": -1.0}))
    import_profile(tmp_path / "source", tmp_path / "store", skip_bad=True)
    described = json.loads((tmp_path / "store" / "profile.json").read_text())
    assert described["imported_from"] == str(tmp_path / "source") and "'s1'" in described["left_out"][0]
    with pytest.raises(ProfileConflictError, match="was imported from"):
        ProfileStore.open_or_create(tmp_path / "store", synthetic_run())
    with pytest.raises(ProfileConflictError, match="a native store already"):
        import_profile(tmp_path / "store", tmp_path / "again")


def test_nothing_is_overwritten_or_left_half_written(tmp_path: Path) -> None:
    written(tmp_path / "source", document())
    samples = read_profile(tmp_path / "source").samples
    for write in (
        lambda out: import_profile(tmp_path / "source", out),
        lambda out: write_core_exp(samples, out),
    ):
        with pytest.raises(OutputPathError, match="never overwritten"):
            write(tmp_path / "source")
        with pytest.raises(OutputPathError):
            write(tmp_path / "source" / "text-vqa" / NAME / "below-a-file")
    outside = samples.with_columns(dataset=pl.lit("../outside", dtype=pl.Categorical()))
    with pytest.raises(InvalidValueError, match="dataset is '../outside'; expected letters, digits"):
        write_core_exp(outside, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("name", ["[b]", "a b", "caf\u00e9", "a\nb", "x" * 101])
def test_a_directory_that_no_dataset_can_be_called_is_refused_or_left_out(tmp_path: Path, name: str) -> None:
    written(tmp_path, document(), dataset="doc-qa")
    bad = written(tmp_path, document(), dataset=name).parent
    with pytest.raises(ProfileDataError, match="is no name of a dataset; expected letters, digits") as refused:
        read_profile(tmp_path)
    assert refused.value.path == bad
    assert read_profile(tmp_path, datasets=["doc_qa"]).samples.height == 2
    rest = read_profile(tmp_path, skip_bad=True)
    assert rest.samples.height == 2 and [note.path for note in rest.left_out] == [bad]
