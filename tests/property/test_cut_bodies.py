"""A body without its pictures is read as the whole one is, and whole again it is the one that came."""

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from serving_desk import FakeSizes, calibrated_desk, picture_url

from paceline.errors import PictureError, RequestRefusedError
from paceline.serving import desk as desk_module
from paceline.wire import cut_body
from paceline.wire.body import body_of, fields_of, value_of
from paceline.wire.cut_body import MARK, CutBody, SlashedUrl, cut_out

PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def every_url_is_long_enough(monkeypatch):
    monkeypatch.setattr(cut_body, "SHORTEST_CUT", 12)


pieces = st.sampled_from(
    [
        "data:image/png;base64,AAAA",
        "data:,b",
        '"',
        "\\",
        "/",
        "data:",
        '"data:image/png;base64,BB',
        "\n",
        "é",
        "\U0001f600",
        MARK,
    ]
)
strings = st.one_of(st.lists(pieces, max_size=6).map("".join), st.text(max_size=8), st.just(picture_url()))
values = st.recursive(
    st.one_of(strings, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4),
    max_leaves=12,
)
NAMES = ("latency_budget_ms", "vllm_xargs", "mm_processor_kwargs", "messages", "stream", "on_infeasible")
objects = st.dictionaries(st.one_of(st.sampled_from(NAMES), strings), values, max_size=6)
writings = st.sampled_from(
    [
        lambda value: json.dumps(value).encode(),
        lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"),
        lambda value: json.dumps(value).replace("/", "\\/").encode(),
        lambda value: json.dumps(value, indent=1).encode(),
        lambda value: json.dumps(value).encode("utf-8-sig"),
        lambda value: json.dumps(value).encode("utf-16"),
    ]
)
bodies = st.builds(lambda write, value: write(value), writings, objects)


@st.composite
def torn(draw):
    """A body with some bytes of its own or of another put where they do not belong."""
    body = draw(bodies)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(body)))
        put = draw(st.sampled_from([b'"', b"\\", b'"data:', b"{", b",", b"data:image/png;base64,", b"\0", b'"a":1,']))
        body = body[:place] + put + body[place + draw(st.integers(0, 3)) :]
    return body


@given(st.one_of(bodies, torn()))
@example('{"a": "搢瑡㩡xxxxxxxxxxxx", "vllm_xargs": {"paceline_top_k": 99}, "b": ""}'.encode("utf-16"))
@example(b'\xef\xbb\xbf{"0000\\\\ud800\\udc00": []}')
@example(b'{"data:image/png;base64,AAAA": "data:image/png;base64,AAAA", "a": "\\"data:image/png;base64,AAAA"}')
def test_what_a_server_reads_is_what_is_read_here(body):
    cut = cut_out(body)
    assert cut.whole(cut.text) == body
    try:
        read = json.loads(body)
    except ValueError:  # the server says so, whatever is thought of it here
        return
    if not isinstance(read, dict):
        assert fields_of(cut.text) is None
        return
    fields, plain = fields_of(cut.text), fields_of(body)
    assert said(cut.whole(body_of(fields))) == said(body_of(plain)) == said(body)
    for name in NAMES:
        assert (name in fields) == (name in plain)
        assert said(cut.whole(bytes(fields.get(name, b"null")))) == said(bytes(plain.get(name, b"null")))


def said(text):
    """What a text says, however it is written; NaN is no equal of itself."""
    return repr(json.loads(text))


class Letters(FakeSizes):
    def text_tokens(self, messages, *, arguments=None):
        return sum(len(part.get("text", "")) for message in messages for part in message["content"])

    def cap_under(self, width, height, arguments):
        raise PictureError(f"no limits: {arguments!r}")


def decided(body):
    desk = calibrated_desk(sizes=Letters())
    try:
        reading = desk.read(PATH, [], body)
        if reading.asked is None:
            return said_or_not(reading.body), reading.stripped
        ticket = desk.accept(reading, received_seconds=0.0, now_seconds=0.0)
    except RequestRefusedError as refused:
        return refused.status, refused.param, refused.code
    return said(ticket.body), ticket.stripped, ticket.promise


def said_or_not(body):
    try:
        return said(body)
    except ValueError:
        return body


