"""What a model's answer says of its end, where the last of its text was held back."""

from types import SimpleNamespace

import pytest

from paceline.records import KnobConfig
from paceline.server import local_model
from paceline.server.local_model import LocalModel
from paceline.server.question import Question

PARTS = {0: b"fine. ", 1: b"STOP\xf0\x9f", 2: b" then", 3: b"\xf0\x9f"}
CONFIG = KnobConfig(tier=None, top_k=None, num_active_blocks=None)


def decode(ids, **_):
    return b"".join(PARTS[each] for each in ids).decode("utf-8", "replace")


class Lock:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def answered(monkeypatch, tokens, stops):
    """Return what a model answers that gives these tokens, none of which ends an answer."""

    def measured(_model, _prepare, _config, *, listener, **_):
        for token in tokens:
            if not listener.token(token):
                break
        return SimpleNamespace(
            request=SimpleNamespace(vision_tokens=0, text_tokens=3), times=SimpleNamespace(output_tokens=len(tokens))
        )

    monkeypatch.setattr(local_model, "request_measured", measured)
    monkeypatch.setattr(local_model, "check_config", lambda *_: None)
    monkeypatch.setattr(local_model, "clock_for", lambda *_: None)
    model = SimpleNamespace(
        parts=SimpleNamespace(
            text_config=SimpleNamespace(max_position_embeddings=100),
            model=SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=99)),
        ),
        devices=(),
        tokenizer=SimpleNamespace(decode=decode),
        tokenizer_lock=Lock(),
    )
    texts = []
    question = Question(messages=({"role": "user", "content": "?"},), pictures=(), max_tokens=8, stops=stops)
    found = LocalModel(model, ranking=()).answer(question, CONFIG, None, texts.append, lambda: False)
    return "".join(texts) + found.rest, found.finish_reason


@pytest.mark.parametrize(
    ("tokens", "stops", "said", "reason"),
    [
        ([0, 1], ("STOP",), "fine.", "stop"),
        ([0, 2], ("STOP",), "fine.  then", "length"),
        ([0, 3], (), "fine. \N{REPLACEMENT CHARACTER}", "length"),
    ],
)
def test_a_stop_sequence_before_half_a_letter_ends_an_answer(monkeypatch, tokens, stops, said, reason):
    assert answered(monkeypatch, tokens, stops) == (said, reason)
