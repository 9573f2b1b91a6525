"""A share of what `make damaged` generates, and what it found: a sentence, or the value that the file truly says."""

import io
import json
import zipfile

import numpy as np
import pytest
from damaged import Damage
from formats import DESK, FORMATS, resealed, sealed_certificate
from safetensors.numpy import load, save

from paceline.errors import InvalidValueError, RequestRefusedError, UnknownChoiceError
from paceline.wire.events import holds_token

CASES = 8


@pytest.fixture(scope="module")
def damage(tmp_path_factory: pytest.TempPathFactory) -> Damage:
    return Damage(tmp_path_factory.mktemp("originals"))


def original(damage: Damage, name: str) -> bytes:
    return damage.contents[damage.home / FORMATS[name].target]


@pytest.mark.parametrize("name", FORMATS)
def test_an_undamaged_original_is_read_as_what_it_says(damage: Damage, name: str) -> None:
    assert damage.content(FORMATS[name], original(damage, name)) == ("a value", None)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_inputs_are_sentences_or_true_values(damage: Damage, name: str) -> None:
    wrong = [(number, problem) for number in range(CASES) if (problem := damage.case(FORMATS[name], number)[1])]
    assert wrong == []


def changed(content: bytes, *path, seal=lambda document: document, to=None, named=None) -> bytes:
    """A document with the value at a path set, or its name changed."""
    document = owner = json.loads(content)
    for name in path[:-1]:
        owner = owner[name]
    if named is not None:
        owner[named] = owner.pop(path[-1])
    else:
        owner[path[-1]] = to
    return json.dumps(seal(document)).encode()


def in_npz(content: bytes, **members) -> bytes:
    with np.load(io.BytesIO(content)) as file:
        held = {name: file[name] for name in file.files}
    out = io.BytesIO()
    np.savez_compressed(out, **{**held, **members})
    return out.getvalue()


def with_huge_header(content: bytes) -> bytes:
    out = io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (10**11, 7), "fortran_order": False, "descr": "<f8"})
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as written:
        for name in archive.namelist():
            written.writestr(name, header.getvalue() if name == "attn_decode.npy" else archive.read(name))
    return out.getvalue()


def with_request_number(content: bytes) -> bytes:
    arrays = load(content)
    return save({**arrays, "prefill.requests_N": np.full_like(arrays["prefill.requests_N"], 2**31 - 1)})


