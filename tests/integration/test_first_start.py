"""The first start of `paceline serve digits`, of the real model under two configurations: killed and begun again."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from paceline.datasets import DIGIT_SETS
from paceline.profiles import read_profile
from paceline.server.first_controller import PROFILE
from paceline.serving.controllers import served_controllers

# each start is a child of a process that has imported all and done nothing; what it says is a JSON line
PROGRAM = """
import json, os, signal, sys
from functools import partial
from pathlib import Path
from paceline.server import first_controller as built
from paceline.server.first_controller import ESTIMATOR, first_controller

built.ProfilePlan = partial(built.ProfilePlan, tiers=("low",), top_ks=(1, 4), block_counts=(8,), warmup_runs=0)

def start(profiled_at=None, trained_at=None):
    moved = {"profile": [], "training": []}

    def moving(stage, deadly):
        def move(done, total):
            moved[stage].append([done, total])
            if deadly is not None and done >= deadly:
                os.kill(os.getpid(), signal.SIGKILL)
        return move

    begun = []
    where = first_controller(
        cache=cache, samples=6, on_begin=lambda kept: begun.append(str(kept)),
        on_profile=moving("profile", profiled_at), on_training=moving("training", trained_at),
    )
    ends = {stage: [each[0], each[-1]] for stage, each in moved.items() if each}
    told.write_text(json.dumps({"where": str(where), "begun": begun, **ends}))
    os._exit(0)

cache, told = Path(sys.argv[1]), Path(sys.argv[1]) / "told"
for dies in ({"profiled_at": 7}, {"trained_at": 1}, {}, {}):
    told.unlink(missing_ok=True)
    if (child := os.fork()) == 0:
        start(**dies)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = [str(each) for each in cache.glob(f"paceline/*/{ESTIMATOR}")]
    print(json.dumps({"code": code, "found": found, **(json.loads(told.read_text()) if told.exists() else {})}), flush=True)
"""


@pytest.mark.slow
def test_a_first_start_that_is_killed_leaves_no_half_and_the_next_goes_on(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    *killed, first, second = map(json.loads, done.stdout.splitlines())
    assert [(each["code"], each["found"]) for each in killed] == [(-9, [])] * 2
    assert first["code"] == second["code"] == 0 and first["found"] == second["found"] == [first["where"]]
    # what was measured before was not measured again, and its progress was shown to the end
    assert "profile" not in first or first["profile"][0][0] == first["profile"][0][1]
    assert first["training"][-1][0] == first["training"][-1][1] and len(first["begun"]) == 1
    assert second["where"] == first["where"] and second["begun"] == [] and not {"profile", "training"} & set(second)
    profile = read_profile(Path(second["where"]).parent / PROFILE)
    assert set(profile.samples["dataset"].cast(pl.String)) == set(DIGIT_SETS)
    assert served_controllers(second["where"], alpha=0.4, tell=print)["ttft"]  # few calibrated it
