"""Requests as they come, on the command line: several pictures or none, template arguments, sampling."""

import json
import shutil
from dataclasses import replace

import pytest
from learned_controllers import write_controller
from runtime_models import RANKING, table

from paceline.errors import InvalidValueError, PacelineWarning
from paceline.models.loading import EMBEDDED, load_model
from paceline.profiles import read_profile
from paceline.runtime import AdaptiveModel

SHORT = ("--budget", "1000000", "--max-new-tokens", "4", "--warmup", "0", "--json")
QUICK = (
    "--datasets",
    "digits_count",
    "--samples",
    "1",
    "--tiers",
    "low",
    "--top-k",
    "4",
    "--blocks",
    "16",
    "--warmup",
    "0",
)


@pytest.fixture
def thinking(tmp_path):
    """The embedded model with a chat template that reads `enable_thinking`, as a user's folder."""
    folder = tmp_path / "thinking"
    shutil.copytree(EMBEDDED["digits"], folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "{%- if enable_thinking %}1{%- endif %}")
    return folder


@pytest.fixture
def controller(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table().document()))
    return path


def answered(paceline, controller, *arguments, model="digits"):
    code, out, err = paceline(
        "run", model, "--controller", controller, "--prompt", "Read the digits.", *SHORT, *arguments
    )
    assert code == 0, err
    return json.loads(out)


def test_several_pictures_one_and_none(paceline, controller, picture_path):
    one = answered(paceline, controller, "--image", picture_path)
    two = answered(paceline, controller, "--image", picture_path, "--image", picture_path)
    none = answered(paceline, controller, "--system", "Be short.")
    assert two["vision_tokens"] == 2 * one["vision_tokens"] > 0 == none["vision_tokens"]
    assert one["promised"] and not two["promised"] and two["outside"] == none["outside"] == ["pictures"]
    assert none["config"]["tier"] is None and none["times"]["vision_ms"] == 0


def test_what_is_not_promised_is_said(paceline, tmp_path, picture_path):
    run = {"model": "digits", "block_ranking": RANKING}
    learned = write_controller(tmp_path / "controller", provenance=(run,))
    asked = (
        "--image",
        picture_path,
        "--image",
        picture_path,
        "--prompt",
        "Read.",
        "--budget",
        "1000000",
        "--warmup",
        "0",
    )
    code, out, err = paceline("run", "digits", "--controller", learned, *asked, "--max-new-tokens", "2")
    said = " ".join((out + err).split())
    assert code == 0 and "nothing is promised of this one" in said and "no configuration keeps" not in said


def test_sampling_is_asked_for_and_told(paceline, controller, picture_path):
    greedy = answered(paceline, controller, "--image", picture_path)
    drawn = [
        answered(paceline, controller, "--image", picture_path, "--temperature", "5", "--top-p", "0.9", "--seed", "3")
        for _ in range(2)
    ]
    assert greedy["sampling"] is None and drawn[0]["text"] == drawn[1]["text"]
    assert drawn[0]["sampling"] == {"temperature": 5.0, "top_p": 0.9, "seed": 3}
    for wrong, words in (
        (("--seed", "3"), "greedy decoding draws nothing"),
        (("--temperature", "0"), "temperature is 0"),
    ):
        arguments = ("run", "digits", "--controller", controller, "--prompt", "Read.", *SHORT, "--image", picture_path)
        code, _out, err = paceline(*arguments, *wrong)
        assert code == 2 and words in err and "Traceback" not in err


def test_a_profile_records_template_arguments_and_refuses_others(paceline, thinking, tmp_path):
    out = tmp_path / "profile"
    arguments = ("profile", thinking, "--out", out, *QUICK)
    code, _out, err = paceline(*arguments, "--template-argument", "enable_thinking=true")
    assert code == 0, err
    assert read_profile(out).provenance[-1].settings["template_arguments"] == '{"enable_thinking": true}'
    assert paceline(*arguments, "--template-argument", "enable_thinking=true")[0] == 0
    for other, named in ((("--template-argument", "enable_thinking=false"), "false"), ((), "None")):
        code, _out, err = paceline(*arguments, *other)
        assert code == 2 and '{"enable_thinking": true}' in err and named in err and "max_new_tokens" not in err


def test_template_arguments_reach_the_prompt_and_other_ones_are_warned_of(thinking):
    plain = load_model(str(thinking), device="cpu")
    thought = load_model(str(thinking), device="cpu", template_arguments={"enable_thinking": True})
    messages = [{"role": "user", "content": "Read."}]

    def length(model, **arguments):
        return model.prepare_chat(messages, None, template_arguments=arguments).text_tokens

    assert length(plain) + 1 == length(plain, enable_thinking=True) == length(thought)
    assert length(thought, enable_thinking=False) == length(plain)
    made = table(model=str(thinking))
    with pytest.warns(PacelineWarning, match=r"template arguments .*none.* there, .*enable_thinking.* here"):
        AdaptiveModel(model=thought, controller=of_settings(made, {}), max_new_tokens=2)
    with pytest.raises(InvalidValueError, match="enable_thinkin'"):
        load_model(str(thinking), device="cpu", template_arguments={"enable_thinkin": True})


def of_settings(made, settings):
    provenance = tuple({**run, "settings": settings} for run in made.metadata.provenance)
    return type(made)(entries=made.entries, metadata=replace(made.metadata, provenance=provenance))


@pytest.mark.parametrize(
    "word", ["enable_thinking", "enable_thinking=yes", "=true", "tokenize=true", "enable_thinking=[[["]
)
def test_a_template_argument_that_is_none_is_a_sentence(paceline, thinking, tmp_path, word):
    code, _out, err = paceline("profile", thinking, "--out", tmp_path / "profile", "--template-argument", word, *QUICK)
    assert code == 2 and "template" in err and "Traceback" not in err and not (tmp_path / "profile").exists()
