"""The gate: keys, limits, and what is held of whom."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paceline.server.gate import depth_exceeds


def nests(value):
    inner = value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(nests, inner), default=0)


documents = st.recursive(
    st.text(alphabet='[{"\\]}a', max_size=8) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[{"', max_size=3), inner, max_size=3),
    max_leaves=30,
)


@given(documents, st.integers(1, 6))
def test_depth_is_that_of_the_document_whatever_stands_in_its_strings(document, most):
    assert depth_exceeds(json.dumps(document).encode(), most) == (nests(document) > most)


@given(st.binary(max_size=60), st.integers(1, 4))
@example(b'"\\', 1)
@example(b'"' + b'\\"' * 30, 1)
def test_depth_takes_any_bytes(body, most):
    assert depth_exceeds(body, most) in (True, False)


@pytest.mark.parametrize(
    "body", [b"[" * 20_000_000, b'["' + b'\\"' * 10_000_000, b'"' * 20_000_001, b'[""' * 5_000_000]
)
def test_hostile_bodies_of_twenty_megabytes_are_judged_in_linear_time(body, benchmark):
    benchmark.pedantic(depth_exceeds, args=(body, 64), rounds=1)
    assert benchmark.stats is None or benchmark.stats.stats.max < 20  # quadratic would be days
