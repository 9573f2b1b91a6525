import json

import pytest

from paceline.errors import RequestFileError
from paceline.report.load_effects import load_section

MEASURED = {
    "in_flight": 4, "full_ms": 40.0, "low_ms": 30.0, "saved": 0.25, "saved_interval": {"low": 0.2, "high": 0.3}, "reason": None,
}  # fmt: skip
REFUSED = {
    "in_flight": 8, "full_ms": None, "low_ms": None, "saved": None, "saved_interval": None, "reason": "<b>no batch</b>",
}  # fmt: skip


def written(tmp_path, document):
    path = tmp_path / "verify.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_a_load_profile_is_a_section_with_its_figures(tmp_path):
    section = load_section(written(tmp_path, {"model": "digits", "under_load": {"top_k": [MEASURED, REFUSED]}}))
    assert "Measured on digits" in section and "25.0%" in section and "20.0% to 30.0%" in section
    assert "&lt;b&gt;no batch" in section and "<b>no batch" not in section


def test_without_one_there_is_no_section():
    assert load_section(None) == ""


@pytest.mark.parametrize(
    "document", ["{", "[]", {"model": "x"}, {"under_load": {}}, {"under_load": {"tier": [{"in_flight": 1}]}}]
)
def test_another_file_is_refused_with_what_writes_one(tmp_path, document):
    with pytest.raises(RequestFileError, match="paceline verify MODEL --under-load --out FILE"):
        load_section(written(tmp_path, document))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RequestFileError, match="cannot be read"):
        load_section(tmp_path / "none.json")
