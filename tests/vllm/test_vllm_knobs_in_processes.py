"""Knobs where the model is spread over two processes, and where drafts of n-grams are verified: beside transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from real_engine import TOLERANCE

HERE = Path(__file__).parent


@pytest.mark.slow
def test_two_tensor_parallel_processes_with_drafts_of_ngrams(tmp_path):
    folders = [HERE, HERE.parents[1] / "benchmarks"]
    paths = [*folders, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    # two processes would bind their threads to half of the cores each
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
    environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    command = [sys.executable, str(HERE / "knobs_in_processes.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["steps"]) == 2 and found["steps"][0] == found["steps"][1] and found["steps"][0]["mixed"] > 0
    assert 0 < found["drafted"] <= found["logged"]
    assert all(each["tokens"] for each in found["requests"])
    assert max(each["off"] for each in found["requests"]) < TOLERANCE
    assert min(each["native_off"] for each in found["requests"] if not each["native"]) > 100 * TOLERANCE
