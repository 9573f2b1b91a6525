"""Captions in the store: an accuracy exists when the whole set is answered, and it is that set's."""

import json
import re
from dataclasses import replace

import pytest

from paceline.datasets.scorers.cider import Captioned, cider
from paceline.errors import ProfileConflictError, ProfileDataError
from paceline.profiles import ProfileStore, merge_profiles, read_profile
from paceline.profiles.questions import AskedQuestion, read_questions
from paceline.records import KnobConfig

REFERENCES = {
    "1": ("a red disc on a pale ground", "one red disc"),
    "2": ("two blue discs above a number", "some discs"),
    "3": ("a green disc next to a purple disc", "green and purple discs"),
    "4": ("nothing but an orange disc", "an orange disc alone"),
}
SAID = {"1": "a red disc", "2": "two blue discs", "3": "a green disc", "4": "a cat on a mat"}
CONFIGS = tuple(KnobConfig(tier="low", top_k=top_k, num_active_blocks=16) for top_k in (4, 8))


def asked(name, **changes):
    given = {"picture_sha256": f"p{name}", "prompt_sha256": "q", "scorer": "cider/1", "references": REFERENCES[name]}
    return AskedQuestion(**{"dataset": "coco_caption", "sample_id": name, **given, **changes})


def whole(names):
    return cider({name: Captioned(prediction=SAID[name], references=REFERENCES[name]) for name in names}).by_picture


@pytest.fixture
def profiled(tmp_path, synthetic_run, synthetic_sample):
    """Append captions of some pictures to a store that asks others too."""

    def append(store_name, answered, questions, *, rank=0, compact=True, configs=CONFIGS):
        run = synthetic_run(datasets={"coco_caption": "cider/1", "text_vqa": "text_vqa/1"})
        to_ask = [asked(name) for name in questions]
        with ProfileStore.open_or_create(tmp_path / store_name, run, rank, questions=to_ask, fsync=False) as store:
            done = store.done()
            for name in answered:
                for config in configs:
                    if ("coco_caption", name, config) not in done:
                        sample = {"dataset": "coco_caption", "sample_id": name, "pred": SAID[name], "accuracy": None}
                        store.append(synthetic_sample(**sample, top_k=config.top_k))
            if compact:
                store.compact()
        return tmp_path / store_name

    return append


def accuracies(path, **reading):
    samples = read_profile(path, **reading).samples
    return {(name, top_k): value for name, top_k, value in samples.select("sample_id", "top_k", "accuracy").rows()}


@pytest.mark.parametrize("compact", [True, False])
def test_a_complete_set_is_judged_as_a_whole(profiled, compact):
    path = profiled("store", "1234", "1234", compact=compact)
    expected = {(name, config.top_k): value for name, value in whole("1234").items() for config in CONFIGS}
    assert accuracies(path) == pytest.approx(expected) and max(expected.values()) > 1
    only = read_profile(path, columns=["accuracy"]).samples
    assert only.columns == ["accuracy"] and sorted(only["accuracy"]) == pytest.approx(sorted(expected.values()))


@pytest.mark.parametrize("compact", [True, False])
def test_an_unfinished_set_has_no_accuracy_and_says_how_to_get_one(profiled, compact):
    path = profiled("store", "123", "1234", compact=compact)
    with pytest.raises(ProfileDataError, match="6 answers of coco_caption have no accuracy yet.*go on with the same"):
        read_profile(path)
    with pytest.raises(ProfileDataError, match="6 answers"):
        read_profile(path, columns=["accuracy"])
    assert read_profile(path, columns=["pred"]).samples.height == 6  # captions and times are there all the same
    profiled("store", "4", "1234", compact=compact, configs=CONFIGS[:1])
    kept = read_profile(path, skip_bad=True)  # one configuration is complete, the other is not
    assert set(kept.samples["top_k"]) == {4} and "3 answers" in kept.left_out[0].reason
    assert accuracies(path, skip_bad=True) == pytest.approx({(n, 4): v for n, v in whole("1234").items()})


