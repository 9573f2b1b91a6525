"""What a sweep relies on in a store, held against every kind of sink."""

import pytest
from synthetic_run import provenance

from paceline.profiles import ProfileStore
from paceline.records import KnobConfig, KnobGrid, ProfileSample


class ListSink:
    """The least that satisfies the Protocol."""

    def __init__(self):
        self.samples, self.sentinels = [], []

    def done(self):
        return {(sample.dataset, sample.sample_id, sample.config) for sample in self.samples}

    def append(self, sample):
        self.samples.append(sample)

    def append_sentinel(self, record):
        self.sentinels.append(record)


RUN = provenance(
    grid=KnobGrid(tiers=("low",), top_ks=(None,), block_counts=(4,)), datasets={"digits_read": "exact_match/1"}
)


@pytest.fixture(params=["list", "store"])
def sink(request, tmp_path):
    if request.param == "list":
        yield ListSink()
        return
    with ProfileStore.open_or_create(tmp_path / "profile", RUN) as store:
        yield store


def sample(sample_id, blocks=4):
    return ProfileSample(
        dataset="digits_read",
        sample_id=sample_id,
        tier="low",
        top_k=None,
        num_active_blocks=blocks,
        target_vision_tokens=16,
        actual_vision_tokens=12,
        actual_text_tokens=9,
        output_tokens=1,
        accuracy=1.0,
        pred="7",
        metadata={"digits": 1, "decode_step_ms": [1.0, 2.0]},
        T_vision_total=1.0,
        T_LLM_prefill=2.0,
        T_LLM_decode=0.0,
        T_decode_per_token=None,
        T_total=3.2,
        T_preprocess=0.5,
        T_ttft=3.6,
        T_other=0.2,
    )


def test_nothing_is_done_at_first(sink):
    assert sink.done() == set()


def test_what_was_appended_is_done_by_dataset_sample_and_configuration(sink):
    sink.append(sample("a"))
    sink.append(sample("b", blocks=3))
    low = {"tier": "low", "top_k": None}
    assert sink.done() == {
        ("digits_read", "a", KnobConfig(**low, num_active_blocks=4)),
        ("digits_read", "b", KnobConfig(**low, num_active_blocks=3)),
    }


def test_sentinels_are_no_samples(sink):
    sink.append_sentinel({"before_task": 0, "prefill_ms": 1.0, "total_ms": 2.0})
    assert sink.done() == set()