FOUND = {
    "a request's number that asks for all memory": ("bounds scores", with_request_number),
    "a range of one number": (
        "estimator",
        lambda whole: changed(whole, "feature_ranges", "text_tokens", to=[1], seal=resealed),
    ),
    "a range of three numbers": (
        "estimator",
        lambda whole: changed(whole, "feature_ranges", "text_tokens", to=[1, 2, 3], seal=resealed),
    ),
    "tables that are no numbers": ("step-time tables", lambda whole: in_npz(whole, add=np.full(65, np.nan))),
    "times below 0": ("step-time tables", lambda whole: in_npz(whole, attn_decode=np.full((9, 5), -1.0))),
    "a table of words": ("step-time tables", lambda whole: in_npz(whole, mlp_act=np.array(["a"] * 65))),
    "a flat table": ("step-time tables", lambda whole: in_npz(whole, attn_decode=np.ones(9))),
    "a header that asks for terabytes": ("step-time tables", with_huge_header),
    "gigabytes in megabytes": ("step-time tables", lambda whole: in_npz(whole, attn_decode=np.zeros((1 << 14, 1 << 13 | 1)))),
    "a number for an object": ("step-time tables", lambda whole: in_npz(whole, meta=np.array("7"))),
    "parts that are words": ("certify-parts", lambda whole: changed(whole, "pictures", to="\ud800", seal=resealed)),
    "a seed that is none": ("certify-parts", lambda whole: changed(whole, "seed", to="x", seal=resealed)),
    "a damaged name of an optional field": (
        "profile.json",
        lambda whole: changed(whole, "provenance", 0, "engine", named="engjne"),
    ),
    "a damaged name in a question": ("questions", lambda whole: whole.replace(b'"choices"', b'"choicTs"', 1)),
    "one question twice": ("questions", lambda whole: whole + whole.split(b"\n")[0].replace(b"synthetic", b"synthetix") + b"\n"),
    "a number for a configuration": (
        "table",
        lambda whole: changed(whole, "metadata", "certificate", "full", to=7, seal=sealed_certificate),
    ),
    "a field that a certificate has not": (
        "table",
        lambda whole: changed(whole, "metadata", "certificate", "grade", to="A", seal=sealed_certificate),
    ),
    "a damaged name of a certificate's optional field": (
        "table",
        lambda whole: changed(whole, "metadata", "certificate", "stopped", named="stoqped", seal=sealed_certificate),
    ),
    "a field that a certificate's claim has not": (
        "table",
        lambda whole: changed(whole, "metadata", "certificate", "claims", 0, "grade", to="A", seal=sealed_certificate),
    ),
    "a model that is a number": (
        "table",
        lambda whole: changed(whole, "metadata", "certificate", "model", to=7, seal=sealed_certificate),
    ),
    "a count of words": (
        "table",
        lambda whole: changed(whole, "metadata", "certificate", "mix", "synthetic", to="ten", seal=sealed_certificate),
    ),
    "a bound that is no number": (
        "table",
        lambda whole: changed(
            whole, "metadata", "certificate", "claims", 0, "bound_ms", to=float("nan"), seal=sealed_certificate
        ),
    ),
    "an estimator's data set that is a number": (
        "estimator",
        lambda whole: changed(whole, "datasets", to=["synthetic", 7], seal=resealed),
    ),
    "a controller's data set that is null": ("policy", lambda whole: changed(whole, "datasets", to=[None], seal=resealed)),
    "a name of thousands of letters": (
        "answers",
        lambda whole: whole.replace(b"batch_size", b"batch_" + b"9" * 5000, 1),
    ),
    "a sequence that is none": (
        "certificate plan",
        lambda whole: changed(whole, "sequence", to=7, seal=resealed),
    ),
    "a configuration that no grid holds": (
        "certificate plan",
        lambda whole: changed(whole, "sequence", 0, "config", to="low_7_8", seal=resealed),
    ),
    "a value of thousands of letters": (
        "answers",
        lambda whole: whole.replace(b"low_4_8", b"low_4_" + b"9" * 5000, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "number"),
    [("tiff picture", 394), ("journal", 446), ("questions", 718), ("answers", 145), ("bounds", 924), ("table", 1131)],
)
def test_what_a_number_found_is_mended(damage: Damage, name: str, number: int) -> None:
    assert damage.case(FORMATS[name], number)[1] is None


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_is_a_sentence(damage: Damage, found: str) -> None:
    name, change = FOUND[found]
    assert damage.content(FORMATS[name], change(original(damage, name)), rehash=True) == ("a sentence", None)


@pytest.mark.parametrize(
    "messages",
    [b'[{"role": "user", "content": "\xf0d"}]', b"[" + b"9" * 5000 + b"]"],
    ids=["no UTF-8", "thousands of digits"],
)
def test_a_body_that_no_reader_can_hold_is_refused(messages: bytes) -> None:
    body = b'{"model": "m", "latency_budget_ms": 50, "messages": ' + messages + b"}"
    with pytest.raises(RequestRefusedError) as refused:
        reading = DESK.read("/v1/chat/completions", [], body)
        assert reading.asked is not None, "what is no JSON at all is the engine's to refuse"
        DESK.accept(reading, received_seconds=0.0, now_seconds=0.0)
    assert refused.value.status == 400 and len(str(refused.value)) < 400


def test_an_event_that_nests_too_deeply_is_one_without_a_token() -> None:
    assert not holds_token(b'data: {"choices": ' + b"[" * 100_000 + b"\n\n")


def test_a_sentence_shows_the_beginning_of_a_long_value() -> None:
    assert len(str(InvalidValueError("key", "x" * 10**6, "less"))) < 400
    assert len(str(UnknownChoiceError("tier", "x" * 10**6, ("low", "high")))) < 400
