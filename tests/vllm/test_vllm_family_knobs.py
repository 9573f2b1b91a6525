"""Families in vLLM: every configuration of each at once beside transformers under Paceline's own `applied`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_engine import TOLERANCE
from tiny_vllm_models import SERVED

HERE = Path(__file__).parent
# the configurations of a family are far apart, so that a knob that does nothing is seen
APART = 1000 * TOLERANCE


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return by family what one process found that served them all, one after the other."""
    folders = [HERE / "torchvision_standin", HERE, HERE.parent / "families", HERE.parents[1] / "benchmarks"]
    paths = [*folders, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "family_knobs.py"), str(tmp_path_factory.mktemp("families")), *SERVED]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"family"')]
    return {each["family"]: each for each in found} | {"error": done.stderr[-4000:]}


@pytest.mark.parametrize("family", SERVED)
def test_every_request_of_a_family_has_its_own_configuration(served, family):
    assert family in served, served["error"]
    requests, steps = served[family]["requests"], served[family]["steps"]
    assert all(each["prompt"] and each["tokens"] for each in requests)
    assert max(each["off"] for each in requests) < TOLERANCE
    assert min(each["native_off"] for each in requests if not each["native"]) > APART
    assert sum(each["cached"] for each in requests) > 0 and steps["mixed"] > 0
