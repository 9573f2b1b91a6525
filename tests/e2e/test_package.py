"""The wheel as it is sent, what it says when an extra is missing, and the documents that go with it."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import inventory
import pytest
import twice_built
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from paceline.doctor import EXTRAS, FOR_DEVELOPERS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return twice_built.build_wheel(tmp_path_factory.mktemp("wheel"), epoch_seconds=1_700_000_000)


def test_two_builds_have_the_same_bytes_and_are_small(wheel, tmp_path):
    again = twice_built.build_wheel(tmp_path, epoch_seconds=1_700_000_000)
    assert twice_built.digest(wheel) == twice_built.digest(again)
    assert wheel.stat().st_size <= twice_built.LARGEST_BYTES


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        points = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    expected = {name.removeprefix("src/") for name in twice_built.tracked_files() if name.startswith("src/")}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "paceline = paceline.cli.main:main" in points
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_description_that_is_sent_has_no_link_into_the_checkout(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith("/METADATA"))).decode()
    assert [each for each in re.findall(r"\]\(([^)]*)\)", metadata) if not each.startswith(("https:", "#"))] == []
    assert (
        "| Guide | all of it in one page" in metadata
        and "Classifier: Programming Language :: Python :: 3.11" in metadata
    )


def test_links_elsewhere_stay_in_the_description():
    text = "a [b](docs/c.md), [d](https://e.org/f), [g](#h)\n\n![i](docs/j.svg)\n\nk [l m](n/o.md#p)\n"
    assert twice_built.described(text) == "a b, [d](https://e.org/f), [g](#h)\n\nk l m\n"


STEP_TIME = {
    "base_ms": 5.0, "per_decode_token_ms": 0.05, "per_decode_context_token_ms": 1e-4, "per_prefill_token_ms": 0.04,
    "per_prefill_attention_token_ms": 1e-5,
}  # fmt: skip
SIMULATED = (
    "from paceline.simulate import *; from paceline.schedule import LinearStepTime, PlannerSettings; import numpy as np\n"
    "from paceline.errors import PacelineError\n"
    f"cost = LinearCost(LinearStepTime(**{STEP_TIME!r}))\n"
    "one = np.ones(1, int)\n"
    "load = RequestColumns(arrival_seconds=np.zeros(1), prompt_tokens=one, output_tokens=one)\n"
    "engine = SimulatedEngine(rules='paceline', planner=PlannerSettings(chunk_size=8), max_num_seqs=1, num_blocks=9)\n"
    "try: simulate(load, engine, cost)\nexcept PacelineError as error: sys.exit(str(error))\n"
)
COMMAND = "from paceline.cli.main import run; sys.exit(run({!r}))\n"
DEVICES = (
    "from paceline.models import placement\nfrom paceline.errors import PacelineError\nplacement.find_spec = lambda name: None\n"
    "try: placement.require_accelerate('digits')\nexcept PacelineError as error: sys.exit(str(error))\n"
)
SPANS = (
    "from paceline.server.serve import spans_to\nfrom paceline.errors import PacelineError\n"
    "try: spans_to('http://127.0.0.1:1', model='m')\nexcept PacelineError as error: sys.exit(str(error))\n"
)
MISSING = {  # extra: its packages, and a program that needs them
    "data": (("pyarrow", "datasets", "fsspec"), COMMAND.format(["datasets", "show", "text_vqa", "--from", "hub@main"])),
    "report": (("altair", "vl_convert"), COMMAND.format(["report", "profile"])),
    "simulate": (("numba",), SIMULATED),
    "vllm": (("vllm",), COMMAND.format(["vllm", "serve", "digits", "--controller", "none"])),
    "hf": (("accelerate",), DEVICES),
    "server": (("fastapi", "uvicorn"), COMMAND.format(["serve", "digits"])),
    "otel": (("opentelemetry", "opentelemetry.exporter"), SPANS),
}


def test_every_extra_of_the_package_is_tried_and_told_by_the_doctor():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - set(FOR_DEVELOPERS)
    assert set(MISSING) == extras == set(EXTRAS)


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """What the program of each extra said in an interpreter that lacks its packages; they run beside each other."""
    running = {}
    for extra, (packages, program) in MISSING.items():
        hidden = f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
        running[extra] = subprocess.Popen(
            [sys.executable, "-c", hidden + program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path_factory.mktemp(extra),
        )
    said = {extra: process.communicate() for extra, process in running.items()}
    return {extra: (running[extra].returncode, *streams) for extra, streams in said.items()}


@pytest.mark.parametrize("extra", MISSING)
def test_a_missing_extra_is_one_sentence_with_its_install_line(extra, without):
    code, out, err = without[extra]
    assert code in (1, 2), out
    assert f"pip install 'paceline[{extra}]'" in err and "Traceback" not in err, err
    assert len(err.strip().splitlines()) == 1


def test_everything_else_loads_without_any_extra():
    packages = tuple(name for each, _ in MISSING.values() for name in each)
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({packages!r}))\n"
        "from paceline.cli.main import COMMANDS, app_for\nfrom paceline.errors import MissingExtraError\n"
        "import paceline.demo\nassert paceline.demo.no_page is not None\n"
        "left = []\n"
        "for name in COMMANDS:\n"
        "    try: app_for([name])\n"
        "    except MissingExtraError: left.append(name)\n"
        "print(*left)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["report", "serve"]


def test_the_bill_of_materials_names_everything_with_version_and_licence():
    found, absent = inventory.components(), inventory.not_installed()
    assert all(each.version for each in found)
    undeclared = {each.name for each in found if each.licence == inventory.UNKNOWN}
    assert undeclared <= {"cuda-toolkit"}  # a package without files, which torch for CUDA asks for
    names = {each.name for each in found}
    assert {"torch", "transformers", "numpy", "polars"} <= names and not {"ruff", "pytest", "paceline"} & names
    bill = inventory.bill_of_materials(found, absent, version="0", epoch_seconds=0)
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    assert wrong is None, wrong
    known = {each["bom-ref"] for each in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    assert len(known) == len(found) + 1
    assert all({each["ref"], *each["dependsOn"]} <= known for each in bill["dependencies"])
    numba = next(each for each in found if each.name == "numba")
    assert numba.extras == ("simulate",) and next(each for each in found if each.name == "torch").extras == ()
    assert "| numba |" in inventory.licence_report(found, absent)


def test_the_inventory_covers_every_extra_that_a_user_may_install_and_names_what_is_not_here():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    told = {each.name: each.extras for each in inventory.components()} | inventory.not_installed()
    for extra, lines in project["optional-dependencies"].items():
        if extra not in FOR_DEVELOPERS:
            for name in (canonicalize_name(Requirement(line).name) for line in lines):
                assert told[name] == () or extra in told[name], f"{name} of [{extra}] is not told"
    assert not {"pytest", "mkdocs-material"} & set(told)


def test_what_is_not_installed_makes_the_bill_incomplete_and_is_named_in_the_report():
    absent = {"vllm": ("vllm",)}
    bill = inventory.bill_of_materials([], absent, version="0", epoch_seconds=0)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
    assert [each["aggregate"] for each in bill["compositions"]] == ["incomplete"]
    assert [each["value"] for each in bill["metadata"]["properties"]] == ["vllm"]
    report = inventory.licence_report([], absent)
    assert "not installed where this report was made" in report and "| vllm | `[vllm]` | vLLM is installed by" in report
    whole = inventory.bill_of_materials([], {}, version="0", epoch_seconds=0)
    assert whole["compositions"][0]["aggregate"] == "complete" and "not installed" not in inventory.licence_report(
        [], {}
    )
