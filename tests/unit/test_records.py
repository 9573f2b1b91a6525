"""What no record holds: names that no file can carry, seeds that no generator takes, rankings that name a block twice."""

import pytest

from paceline.datasets import digit_questions
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.fit.estimator.settings import EstimatorSettings
from paceline.fit.learned.artifact import ControllerSettings
from paceline.fit.learned.settings import GrpoSettings, SupervisedSettings
from paceline.measure.profiling import ProfilePlan
from paceline.profiles.splits import Split
from paceline.records import LARGEST_SEED, KnobConfig, KnobGrid, Provenance, is_dataset_name
from paceline.schedule import PlannerSettings
from paceline.tune.sweep import SweepPlan
from paceline.tune.workload import SyntheticLoad

NO_NAMES = (
    "",
    ".",
    "..",
    ".hidden",
    "a/b",
    "../x",
    "/etc",
    "a b",
    "[/b]",
    "a\n",
    "\x1b[31m",
    "a\\b",
    "é",
    "x" * 101,
    None,
    3,
)


@pytest.mark.parametrize("name", ["text_vqa", "coco-2014-vqa", "a.b", "7", "_x", "-x", "A" * 100])
def test_letters_digits_and_three_signs_name_a_dataset(name):
    assert is_dataset_name(name)


@pytest.mark.parametrize("name", NO_NAMES)
def test_nothing_else_names_a_dataset(name):
    assert not is_dataset_name(name)


def provenance(**changed):
    told = {
        "model": "synthetic",
        "revision": None,
        "dtype": "float32",
        "device": "cpu",
        "driver": None,
        "clock": "none",
        "versions": {},
        "commit": None,
        "seed": 0,
        "grid": KnobGrid(tiers=("low",), top_ks=(4,), block_counts=(16,)),
        "block_ranking": (3, 1, 2),
        "datasets": {"text_vqa": "synthetic"},
        "created": "2026-01-01T00:00:00Z",
        "settings": {},
    }
    return Provenance(**{**told, **changed})


def test_a_run_names_its_datasets_and_ranks_each_block_once():
    provenance()
    with pytest.raises(InvalidValueError, match=r"dataset is '\[/b\]'; expected letters, digits"):
        provenance(datasets={"[/b]": "synthetic"})
    with pytest.raises(InvalidValueError, match="block_ranking is .* none twice"):
        provenance(block_ranking=(1, 2, 1))


SEEDED = {
    "profile": lambda seed: ProfilePlan(datasets=("digits_read",), samples=1, seed=seed),
    "split": lambda seed: Split(seed=seed),
    "estimator": lambda seed: EstimatorSettings(seed=seed),
    "controller": lambda seed: ControllerSettings(seed=seed),
    "supervised": lambda seed: SupervisedSettings(seed=seed),
    "grpo": lambda seed: GrpoSettings(seed=seed),
    "sweep": lambda seed: SweepPlan(thresholds=(0,), repetitions=1, seed=seed, settings=PlannerSettings(chunk_size=64)),
    "load": lambda seed: SyntheticLoad(count=1).workload(seed),
    "questions": lambda seed: digit_questions("digits_read", split="test", count=1, seed=seed),
}


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_is_of_32_bits(name):
    for seed in (0, LARGEST_SEED):
        SEEDED[name](seed)
    for seed in (-1, LARGEST_SEED + 1, 10**30):
        with pytest.raises(InvalidValueError, match=f"seed is {seed}; expected a whole number from 0 to 4294967295"):
            SEEDED[name](seed)


def plan(**changed):
    return ProfilePlan(**{"datasets": ("digits_read",), "samples": 1, **changed})


def test_only_the_lhs_strategy_is_told_how_many_configurations_to_take():
    plan(strategy="lhs", num_configs=1)
    plan(strategy="lhs")
    for count in (0, -2):
        with pytest.raises(InvalidValueError, match=f"number of configurations is {count}; expected at least 1"):
            plan(strategy="lhs", num_configs=count)
    for strategy in ("full", "balanced"):
        with pytest.raises(InvalidValueError, match=f"expected nothing with the strategy {strategy}: only lhs"):
            plan(strategy=strategy, num_configs=5)
    with pytest.raises(UnknownChoiceError, match="mean 'lhs'"):
        plan(strategy="lsh", num_configs=5)


@pytest.mark.parametrize("name", ["max_new_tokens", "sentinel_every", "samples"])
def test_a_plan_measures_something(name):
    with pytest.raises(InvalidValueError, match=f"{name} is 0; expected"):
        plan(**{name: 0})


@pytest.mark.parametrize(
    "key", ["low__16", "low_ 8_16", "low_+8_16", "low_1_0_16", "low_08_16", "low_8_١", "low_8", "_8_16", 8]
)
def test_a_key_that_is_not_written_as_keys_are_is_refused(key):
    with pytest.raises(InvalidValueError, match="configuration key"):
        KnobConfig.from_key(key)


@pytest.mark.parametrize("key", ["low_8_16", "none_8_none", "none_none_none"])
def test_a_key_is_read_as_it_is_written(key):
    assert KnobConfig.from_key(key).key == key
