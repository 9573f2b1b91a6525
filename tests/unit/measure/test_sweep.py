import threading
from collections import Counter

import pytest

from paceline.datasets import DIGIT_SETS
from paceline.errors import InvalidValueError, PictureError, UnknownChoiceError
from paceline.measure.clock import HostClock
from paceline.measure.hosts import ModelHost
from paceline.measure.profiling import ProfilePlan, load_questions, run_profile
from paceline.measure.strategies import STRATEGIES, choose
from paceline.measure.sweep import SweepSettings, remaining_tasks, sweep
from paceline.profiles import read_profile
from paceline.records import KnobConfig, KnobGrid
from paceline.request_vector import REQUEST_VECTOR_VERSION, request_vector

RANKING = (7, 9, 11, 5, 13, 3, 10, 8, 6, 12, 4, 14, 2, 15, 1)
GRID = KnobGrid(tiers=("low", "medium", "high"), top_ks=(2, 4, 8), block_counts=(8, 12, 16))


class ListSink:
    """Keeps samples in memory, as a store would on disk."""

    def __init__(self, stop_after=None):
        self.samples, self.sentinels, self.stop_after = [], [], stop_after

    def done(self):
        return {(s.dataset, s.sample_id, s.config) for s in self.samples}

    def append(self, sample):
        if len(self.samples) == self.stop_after:
            raise KeyboardInterrupt
        self.samples.append(sample)

    def append_sentinel(self, record):
        self.sentinels.append(record)


def settings(**changes):
    return SweepSettings(**{"seed": 1, "warmup_runs": 0, "sentinel_every": 4, **changes})


def host(model, *, per_step=False):
    return ModelHost(model=model, ranking=RANKING, max_new_tokens=2, clock=HostClock(), per_step=per_step)


def questions(samples=2):
    return load_questions(ProfilePlan(datasets=DIGIT_SETS, samples=samples))


SMALL = [KnobConfig(tier="low", top_k=2, num_active_blocks=8), KnobConfig(tier="low", top_k=8, num_active_blocks=16)]


def test_an_interrupted_sweep_goes_on_and_measures_everything_once(digits):
    sink, progress = ListSink(stop_after=5), []
    with pytest.raises(KeyboardInterrupt):
        sweep(host(digits), questions(), SMALL, sink, settings())
    assert len(sink.samples) == 5
    sink.stop_after = None
    added = sweep(
        host(digits), questions(), SMALL, sink, settings(), lambda done, total: progress.append((done, total))
    )
    assert added == 7 and progress[0] == (5, 12) and progress[-1] == (12, 12)
    counted = Counter((s.dataset, s.sample_id, s.config) for s in sink.samples)
    assert len(counted) == 12 and set(counted.values()) == {1}
    assert sweep(host(digits), questions(), SMALL, sink, settings()) == 0
    assert len(sink.sentinels) == 4  # before samples 0 and 4 of each run


def test_samples_carry_what_the_file_format_fixes(digits):
    sink = ListSink()
    sweep(host(digits, per_step=True), questions(1), SMALL, sink, settings())
    for sample in sink.samples:
        assert 1 <= sample.actual_vision_tokens <= sample.target_vision_tokens == digits.tier_token_caps["low"]
        assert sample.actual_text_tokens > 0 and 1 <= sample.output_tokens <= 2
        assert (sample.T_decode_per_token is None) == (sample.output_tokens == 1)
        assert sample.output_tokens == 1 or sample.T_LLM_decode > 0
        assert sample.T_vision_total + sample.T_LLM_prefill + sample.T_LLM_decode + sample.T_other == pytest.approx(
            sample.T_total, rel=0.01
        )
        assert sample.accuracy in (0.0, 1.0) and sample.metadata["digits"] >= 1
        assert len(sample.metadata.get("decode_step_ms", [])) == sample.output_tokens - 1


def test_every_sample_carries_what_its_request_shows_whatever_the_tier(digits, monkeypatch):
    looked_at = []
    look = type(digits).features
    monkeypatch.setattr(
        type(digits), "features", lambda model, *request: (looked_at.append(request), look(model, *request))[1]
    )
    asked, sink = questions(1), ListSink()
    tiers = [KnobConfig(tier=tier, top_k=2, num_active_blocks=8) for tier in ("low", "medium", "high")]
    sweep(host(digits), asked, tiers, sink, settings())
    assert len(looked_at) == len(asked)  # once a question
    for question in asked:
        vector = list(request_vector(digits.features(question.picture, question.prompt)))
        stored = [s.metadata for s in sink.samples if s.sample_id == question.sample_id]
        assert len(stored) == 3 and all(each["request_features"] == vector for each in stored)
        assert all(each["request_features_version"] == REQUEST_VECTOR_VERSION for each in stored)
        assert all(each["digits"] == question.metadata["digits"] for each in stored)


