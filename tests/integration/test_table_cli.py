import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner, Result

from paceline.cli import budgets, table
from paceline.cli.flags.lists import split_list, split_numbers
from paceline.control import LookupTable
from paceline.errors import InvalidValueError, OutputPathError, ProfileDataError, TableError, UnknownChoiceError

APP = typer.Typer()
table.register(APP)
budgets.register(APP)
RUNNER = CliRunner()


def sample(config: dict[str, Any], index: int, accuracy: float, vision_ms: float) -> dict[str, Any]:
    return {
        **config,
        "sample_id": str(index),
        "target_vision_tokens": 144,
        "actual_vision_tokens": 144,
        "actual_text_tokens": 9,
        "output_tokens": 3,
        "accuracy": accuracy,
        "pred": "7",
        "metadata": {},
        "T_vision_total": vision_ms,
        "T_LLM_prefill": 60.0,
        "T_LLM_decode": 40.0,
        "T_decode_per_token": 20.0,
        "T_total": 101.0 + vision_ms,
    }


@pytest.fixture
def core_exp(tmp_path: Path) -> Path:
    """Two data sets, three configurations (prefill 100, 160 and 220 ms), of which medium is on no front."""
    directory = tmp_path / "results"
    for dataset in ("text-vqa", "ok-vqa"):
        for tier, accuracy, vision_ms in (("low", 0.5, 40.0), ("medium", 0.4, 100.0), ("high", 0.8, 160.0)):
            config = {"tier": tier, "top_k": 4, "num_active_blocks": 8}
            rows = [sample(config, index, accuracy, vision_ms) for index in range(4)]
            document = {
                **config,
                "accuracy": accuracy,
                "num_samples": 4,
                "aggregate_stats": {},
                "per_sample_results": rows,
            }
            path = directory / dataset / f"{dataset}_imgsizetier-{tier}_crops2_topk4_blocks8.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document))
    return directory


def run(*words: object) -> Result:
    return RUNNER.invoke(APP, [str(word) for word in words], catch_exceptions=False)


def decided(result: Result) -> list[tuple[float, str, bool]]:
    document = json.loads(result.stdout)
    return [(row["budget_ms"], row["tier"], row["within_budget"]) for row in document["decisions"]]


@pytest.mark.parametrize("spelling", ["-", "_"])
def test_build_takes_the_reference_flags_in_both_spellings(spelling: str, core_exp: Path, tmp_path: Path) -> None:
    def flag(name: str) -> str:
        return "--" + name.replace("_", spelling)

    output = tmp_path / "out.json"
    words = [flag("results_dir"), core_exp, flag("output_file"), output, "--datasets", "text-vqa", "ok_vqa"]
    settings = [flag("aggregation_method"), "median", "--tolerance", 0.1, flag("use_total_latency")]
    run("table", "build", *words, *settings)
    metadata = LookupTable.load(output).metadata
    assert (metadata.aggregation_method, metadata.tolerance, metadata.latency_kind) == ("median", 0.1, "total")
    assert metadata.datasets == ("ok_vqa", "text_vqa")
    run("table", "build", *words, flag("use_prefill_only"))
    assert LookupTable.load(output).latency_kind == "prefill"
    assert len(list(tmp_path.glob("out-*.json"))) == 1


