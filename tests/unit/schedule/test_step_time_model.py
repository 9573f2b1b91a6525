import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import InvalidValueError, StepTimeError
from paceline.schedule import LinearStepTime, StepLoad
from paceline.schedule.step_time import largest_chunk, with_chunk

MODEL = LinearStepTime(
    base_ms=4.0,
    per_decode_token_ms=0.5,
    per_decode_context_token_ms=0.001,
    per_prefill_token_ms=0.25,
    per_prefill_attention_token_ms=0.002,
)
COSTS = st.floats(0, 10)


class Curve:
    """A model that is no sum: prefill is free up to 100 tokens and then costs their square."""

    def predict_ms(self, load: StepLoad) -> float:
        return max(0, load.prefill_tokens - 100) ** 2 + load.decode_tokens


def test_a_prediction_by_hand() -> None:
    load = with_chunk(StepLoad(decode_tokens=8, decode_context_tokens=1000), chunk_tokens=20, context_tokens=90)
    assert load.prefill_attention_tokens == 20 * 100
    assert MODEL.predict_ms(load) == pytest.approx(4 + 4 + 1 + 5 + 4)


@given(
    st.builds(
        LinearStepTime,
        base_ms=COSTS,
        per_decode_token_ms=COSTS,
        per_decode_context_token_ms=COSTS,
        per_prefill_token_ms=COSTS,
        per_prefill_attention_token_ms=COSTS,
    )
    | st.just(Curve()),
    st.integers(0, 5),
    st.integers(0, 300),
    st.integers(0, 200),
    st.floats(0.1, 1e5),
)
def test_the_largest_chunk_is_the_last_that_fits(
    model: Any, decodes: int, context: int, most: int, target_ms: float
) -> None:
    load = StepLoad(decode_tokens=decodes, decode_context_tokens=10 * decodes)
    found = largest_chunk(model, load, context_tokens=context, most_tokens=most, target_ms=target_ms)
    fitting = [
        chunk
        for chunk in range(1, most + 1)
        if model.predict_ms(with_chunk(load, chunk_tokens=chunk, context_tokens=context)) <= target_ms
    ]
    assert found == max(fitting, default=0)


def test_costs_cannot_be_negative() -> None:
    with pytest.raises(InvalidValueError, match="per_prefill_token_ms is -0.1"):
        LinearStepTime(**{**MODEL.document(), "per_prefill_token_ms": -0.1})


def test_a_file_may_hold_more_than_the_coefficients(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**MODEL.document(), "held_out": {"n": 5}}))
    assert LinearStepTime.load(path) == MODEL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON document"),
        ("[1]", "expected an object of coefficients"),
        (json.dumps({**MODEL.document(), "base_ms": None}), "base_ms is None; expected a number of ms; fit one with"),
        (json.dumps({**MODEL.document(), "base_ms": True}), "base_ms is True"),
        (json.dumps({**MODEL.document(), "base_ms": -1}), "base_ms is -1.0; expected a finite number of at least 0"),
        (json.dumps({"base_ms": 1}), "per_decode_token_ms is None"),
    ],
)
def test_files_that_cannot_be_trusted_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(StepTimeError, match=message):
        LinearStepTime.load(path)
    with pytest.raises(StepTimeError, match="cannot be read"):
        LinearStepTime.load(tmp_path / "none.json")
