"""Recipes against their schema, against what Paceline declares, and against the command line."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import recipe_commands
from jsonschema import Draft202012Validator
from PIL import Image

from paceline.cli.main import COMMANDS, app_for
from paceline.datasets.digits import DIGIT_SETS
from paceline.datasets.public import PUBLIC_SETS
from paceline.models.families.declared import FAMILIES

ROOT = Path(__file__).parents[2]

SCHEMA = json.loads((ROOT / "recipes" / "schema.json").read_text())
EVERY = recipe_commands.read_recipes()
RELIED_ON = (ROOT / "src/paceline/vllm_plugin/relied_on_server.py").read_text()
COMPARED = set(re.findall(r'"(\w+)"', re.search(r"^COMPARED_TIERS = \((.*)\)$", RELIED_ON, re.MULTILINE)[1]))
ROOM = 1.25  # of device memory over weights in bfloat16


def test_there_are_a_dozen_and_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)
    assert len(EVERY) >= 12 and sum(each["measured"] is not None for each in EVERY.values()) >= 1


@pytest.mark.parametrize("name", EVERY)
def test_a_recipe_keeps_the_schema_and_names_what_exists(name):
    recipe = EVERY[name]
    assert [each.message for each in Draft202012Validator(SCHEMA).iter_errors(recipe)] == []
    assert name in (recipe["hub"], f"paceline/{recipe['hub']}")
    family = FAMILIES[recipe["family"]]
    assert set(recipe["datasets"]) <= {*PUBLIC_SETS, *DIGIT_SETS}
    assert recipe.get("trust_remote_code", False) == family.remote_code
    if recipe["serving"]["engine"] == "vllm":
        assert recipe["family"] in COMPARED, "its tiers were not compared in vLLM"
    for each in recipe["hardware"]:
        assert each["devices"] * each["memory_gb"] >= ROOM * 2 * recipe["parameters_billions"], each["name"]
    if recipe["measured"]:
        assert (ROOT / recipe["measured"]["script"]).exists() and recipe_commands.measured(recipe["measured"])["rows"]


@pytest.mark.parametrize("recipe", recipe_commands.exported(), ids=lambda each: each["name"])
def test_the_commands_of_a_recipe_are_ones_that_the_command_line_takes(recipe):
    for each in recipe["hardware"]:
        for line in each["commands"]:
            words = shlex.split(line.replace(recipe_commands.BUDGET, "300"), comments=True)
            assert line.startswith("# ") if not words else words[0] in ("pip", "paceline", "python", "curl")
            if words[:1] == ["paceline"]:
                assert words[1] in COMMANDS
                assert recipe_commands.BUDGET not in words


@pytest.mark.parametrize("recipe", recipe_commands.exported(), ids=lambda each: each["name"])
def test_the_commands_of_a_recipe_lead_to_a_request_within_a_budget(recipe):
    for each in recipe["hardware"]:
        lines = each["commands"]
        assert recipe_commands.BUDGET in lines[-1] and "picture.png" in lines[-1]
        (drawn,) = (place for place, line in enumerate(lines) if line.startswith("python -c"))
        assert drawn < len(lines) - 1
        serving = [place for place, line in enumerate(lines) if line.startswith("paceline vllm serve")]
        assert bool(serving) == (recipe["serving"]["engine"] == "vllm")
        for place in serving:
            assert lines[place - 1] == recipe_commands.SERVES, "nothing says that this command goes on"
            assert lines[place + 1] == recipe_commands.WARMED, "nothing is promised before bounds are calibrated"
        for place, line in enumerate(lines):
            if recipe_commands.COMMIT in line.split():
                told = [said for said in lines[:place] if said.startswith(f"# In place of {recipe_commands.COMMIT}: ")]
                assert told and recipe["hub"] in told[0]


@pytest.mark.parametrize("command", [recipe_commands.PICTURE, recipe_commands.DIGITS_PICTURE])
def test_the_picture_of_a_recipe_is_drawn_by_its_command(command, tmp_path):
    words = shlex.split(command)
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, check=True)
    with Image.open(tmp_path / "picture.png") as picture:
        assert min(picture.size) > 60 and len(picture.convert("L").getcolors(4096)) > 1


def test_a_size_is_called_nominal_where_it_is_that_of_the_name():
    for name, recipe in EVERY.items():
        text = (recipe_commands.FOLDER / f"{name}.yaml").read_text()
        nominal = re.search(rf"(?<![\d.]){recipe['parameters_billions']}b(?![a-z0-9])", name.lower()) is not None
        assert ("# nominal" in text) == nominal, name


def test_what_was_measured_has_budgets_accuracies_a_machine_and_a_date():
    found = recipe_commands.measured(EVERY["paceline/digits"]["measured"])
    results = json.loads((ROOT / found["results"]).read_text())
    assert [row["budget_ms"] for row in found["rows"]] == results["budgets_ms"]
    assert [row["paceline"] for row in found["rows"]] == [each["mean"] for each in results["rows"]["paceline"]]
    assert results["provenance"][0]["device"] in found["told"] and re.search(r"on 20\d\d-\d\d-\d\d, ", found["told"])


def flags_of(name, *below):
    import typer

    command = typer.main.get_command(app_for([name])).commands[name]
    for word in below:
        command = command.commands[word]
    return {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)}


def test_the_flags_in_the_commands_exist():
    for recipe in recipe_commands.exported():
        for line in (line for each in recipe["hardware"] for line in each["commands"] if line.startswith("paceline ")):
            words = shlex.split(line)
            below = words[2:3] if words[1] in ("estimator", "vllm") else []
            known = flags_of(words[1], *below)
            if below == ["serve"]:
                known |= {"--port", "--tensor-parallel-size"}  # vLLM's own
            assert {word for word in words if word.startswith("--")} <= known, line


def test_the_curl_line_sends_json_with_the_budget(tmp_path):
    line = (
        (recipe_commands.ASKED % "org/model")
        .replace(recipe_commands.BUDGET, "300")
        .replace("$(base64 -w0 picture.png)", "AAAA")
    )
    said = subprocess.run(
        ["bash", "-c", f"curl() {{ printf '%s' \"${{@: -1}}\"; }}; {line}"], capture_output=True, text=True, check=True
    )
    document = json.loads(said.stdout)
    assert document["latency_budget_ms"] == 300 and document["model"] == "org/model"