def test_a_larger_set_judges_the_same_captions_anew(profiled):
    path = profiled("store", "123", "123")
    before = accuracies(path)
    assert before == pytest.approx({(n, c.top_k): v for n, v in whole("123").items() for c in CONFIGS})
    profiled("store", "4", "1234")
    after = accuracies(path)
    assert after == pytest.approx({(n, c.top_k): v for n, v in whole("1234").items() for c in CONFIGS})
    assert after["1", 4] != before["1", 4]


def test_parts_of_ranks_are_judged_together(profiled, tmp_path):
    parts = [profiled("a", "12", "12"), profiled("b", "34", "34")]
    merged = merge_profiles(parts, tmp_path / "merged")
    expected = {(n, c.top_k): v for n, v in whole("1234").items() for c in CONFIGS}
    assert accuracies(merged.path) == pytest.approx(expected) and merged.samples["accuracy"].null_count() == 0
    (merged.path / "samples.parquet").unlink()  # what the journals say is the same
    assert accuracies(merged.path) == pytest.approx(expected)
    assert len(read_questions(merged.path)) == 4


def test_other_sets_keep_needing_an_accuracy(profiled, synthetic_run, synthetic_sample, tmp_path):
    run = synthetic_run(datasets={"text_vqa": "text_vqa/1"})
    with ProfileStore.open_or_create(tmp_path / "plain", run, fsync=False) as store:
        store.append(synthetic_sample())
        with pytest.raises(ProfileDataError, match="field 'accuracy': is None"):
            store.append(synthetic_sample(sample_id="2", accuracy=None))
    journal = tmp_path / "plain" / "journal-rank0.jsonl"
    journal.write_text(re.sub(r'"accuracy":[0-9.]+', '"accuracy":null', journal.read_text()))
    with pytest.raises(ProfileDataError, match="journal-rank0.jsonl.*field 'accuracy': line 1: is None"):
        read_profile(tmp_path / "plain")


def test_one_id_is_one_question(profiled, tmp_path, synthetic_run):
    path = profiled("store", "1", "1234")
    assert read_questions(path)["coco_caption", "2"] == asked("2")
    run = synthetic_run(datasets={"coco_caption": "cider/1", "text_vqa": "text_vqa/1"})
    described = (path / "profile.json").read_bytes()
    for changed in ({"picture_sha256": "other"}, {"prompt_sha256": "other"}, {"references": ("x",)}):
        field = next(iter(changed))
        with pytest.raises(ProfileConflictError, match=f"question '2' of coco_caption with the {field}"):
            ProfileStore.open_or_create(path, replace(run, commit="other"), questions=[asked("2", **changed)])
    assert (path / "profile.json").read_bytes() == described  # a run that is refused leaves no trace
    (path / "questions.jsonl").write_text('{"dataset": 1}\n')
    with pytest.raises(ProfileDataError, match="questions.jsonl: cannot be read"):
        read_questions(path)


def test_a_profile_older_than_its_manifest_is_read_and_gone_on_with(tmp_path, synthetic_run, synthetic_sample):
    path = tmp_path / "store"
    with ProfileStore.open_or_create(path, synthetic_run(), fsync=False) as store:
        store.append(synthetic_sample())
    description = json.loads((path / "profile.json").read_text())
    for run in description["provenance"]:
        del run["sources"]
    (path / "profile.json").write_text(json.dumps(description))
    assert read_profile(path).provenance[0].sources == {} and read_questions(path) == {}
    question = asked("1", dataset="text_vqa", sample_id="s0", scorer="text_vqa/1")
    with ProfileStore.open_or_create(path, synthetic_run(), questions=[question], fsync=False) as store:
        assert len(store.done()) == 1
    assert read_questions(path) == {("text_vqa", "s0"): question}
