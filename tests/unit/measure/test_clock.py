"""CUDA events without a GPU: a torch.cuda that writes down what is asked of it."""

from contextlib import contextmanager

import pytest
import torch

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.measure.clock import HostClock, clock_for
from paceline.measure.ranks import Share, share_of
from paceline.models.devices import torch_device

SECOND = torch.device("cuda", 1)


@pytest.fixture
def cuda(monkeypatch):
    """Calls of torch.cuda with the device that was current, which is cuda:0 outside of a block."""
    calls, current = [], [torch.device("cuda", 0)]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing
            calls.append(("event", current[-1]))

        def record(self, stream):
            calls.append(("record", stream))

        def elapsed_time(self, other):
            return 1.5

    @contextmanager
    def device(wanted):
        current.append(wanted)
        try:
            yield
        finally:
            current.pop()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda wanted: f"stream of {wanted}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda wanted: calls.append(("synchronize", wanted)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return calls


def test_marks_and_waits_are_of_the_models_device(cuda):
    clock = clock_for(SECOND)
    first, second = clock.mark(), clock.mark()
    clock.settle()
    assert clock.between_ms(first, second) == 1.5
    assert cuda == [("event", SECOND), ("record", "stream of cuda:1")] * 2 + [("synchronize", SECOND)]
    assert isinstance(clock_for(torch.device("cpu")), HostClock)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_rank_has_its_own_gpu(cuda, name):
    assert [torch_device(name, {"LOCAL_RANK": rank}) for rank in "01"] == [torch.device("cuda", 0), SECOND]
    assert torch_device(name, {}) == torch.device("cuda")
    assert torch_device("cuda:1", {"LOCAL_RANK": "0"}) == SECOND
    for rank in ("2", "x", "-1", ""):
        with pytest.raises(InvalidValueError, match="LOCAL_RANK"):
            torch_device(name, {"LOCAL_RANK": rank})
    with pytest.raises(InvalidValueError, match="2 GPUs"):
        torch_device("cuda:7", {})


@pytest.mark.parametrize("name", ["cpu:foo", "cuda:", "cuda:-1", "tpu", "", "CPU", "auto:x"])
def test_words_that_are_no_device(name):
    with pytest.raises((UnknownChoiceError, InvalidValueError), match="device"):
        torch_device(name, {})


def test_a_share_is_what_torchrun_says():
    assert share_of({}) == Share(rank=0, world_size=1)
    assert share_of({"RANK": "2", "WORLD_SIZE": "4"}) == Share(rank=2, world_size=4)


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "abc"},
        {"WORLD_SIZE": "0"},
        {"RANK": "3", "WORLD_SIZE": "2"},
        {"RANK": "1"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"WORLD_SIZE": ""},
        {"RANK": "²"},
    ],
)
def test_a_share_that_cannot_be_is_refused(environment):
    with pytest.raises(InvalidValueError, match="RANK|WORLD_SIZE"):
        share_of(environment)
