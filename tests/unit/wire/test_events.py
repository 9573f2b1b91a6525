import json

import pytest

from paceline.wire.events import EventSplitter, holds_token, with_report

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
TOKEN = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"id":"x","choices":[],"usage":{"total_tokens":3}}\n\n'
STREAM = ROLE + b": keep-alive\n\n" + TOKEN + TOKEN + USAGE + b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 10_000])
def test_events_are_whole_however_the_stream_is_cut(size):
    splitter = EventSplitter()
    events = [event for at in range(0, len(STREAM), size) for event in splitter.feed(STREAM[at : at + size])]
    assert b"".join(events) == STREAM and len(events) == 6
    assert splitter.rest() == b""


def test_the_first_token_is_where_more_than_a_role_is_handed_on():
    assert not any(map(holds_token, (ROLE, b": keep-alive\n\n", b"data: [DONE]\n\n", USAGE, b"data: {broken\n\n")))
    assert holds_token(TOKEN)
    assert holds_token(b'data: {"choices":[{"delta":{"content":"","reasoning":"a"}}]}\n\n')
    assert holds_token(b'data: {"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}\n\n')


def test_the_report_stands_beside_the_usage_and_nowhere_else():
    found = with_report(USAGE, {"promised": True})
    assert json.loads(found[6:]) == {
        "id": "x",
        "choices": [],
        "usage": {"total_tokens": 3},
        "paceline": {"promised": True},
    }
    assert with_report(TOKEN, {}) is None
    continuous = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"total_tokens":3}}\n\n'
    assert with_report(continuous, {}) is None
    assert with_report(b'data: {"choices":[],"usage":null}\n\n', {}) is None
