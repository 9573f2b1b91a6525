"""Random requests with random knobs on a real engine: the answers are those of each request alone, and nothing is left."""

import pytest
from knob_endurance import MOST_GROWTH_MIB, left_behind
from knob_loads import check, containers, grown, holding, knob_engine

from paceline.vllm_plugin.relied_on import release_devices

REQUESTS = 150


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    built = knob_engine(tmp_path_factory.mktemp("tiny_moe"))
    yield built
    built.engine_core.shutdown()
    release_devices()


def test_random_requests_are_answered_as_each_alone_and_leave_nothing(engine):
    found = check(engine, seed=1, count=REQUESTS)
    assert found.violations == [], "\n".join(found.violations)
    totals = found.totals
    assert totals["preemptions"] and totals["cached prompt tokens"] and totals["given up"]
    assert totals["undecided"] <= REQUESTS // 20
    assert max(map(len, found.sizes)) > 50  # the walk reaches scheduler, engine and worker


def test_what_is_left_would_be_found(engine):
    """The negative: a request's name, and a container that grows, are seen where they stand."""
    steering = engine.model_executor.driver_worker.worker.steering
    steering._requests["knob-load-left"] = None
    assert holding({"steering": steering}, "knob-load") == ["steering._requests"]
    del steering._requests["knob-load-left"]
    assert any(path == "steering._requests" for path, _ in containers({"steering": steering}))
    assert grown([{"a": 1, "b": 2}, {"a": 3, "b": 2}]) == ["a grew from 1 to 3"]


def test_what_an_hour_leaves_behind_would_be_found():
    held = {"memory_mib": 800.0, "threads": 47, "descriptors": 66}
    assert left_behind([held] * 12) == []
    more = held | {"threads": 48, "descriptors": 67}
    assert left_behind([held] * 11 + [more]) == [
        "48 threads, 47 after the first rounds",
        "67 descriptors, 66 after the first rounds",
    ]
    growing = [held | {"memory_mib": 800.0 + place * MOST_GROWTH_MIB / 4} for place in range(12)]
    assert [each[:6] for each in left_behind(growing)] == ["memory"]
