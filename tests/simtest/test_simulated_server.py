"""A share of `make simtest`: five hundred seeds, those that once found a fault, and that a seed is the whole of its world."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from planted_faults import MUTANTS
from server_world import ServerWorld
from simulate_server import found_seeds, run_chunk, run_seed, shown

from paceline.errors import PictureError
from paceline.models.picture_header import size_of_data_url

HERE = Path(__file__).parent
SEEDS = 500


@pytest.mark.parametrize("first", range(0, SEEDS, 100))
def test_whatever_happens_in_whatever_order_the_invariants_hold(first):
    failed = [shown(result) for result in run_chunk(range(first, first + 100)) if result.problems]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("seed", found_seeds())
def test_what_a_seed_once_found_is_not_there_any_more(seed):
    result = run_seed(seed)
    assert not result.problems, shown(result)


def test_a_seed_is_all_that_a_world_depends_on():
    seeds = range(12)
    here = [run_seed(seed).digest for seed in seeds]
    assert here == [run_seed(seed).digest for seed in seeds] and len(set(here)) == len(seeds)
    # sets and dicts of names are in another order in another process
    program = f"from simulate_server import run_seed; print(*(run_seed(seed).digest for seed in range({len(seeds)})))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == here


def test_a_trace_says_what_happened_and_when():
    world = ServerWorld(0, keep_trace=True)
    world.run()
    assert (
        world.lines
        and any("'arrives'" in line for line in world.lines)
        and any("'send'" in line for line in world.lines)
    )


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_planted_fault_changes_stands_in_its_file_once(mutant):
    text = (HERE.parent.parent / "src" / "paceline" / mutant.file).read_text()
    assert text.count(mutant.old) == 1 and mutant.new != mutant.old
    compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")


def test_what_is_said_of_a_picture_that_is_none_names_no_address() -> None:
    with pytest.raises(PictureError, match="no picture") as refused:
        size_of_data_url("data:image/png;base64,AAAA")
    assert " at 0x" not in str(refused.value)
