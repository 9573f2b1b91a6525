"""Public sets through the command line: listed, shown, profiled by the embedded model, judged and put into tables."""

import json

import pytest
import synthetic_sets

from paceline.control import LookupTable
from paceline.datasets.public import PUBLIC_SETS
from paceline.profiles import read_profile
from paceline.profiles.questions import read_questions

NAMES = tuple(PUBLIC_SETS)
ASKED = 3
GRID = ("--tiers", "low", "high", "--top-k", "4", "--blocks", "16")
QUICK = ("--samples", str(ASKED), "--warmup", "0", "--max-new-tokens", "4")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("sets")
    return {name: synthetic_sets.write_set(out, name) for name in NAMES}


def answers_of(profile):
    return sorted(read_profile(profile).samples.select("dataset", "sample_id", "tier", "pred", "accuracy").rows())


def test_every_set_is_listed(paceline):
    code, out, _err = paceline("datasets", "--json")
    listed = {each["name"]: each for each in json.loads(out)}
    assert code == 0 and set(NAMES) < set(listed) and "digits_read" in listed
    assert listed["text_vqa"]["splits"] == {"validation": 5000, "train": 34602}
    assert listed["digits_read"]["sources"] == ["with the package"]
    for name, each in PUBLIC_SETS.items():
        assert listed[name]["scorer"] == each.scorers[0] and f"hub:{each.hub_ids[0]}" in listed[name]["sources"]
    code, out, _err = paceline("datasets")
    assert code == 0 and all(name in out for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_set_is_shown_as_it_is_asked(paceline, folders, name):
    code, out, err = paceline("datasets", "show", name, "--from", folders[name], "--json")
    shown = json.loads(out)
    assert code == 0, err
    assert len(shown["questions"]) == 3 and shown["scorer"] == PUBLIC_SETS[name].scorers[0]
    assert all(size == [96, 72] for each in shown["questions"] for size in each["pictures"])
    code, out, _err = paceline("datasets", "show", name, "--from", folders[name])
    assert code == 0 and "96x72" in out and shown["questions"][0]["prompt"].split("\n")[0][:20] in out


def test_what_cannot_be_shown_is_a_sentence(paceline, folders, tmp_path):
    for arguments, words in {
        ("text_vqo", "--from", folders["text_vqa"]): "did you mean 'text_vqa'",
        ("text_vqa",): "the place where it is read too",
        ("digits_read", "--from", "hub"): "ships with the package",
        ("text_vqa", "--from", tmp_path / "none"): "does not exist",
        ("text_vqa", "--from", folders["text_vqa"], "--split", "test"): "the split 'test' holds no answers",
        ("text_vqa", "--from", folders["text_vqa"], "--prompt-template", "{x}"): "prompt template",
        ("okvqa", "--from", folders["okvqa"], "--scorer", "vqa/9"): "scorer of okvqa 'vqa/9' is unknown",
    }.items():
        code, out, err = paceline("datasets", "show", *arguments)
        assert code == 2 and out == "" and words in err, err


def test_all_nine_are_profiled_judged_and_tabled(paceline, folders, tmp_path):
    places = [f"{name}={folder}" for name, folder in folders.items()]
    out = tmp_path / "profile"
    arguments = ("profile", "digits", "--out", out, *GRID, *QUICK, "--datasets", "digits_count", *places)
    code, said, err = paceline(*arguments, "--json")
    assert code == 0, err
    told = json.loads(said)["datasets"]
    assert told["text_vqa"]["source"]["asked"] == ASKED and told["text_vqa"]["source"]["available"] == 8
    profile = read_profile(out)
    run = profile.provenance[0]
    assert profile.samples.height == 10 * ASKED * 2 and profile.samples["accuracy"].null_count() == 0
    assert run.datasets == {"digits_count": "exact_match/1"} | {n: p.scorers[0] for n, p in PUBLIC_SETS.items()}
    assert set(run.sources) == set(NAMES) and run.sources["okvqa"].split == "val2014"
    asked = read_questions(out)
    rows = profile.samples.select("dataset", "sample_id").unique().cast({"dataset": str}).rows()
    assert set(asked) == set(rows) and len(asked) == 10 * ASKED
    assert all(len(each.picture_sha256) == len(each.prompt_sha256) == 64 for each in asked.values())
    code, said, err = paceline("accuracy", out, "--json")
    judged = json.loads(said)
    assert code == 0 and {each["dataset"] for each in judged["overall"]} == {"digits_count", *NAMES}, err
    assert {"split=simple", "answer_type=other"} <= {each["type"] for each in judged["by_type"]}
    assert all(each["questions"] == ASKED for each in judged["differences"]) and len(judged["differences"]) == 10
    assert next(each for each in judged["overall"] if each["dataset"] == "tally_qa")["count_rmse"] is not None
    code, said, _err = paceline("accuracy", out, "--datasets", "tally_qa")
    assert code == 0 and "scorer tally/1" in said and "on the same questions" in said
    assert paceline("budgets", out)[0] == 0
    code, _said, err = paceline("table", "build", out, "--output-file", tmp_path / "table.json", "--per-dataset")
    assert code == 0 and "caution: accuracies of captions" in err
    assert set(LookupTable.load(tmp_path / "table.json").metadata.datasets) == {"digits_count", *NAMES}
    assert not any("captions" in each for each in LookupTable.load(tmp_path / "table-coco_caption.json").cautions)


def test_an_unfinished_caption_set_is_gone_on_with(paceline, folders, tmp_path):
    out, table = tmp_path / "profile", tmp_path / "table.json"
    arguments = ("profile", "digits", "--out", out, *GRID, *QUICK)
    captions = ("--datasets", f"coco_caption={folders['coco_caption']}", f"text_vqa={folders['text_vqa']}")
    assert paceline(*arguments, *captions)[0] == 0
    whole = answers_of(out)
    journal = out / "journal-rank0.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert b"coco_caption" in lines[0] and b'"accuracy":null' in lines[0]  # the captions are what is kept
    journal.write_bytes(b"".join(lines[1:]))  # as a killed run leaves it
    (out / "samples.parquet").unlink()
    code, said, err = paceline("table", "build", out, "--output-file", table)
    assert code == 2 and said == "" and "no accuracy yet" in err and "go on with the same `paceline profile`" in err
    code, _said, err = paceline("table", "build", out, "--output-file", table, "--datasets", "text_vqa")
    assert code == 0, err
    code, _said, err = paceline("table", "build", out, "--output-file", table, "--skip-bad")
    assert code == 0 and "left out:" in err
    assert paceline(*arguments, *captions)[0] == 0
    assert answers_of(out) == whole
    code, _said, err = paceline(*arguments, *captions, "--prompt-template", "text_vqa={question}")
    assert code == 2 and "question" in err and "prompt_sha256" in err and "choose another --out" in err


def test_a_larger_sample_goes_on_after_a_smaller_one(paceline, folders, tmp_path):
    out = tmp_path / "profile"
    arguments = ("profile", "digits", "--out", out, "--tiers", "low", "--top-k", "4", "--blocks", "16", *QUICK)
    for count, added in ((2, 2), (5, 3)):
        given = (*arguments, "--datasets", f"tally-qa={folders['tally_qa']}", "--samples", count, "--json")
        code, said, err = paceline(*given)
        assert code == 0 and json.loads(said)["samples_added"] == added, err
