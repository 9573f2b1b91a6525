import json

import pytest

from paceline.wire.body import body_of, fields_of, may_matter, raw, strip_knobs, value_of


def stripped(body):
    fields = fields_of(body)
    names = strip_knobs(fields)
    return names, json.loads(body_of(fields))


def test_what_is_not_changed_stays_as_the_bytes_that_came():
    body = b'{"model" : "m",  "seed": 12345678901234567890123, "x": 1.0e2, "messages": [ {"content":"\\u00e9\\ud83d\\ude00"} ]}'
    fields = fields_of(body)
    fields["stream"] = raw(True)
    assert b'"messages":[ {"content":"\\u00e9\\ud83d\\ude00"} ]' in body_of(fields)
    assert b'"seed":12345678901234567890123,"x":1.0e2' in body_of(fields)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_body_is_read_however_python_servers_read_it(encoding):
    body = json.dumps({"latency_budget_ms": 3, "x": "é"}, ensure_ascii=False).encode(encoding)
    assert may_matter(body) and value_of(fields_of(body), "latency_budget_ms") == 3
    spelled = b'{"latency\\u005fbudget_ms": NaN, "other": [1]}'
    assert may_matter(spelled) and value_of(fields_of(spelled), "latency_budget_ms") != 3


@pytest.mark.parametrize("body", [b"", b"[]", b"nothing", b'{"a":', b"3", b"[" * 100_000, b"\xff\xfe"])
def test_a_body_that_is_no_object_has_no_fields(body):
    assert fields_of(body) is None


def test_knobs_of_a_client_are_taken_out_and_named():
    body = {
        "model": "m",
        "vllm_xargs": {"paceline_top_k": 99, "paceline_active_blocks": 1, "session_id": "s"},
        "sampling_params": {"extra_args": {"paceline_top_k": 1}, "max_tokens": 3},
        "mm_processor_kwargs": {"size": {"longest_edge": 10**9}},
        "media_io_kwargs": {"image": {}},
    }
    names, kept = stripped(json.dumps(body).encode())
    assert kept == {
        "model": "m",
        "vllm_xargs": {"session_id": "s"},
        "sampling_params": {"extra_args": {}, "max_tokens": 3},
    }
    assert names == (
        "mm_processor_kwargs",
        "media_io_kwargs",
        "vllm_xargs.paceline_top_k",
        "vllm_xargs.paceline_active_blocks",
        "sampling_params.extra_args.paceline_top_k",
    )


def test_knobs_spelled_by_escapes_are_taken_out_too():
    body = b'{"vllm_xargs": {"\\u0070aceline_top_k": 99}}'
    assert may_matter(body)
    assert stripped(body) == (("vllm_xargs.paceline_top_k",), {"vllm_xargs": {}})


@pytest.mark.parametrize("value", [None, [], "paceline_top_k", 3, {"other": "paceline_top_k"}, {}])
def test_what_is_no_knob_stays(value):
    body = {"vllm_xargs": value, "sampling_params": {"extra_args": value}, "mm_processor_kwargs": None}
    assert stripped(json.dumps(body).encode()) == ((), body)


NAMES = ("latency_budget_ms", "paceline_top_k", "mm_processor_kwargs", "media_io_kwargs", "\\u0070aceline", "\0")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("around", ["", "_", "a_b" * 50, "x" * 100_000, "_" * 5000, "\\n" * 3000])
def test_no_body_with_a_name_that_matters_is_passed_over(name, around):
    for body in (f"{around}{name}{around}", f"{around}{name}", f"{name}{around}"):
        assert may_matter(body.encode())


def test_bodies_without_one_are_passed_over():
    body = {
        "max_tokens": 3,
        "messages": [{"content": [{"image_url": "data:;base64," + "Ab+/" * 1000}, "two\nlines \\ u"]}],
    }
    assert not may_matter(json.dumps(body).encode())
    for near in ("latency_budget", "budget_ms", "acelin_", "paceline", "processor_kwargs", "_ms"):
        assert not may_matter(near.encode())
