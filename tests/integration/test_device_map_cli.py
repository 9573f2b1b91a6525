"""`--device-map` of profile, verify and run: a model one of whose blocks lies on a disk, by the commands a user runs."""

import json

import pytest

from paceline.profiles import read_profile

pytest.importorskip("accelerate")

BLOCKS = {f"model.language_model.layers.{index}": "disk" if index == 5 else "cpu" for index in range(16)}
PARTS = {f"model.language_model.{name}": "cpu" for name in ("embed_tokens", "norm", "rotary_emb")}
SPREAD = ("--device-map", json.dumps({"model.visual": "cpu", "lm_head": "cpu", **PARTS, **BLOCKS}))
GRID = ("--tiers", "low", "--top-k", "8", "--blocks", "8,16")


@pytest.mark.slow
def test_a_model_on_disk_is_verified_profiled_and_run(paceline, tmp_path, picture_path):
    spread = (*SPREAD, "--offload-folder", tmp_path / "weights")
    code, _, err = paceline("verify", "digits", *GRID, "--pairs", "10", "--out", tmp_path / "seen.json", *spread)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert code in (0, 1), err  # what it says of milliseconds is of a machine that others use too
    assert seen["cache_max_abs_diff"] < 1e-3 and seen["restore_max_abs_diff"] == 0
    assert seen["knobs"]["num_active_blocks"]["works"]
    flags = (*GRID, "--datasets", "digits_read", "--samples", "1", "--warmup", "0")
    for out, where in (("one", ()), ("spread", spread)):
        code, _, err = paceline("profile", "digits", "--out", tmp_path / out, *flags, *where)
        assert code == 0, err
    answers = [sorted(read_profile(tmp_path / out).samples["pred"].to_list()) for out in ("one", "spread")]
    assert len(answers[0]) == 2 and answers[0] == answers[1]
    table = tmp_path / "table.json"
    assert paceline("table", "build", "--results-dir", tmp_path / "spread", "--output-file", table)[0] == 0
    asked = ("--image", picture_path, "--prompt", "Read the digits.", "--budget", "1000000", "--warmup", "0")
    code, printed, err = paceline("run", "digits", *asked, "--table", table, *spread)
    assert code == 0 and "answer" in printed, err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--device-map", "[1]"), "a JSON object of a device by part|is unknown"),
        (("--device-map", '{"model": '), "a JSON object of a device by part"),
        (("--device-map", '{"model": 0.5}'), "a JSON object of a device by part"),
        (("--device-map", "outo"), "did you mean 'auto'"),
        (("--offload-folder", "weights"), "--device-map beside it"),
        (("--device-map", "auto", "--device", "cpu"), "none beside a device map"),
    ],
)
def test_wrong_words_are_sentences(paceline, tmp_path, flags, words):
    code, _, err = paceline("profile", "digits", "--out", tmp_path / "profile", *flags)
    assert code == 2 and any(word in err for word in words.split("|")), err