parts = st.one_of(
    st.builds(
        lambda url, detail: {"type": "image_url", "image_url": {"url": url, **detail}},
        strings,
        st.sampled_from([{}, {"detail": "low"}]),
    ),
    st.builds(lambda text: {"type": "text", "text": text}, strings),
)
chats = st.builds(
    lambda content, budget, others: {
        "messages": [{"role": "user", "content": content}],
        "latency_budget_ms": budget,
        **others,
    },
    st.lists(parts, max_size=3),
    st.sampled_from([None, 5, 30, 500]),
    st.dictionaries(
        st.sampled_from(("vllm_xargs", "mm_processor_kwargs", "media_io_kwargs", "stream", "note")), values, max_size=3
    ),
)


@given(st.builds(lambda write, value: write(value), writings, chats))
def test_a_decision_is_that_of_the_plain_way(body):
    found = decided(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk_module, "cut_out", lambda whole: CutBody(text=whole))
        assert decided(body) == found


def test_a_picture_is_not_read_with_the_words_around_it(monkeypatch):
    monkeypatch.setattr(cut_body, "SHORTEST_CUT", 4096)
    url = "data:image/png;base64," + "A" * 5000
    body = json.dumps({"a": [url, "data:image/png;base64,BBBB"], "b": {"url": url}, "latency_budget_ms": 3}).encode()
    cut = cut_out(body)
    assert len(cut.text) < 300 and [bytes(each).decode() for each in cut.urls] == [url, url]
    said = value_of(fields_of(cut.text), "a")
    assert bytes(cut.url(said[0])).decode() == url and cut.url(said[1]) == "data:image/png;base64,BBBB"
    escaped = cut_out(body.replace(b"/", b"\\/"))  # as PHP writes it
    slashed = escaped.url(value_of(fields_of(escaped.text), "a")[0])
    assert len(escaped.text) < 300 and len(slashed) == len(url) and slashed[:].decode() == url


@given(st.lists(st.sampled_from(["/", "a", "B", "=", "+"]), min_size=1, max_size=60).map("".join), st.data())
def test_a_part_of_a_slashed_url_is_that_part_of_the_url(letters, data):
    text = "data:/;base64," + letters
    escaped = cut_out(json.dumps({"a": text}).replace("/", "\\/").encode())
    url = escaped.url(value_of(fields_of(escaped.text), "a"))
    assert isinstance(url, SlashedUrl) and len(url) == len(text)
    first, last = (data.draw(st.integers(0, len(text) + 3)) for _ in range(2))
    assert url[first:last].decode() == text[first:last] and url[first:].decode() == text[first:]
    assert url[-2:].decode() == text[-2:] and escaped.whole(escaped.text).decode() == json.dumps({"a": text}).replace(
        "/", "\\/"
    )


@pytest.mark.parametrize("words", [b'\\"data:', b'"data:', b'"data:;base64,\\"', b'"data:;base64,AAAAAAAAAAAAAA",'])
def test_no_words_take_long_to_look_at(words):
    body = b'{"a": "' + words * (2_000_000 // len(words)) + b'"}'
    started = time.process_time()
    cut = cut_out(body)
    assert cut.whole(cut.text) == body
    assert time.process_time() - started < 0.5  # a hundredth of that; by the square of the length it would be minutes


def test_a_name_in_a_clients_own_words_is_nobodys_picture(monkeypatch):
    monkeypatch.setattr(cut_body, "SHORTEST_CUT", 64)
    url = "data:image/png;base64," + "A" * 64
    for name in (f"data:{MARK}:0", f"data:{MARK}:7"):
        body = json.dumps({"a": url, "b": name}).encode()
        assert cut_out(body) == CutBody(text=body)
    # spelled by escapes, in a body that is written anew
    spelled = "".join(f"\\u{ord(letter):04x}" for letter in MARK)
    body = f'{{"a": "{url}", "b": "data:{spelled}:7", "c": NaN, "media_io_kwargs": {{"image": 1}}}}'.encode()
    reading = calibrated_desk().read(PATH, [], body)
    assert reading.stripped == ("media_io_kwargs",)
    assert json.loads(reading.body)["a"] == url and json.loads(reading.body)["b"] == f"data:{MARK}:7"