def test_ranks_share_the_work_without_overlap():
    every = remaining_tasks(questions(), GRID.configurations(), set(), settings())
    parts = [
        remaining_tasks(questions(), GRID.configurations(), set(), settings(rank=rank, world_size=4))
        for rank in range(4)
    ]
    joined = [(q.sample_id, c) for part in parts for q, c in part]
    assert len(joined) == len(set(joined)) == len(every) == 6 * 27
    assert set(joined) == {(q.sample_id, c) for q, c in every}


def test_the_order_of_configurations_is_drawn_anew_for_each_question_from_the_seed():
    tasks = remaining_tasks(questions(), GRID.configurations(), set(), settings())
    orders = [tuple(config for _q, config in tasks[start : start + 27]) for start in range(0, len(tasks), 27)]
    assert len(set(orders)) == len(orders)
    assert all(set(order) == set(GRID.configurations()) for order in orders)
    assert [c for _q, c in remaining_tasks(questions(), GRID.configurations(), set(), settings())] == [
        c for _q, c in tasks
    ]
    assert [c for _q, c in remaining_tasks(questions(), GRID.configurations(), set(), settings(seed=2))] != [
        c for _q, c in tasks
    ]


def test_strategies_take_a_part_of_the_grid_none_twice():
    sizes = {name: len(choose(name, GRID, seed=7)) for name in STRATEGIES}
    assert sizes == {"full": 27, "balanced": 9, "stratified": 9, "boundary": 9, "lhs": 9}
    for name in STRATEGIES:
        chosen = choose(name, GRID, seed=7)
        assert set(chosen) <= set(GRID.configurations()) and len(set(chosen)) == len(chosen)
        assert chosen == choose(name, GRID, seed=7)
    assert len(choose("lhs", GRID, seed=1, count=27)) == 27
    with pytest.raises(InvalidValueError, match="1 to 27"):
        choose("lhs", GRID, seed=1, count=28)
    with pytest.raises(UnknownChoiceError, match="did you mean 'balanced'"):
        choose("balansed", GRID, seed=1)


def test_balanced_uses_every_value_of_every_knob_equally_often():
    chosen = choose("balanced", GRID, seed=0)
    for name in ("tier", "top_k", "num_active_blocks"):
        assert set(Counter(getattr(config, name) for config in chosen).values()) == {3}


def test_a_plan_that_makes_no_sense_is_refused():
    for wrong in (
        {"samples": 0},
        {"datasets": ()},
        {"datasets": ("digits_read", "digits_read")},
        {"sentinel_every": 0},
    ):
        with pytest.raises(InvalidValueError):
            ProfilePlan(**{"datasets": DIGIT_SETS, "samples": 1, **wrong})


class Told:
    """A question whose opening is told of, and may fail."""

    def __init__(self, question, opened, *, fails=False):
        self.question, self.opened, self.fails = question, opened, fails

    def __getattr__(self, name):
        return getattr(self.question, name)

    @property
    def picture(self):
        self.opened.append((self.question.sample_id, threading.current_thread().name))
        if self.fails:
            raise PictureError("no picture")
        return self.question.picture


@pytest.mark.parametrize("prefetch", [False, True])
def test_the_next_question_is_opened_by_another_thread_only_when_asked(digits, prefetch):
    plain, ahead, opened = ListSink(), ListSink(), []
    sweep(host(digits), questions(), SMALL, plain, settings())
    asked = [Told(each, opened) for each in questions()]
    sweep(host(digits), asked, SMALL, ahead, settings(prefetch=prefetch))
    key = [(s.dataset, s.sample_id, s.config, s.pred, s.accuracy) for s in plain.samples]
    assert [(s.dataset, s.sample_id, s.config, s.pred, s.accuracy) for s in ahead.samples] == key
    names = {name for _, name in opened[1:]}  # the first opening warms up
    assert all(name.startswith("prefetch") for name in names) is prefetch
    assert [name for name, _ in opened[1:]] == [each.sample_id for each in asked]


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_picture_that_fails_loses_none_of_the_samples_before_it(digits, prefetch):
    sink = ListSink()
    asked = [Told(each, [], fails=number == 2) for number, each in enumerate(questions())]
    with pytest.raises(PictureError, match="no picture"):
        sweep(host(digits), asked, SMALL, sink, settings(prefetch=prefetch))
    assert len(sink.samples) == 2 * len(SMALL)
    assert not [each for each in threading.enumerate() if each.name.startswith("prefetch")]


def test_prefetch_is_told_in_the_profile_and_only_where_it_was_asked_for(digits, tmp_path):
    for prefetch in (False, True):
        plan = ProfilePlan(
            datasets=("digits_read",), samples=1, tiers=("low",), top_ks=(1,), block_counts=(8,), prefetch=prefetch
        )
        run_profile(digits, plan, tmp_path / str(prefetch))
        [found] = read_profile(tmp_path / str(prefetch)).provenance
        assert found.settings.get("prefetch", False) is prefetch
