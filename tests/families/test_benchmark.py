"""The benchmark of families, on two of them: what a row holds, and the table made from rows."""

import json
import math

import families
import pytest
from families import KNOBS, measured, table, tiny_families


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    names = ("llava", "qwen3_vl_moe")
    return {name: measured(model, 6) for name, model in tiny_families(names, tmp_path_factory.mktemp("tiny"))}


def test_a_knob_has_a_share_where_the_family_has_the_knob(rows):
    assert rows["llava"]["tier"] is None and rows["llava"]["top_k"] is None
    blocks = rows["llava"]["num_active_blocks"]
    assert blocks["n"] == 6 and blocks["ci"][0] <= blocks["median"] <= blocks["ci"][1] < 1  # its sign is the machine's
    assert all(rows["qwen3_vl_moe"][knob]["n"] == 6 for knob in KNOBS)
    assert all(0 <= row["closure"] < 0.1 and math.isfinite(row["hooks"]["median"]) for row in rows.values())


def test_the_table_is_made_from_the_file(rows, tmp_path, monkeypatch, capsys):
    path = tmp_path / "families.json"
    path.write_text(json.dumps({"families": rows}))
    monkeypatch.setattr(families, "RESULTS", path)
    monkeypatch.setattr("sys.argv", ["families.py", "--table"])
    families.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(rows) and printed[2].startswith("| llava | – | – | ")
    assert "\n".join(printed) == table(json.loads(path.read_text()))