def test_build_prints_one_document_and_writes_a_table_per_dataset(core_exp: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    result = run("table", "build", core_exp, "-o", output, "--per-dataset", "--json")
    document = json.loads(result.stdout)
    assert document["latency_kind"] == "prefill"
    assert document["num_configs"] == 3
    assert document["latency_range_ms"] == [100.0, 220.0]
    assert document["accuracy_range"] == pytest.approx([0.4, 0.8])
    assert document["never_taken"] == ["medium_4_8"]
    keys = "budget_ms tier top_k num_active_blocks accuracy latency_ms num_samples within_budget"
    assert [list(row) for row in document["decisions"]] == [keys.split(), keys.split()]
    for name in ("ok_vqa", "text_vqa"):
        assert LookupTable.load(tmp_path / f"out-{name}.json").metadata.datasets == (name,)


LIST_FORMS = [
    ["--budgets", "50", "150", "300"],
    ["--budgets", "50", "--budgets", "150", "--budgets", "300"],
    ["--budgets", "50,150,300"],
    ["--budgets", "50,150", "300"],
]


@pytest.mark.parametrize("form", LIST_FORMS)
@pytest.mark.parametrize("table_first", [True, False])
def test_budgets_may_be_listed_in_any_form(form: list[str], table_first: bool, core_exp: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    run("table", "build", core_exp, "-o", output)
    words = [output, *form] if table_first else [*form, output]
    expected = [(50.0, "low", False), (150.0, "low", True), (300.0, "high", True)]
    assert decided(run("table", "show", *words, "--json")) == expected


def test_show_prints_range_decisions_and_what_is_never_taken(core_exp: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    run("table", "build", core_exp, "-o", output)
    text = run("table", "show", output, "--budgets", 50, 300).stdout
    assert "3 configurations, 24 samples of ok_vqa, text_vqa" in text
    assert "prefill latency 100.00 to 220.00 ms" in text
    assert "0.800 (0.455–0.950)" in text
    assert "Never taken at any budget: 1 of 3 configurations (medium_4_8)" in text


def test_cautions_go_to_standard_error(core_exp: Path, tmp_path: Path) -> None:
    words = ["--use-total-latency", "--aggregation-method", "max_accuracy", "--json"]
    result = run("table", "build", core_exp, "-o", tmp_path / "out.json", *words)
    assert "optimistic" in result.stderr
    assert "for analysis only" in result.stderr
    assert len(json.loads(result.stdout)["cautions"]) == 2


def test_budgets_prints_and_saves_the_same_document(core_exp: Path, tmp_path: Path) -> None:
    output = tmp_path / "budgets.json"
    document = json.loads(run("budgets", core_exp, "--latency", "total", "--json", "-o", output).stdout)
    assert json.loads(output.read_text()) == document
    assert document["latency_kind"] == "total"
    assert document["n"] == 24
    assert [row["tier"] for row in document["datasets"]["ok_vqa"]["front"]] == ["low", "high"]
    assert document["on_no_front"] == ["medium_4_8"]


def test_budgets_prints_for_people(core_exp: Path) -> None:
    text = run("budgets", core_exp, "--datasets", "ok-vqa").stdout
    assert "prefill latency over 12 samples" in text
    assert "ok_vqa: front of 2 out of 3 configurations" in text
    assert "text_vqa" not in text
    assert "100 150 200 220" in text


def test_skip_bad_lists_what_it_left_out(core_exp: Path, tmp_path: Path) -> None:
    broken = core_exp / "ok-vqa" / "ok-vqa_imgsizetier-low_crops2_topk4_blocks8.json"
    broken.write_text(broken.read_text()[:-40])
    with pytest.raises(ProfileDataError, match="ok-vqa_imgsizetier-low"):
        run("budgets", core_exp)
    result = run("table", "build", core_exp, "--skip-bad", "-o", tmp_path / "out.json", "--json")
    assert str(broken) in result.stderr
    assert "4 to 8 samples" in json.loads(result.stdout)["cautions"][0]


def test_mistakes_are_paceline_errors(core_exp: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    run("table", "build", core_exp, "-o", output)
    with pytest.raises(InvalidValueError, match="one path"):
        run("table", "build")
    with pytest.raises(InvalidValueError, match="one path"):
        run("table", "build", core_exp, "--results-dir", core_exp)
    with pytest.raises(UnknownChoiceError, match="did you mean 'median'"):
        run("table", "build", core_exp, "--aggregation-method", "medain", "-o", output)
    with pytest.raises(UnknownChoiceError, match="dataset 'texvqa'"):
        run("budgets", core_exp, "--datasets", "texvqa")
    with pytest.raises(UnknownChoiceError, match="latency kind 'decode'"):
        run("budgets", core_exp, "--latency", "decode")
    with pytest.raises(InvalidValueError, match="latency budget is -5"):
        run("table", "show", output, "--budgets", "-5")
    with pytest.raises(InvalidValueError, match="budgets is 'soon'"):
        run("table", "show", output, "--budgets", "soon")
    with pytest.raises(InvalidValueError, match="budgets is 'nan'"):
        run("table", "show", output, "--budgets", "nan")
    with pytest.raises(TableError, match="cannot be read"):
        run("table", "show", tmp_path / "absent.json")
    with pytest.raises(OutputPathError, match="cannot write"):
        run("table", "build", core_exp, "-o", output / "below.json")
    with pytest.raises(OutputPathError, match="cannot write"):
        run("budgets", core_exp, "-o", tmp_path / "absent" / "budgets.json")


def test_lists_are_taken_apart() -> None:
    assert split_list(["a, b", "c", ","]) == ["a", "b", "c"]
    assert split_list(None) is None
    assert split_list([]) is None
    assert split_numbers("budgets", ["1,2.5"]) == [1.0, 2.5]
    assert split_numbers("budgets", None) is None


def test_the_flags_are_what_the_documents_say() -> None:
    group = get_command(APP)
    commands = {"budgets": group.commands["budgets"], **group.commands["table"].commands}  # pyright: ignore
    flags = {
        name: sorted(
            flag for param in command.params for flag in (*param.opts, *param.secondary_opts) if flag[0] == "-"
        )
        for name, command in commands.items()
    }
    assert flags == {
        "budgets": ["--datasets", "--json", "--latency", "--output", "--skip-bad", "-o"],
        "build": [
            "--aggregation-method",
            "--aggregation_method",
            "--budgets",
            "--datasets",
            "--json",
            "--latency",
            "--output-file",
            "--output_file",
            "--per-dataset",
            "--results-dir",
            "--results_dir",
            "--skip-bad",
            "--tolerance",
            "--use-prefill-only",
            "--use-total-latency",
            "--use_prefill_only",
            "--use_total_latency",
            "-o",
        ],
        "show": ["--budgets", "--json"],
    }
