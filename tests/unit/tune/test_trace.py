import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.errors import RequestFileError
from paceline.tune.trace import COLUMNS, read_trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:46.6805901,396,109
2023-11-16 18:15:50.6805900,879,55
"""


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "trace.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, newline="")
        return path

    return write


def sizes(workload):
    return [(request.prompt_tokens, request.output_tokens) for request in workload.requests]


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_azure_columns_and_seven_digit_fractions_are_read_exactly(written, line_break, mark):
    workload = read_trace(written(mark + AZURE.replace("\n", line_break)))
    assert sizes(workload) == [(374, 44), (396, 109), (879, 55)]
    arrivals = [request.arrival_seconds for request in workload.requests]
    assert arrivals == [0.0, 1e-7, 4.0]  # a float of seconds since 1970 would lose the 1e-7
    assert not workload.synthetic and workload.label == "trace trace.csv"
    assert workload.requests_per_second == 0.5


@pytest.mark.parametrize("prompt", COLUMNS["prompt_tokens"])
@pytest.mark.parametrize("output", COLUMNS["output_tokens"])
def test_every_documented_column_name_is_known_in_any_spelling(written, prompt, output):
    spelled = prompt.replace("_", " ").title()
    assert sizes(read_trace(written(f"arrived-at,{spelled},{output.upper()}\n0,7,3\n"))) == [(7, 3)]


def test_the_document_lists_exactly_the_names_that_are_known():
    page = (Path(__file__).parents[3] / "docs" / "traces.md").read_text()
    table = page.split("| field | column names | holds |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    documented = {}
    for row in rows:
        field, names = (cell.strip() for cell in row.strip("|").split("|")[:2])
        documented[field.strip("`")] = tuple(name.strip(" `") for name in names.split(","))
    assert documented == dict(COLUMNS)


def test_jsonl_gives_what_csv_gives(written):
    header, *lines = AZURE.strip().split("\n")
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    text = "\n".join(json.dumps({**row, "GeneratedTokens": int(row["GeneratedTokens"])}) for row in rows) + "\n\n"
    assert read_trace(written(text, "trace.jsonl")).requests == read_trace(written(AZURE)).requests


def test_lines_out_of_order_are_sorted_and_equal_arrivals_keep_their_order(written):
    text = "arrival,prompt_tokens,output_tokens,request_id\n9,1,1,a\n3.5,2,2,b\n9,3,3,c\n"
    requests = read_trace(written(text)).requests
    assert [(each.request_id, each.arrival_seconds) for each in requests] == [("b", 0.0), ("a", 5.5), ("c", 5.5)]


def test_time_zones_count_and_none_means_utc(written):
    text = "time,input_tokens,output_tokens\n2024-01-01T10:00:00+01:00,1,1\n2024-01-01T09:00:01Z,2,1\n2024-01-01 09:00:02,3,1\n"
    assert [request.arrival_seconds for request in read_trace(written(text)).requests] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("tiny", ["1e-99999999", "0e-99999999", "0.0e99999999", "3e-300"])
def test_an_arrival_of_an_absurd_exponent_is_read_at_once(written, tiny):
    """As a fraction it would have a hundred million digits."""
    requests = read_trace(written(f"arrival,prompt_tokens,output_tokens\n{tiny},1,1\n2,2,1\n")).requests
    assert [request.arrival_seconds for request in requests] == [0.0, 2.0]


def test_budgets_are_the_requests_own(written):
    text = "arrival,prompt_tokens,output_tokens,ttft_budget_ms\n0,1,1,200\n1,1,1,\n"
    assert [request.ttft_budget_ms for request in read_trace(written(text)).requests] == [200.0, None]


HEADER = "arrival,prompt_tokens,output_tokens\n"
BROKEN = {
    "when,ContextTokens,GeneratedTokens\n0,1,1\n": (1, "arrival", "expected one of arrival, arrival_seconds"),
    "Timestamp,ContextTokens,GeneratedTokens\n0,x,1\n": (2, "ContextTokens", "is 'x'"),
    "": (None, "arrival", "is missing"),
    HEADER: (None, None, "holds no request"),
    "arrival,prompt_tokens\n0,1\n": (1, "output_tokens", "expected one of output_tokens, generated_tokens"),
    "arrival,prompt_tokens,input_tokens,output_tokens\n0,1,1,1\n": (1, None, "both say prompt_tokens"),
    HEADER + "0,1,1\n-0.5,1,1\n": (3, "arrival", "is '-0.5'"),
    HEADER + "nan,1,1\n": (2, "arrival", "is 'nan'"),
    HEADER + "1700000000000,1,1\n": (2, "arrival", "seconds"),
    HEADER + "2024-13-45 10:00:00,1,1\n": (2, "arrival", "a date and time such as"),
    HEADER + "0,1,1\n2024-01-01 10:00:00,1,1\n": (3, "arrival", "expected seconds, as on line 2"),
    HEADER + "0,0,1\n": (2, "prompt_tokens", "whole number from 1 to 1,000,000,000"),
    HEADER + "0,1e30,1\n": (2, "prompt_tokens", "is '1e30'"),
    HEADER + "0,1,1e300\n": (2, "output_tokens", "is '1e300'"),
    HEADER + "0,1,1.5\n": (2, "output_tokens", "is '1.5'"),
    HEADER + "0,1,\n": (2, "output_tokens", "is empty"),
    HEADER + "0,1\n": (2, "output_tokens", "is empty"),
    HEADER + "0,1,1,1\n": (2, None, "more cells than the header"),
    HEADER + '0,1,"1\n': (1, None, "is no CSV"),
    "id," + HEADER + "a,0,1,1\na,1,1,1\n": (3, "id", "stands on line 2 too"),
    "id," + HEADER + "a,0,1,1\n,1,1,1\n": (3, "id", "is empty"),
    "budget_ms," + HEADER + "0,0,1,1\n": (2, "budget_ms", "milliseconds above 0"),
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_trace_is_refused_with_line_and_column(written, text):
    line, column, words = BROKEN[text]
    path = written(text)
    with pytest.raises(RequestFileError) as caught:
        read_trace(path)
    assert words in str(caught.value) and str(path) in str(caught.value)
    if line is not None:
        assert caught.value.line == line
    assert caught.value.column == column


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[1]\n", 1),
        ('{"arrival": 0\n', 1),
        ('{"arrival":0,"prompt_tokens":1,"output_tokens":true}', 1),
        (
            '{"id":"a","time":0,"prompt_len":1,"output_len":1}\n\n{"time":0,"prompt_len":1,"output_len":1}',
            3,
        ),
    ],
)
def test_broken_json_lines_are_refused(written, text, line):
    with pytest.raises(RequestFileError) as caught:
        read_trace(written(text, "trace.jsonl"))
    assert caught.value.line == line


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path):
    path = tmp_path / "trace.csv"
    with pytest.raises(RequestFileError, match="cannot be read"):
        read_trace(path)
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(RequestFileError, match="UTF-8"):
        read_trace(path)


@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl"]))
def test_no_bytes_at_all_cause_another_error(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_bytes(content)
    with pytest.raises(RequestFileError):
        read_trace(path)


@given(st.text(alphabet='0123456789.-+eE:TZ ,"\n\r\0_naif', max_size=120))
def test_no_line_below_a_good_header_causes_another_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any_line.csv"
    path.write_text(HEADER + text, newline="")
    try:
        workload = read_trace(path)
    except RequestFileError:
        return
    assert all(request.arrival_seconds >= 0 for request in workload.requests)
