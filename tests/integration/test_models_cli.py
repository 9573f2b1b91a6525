"""`paceline models` as a program reads it: a row a family, with what it needs and was tested with."""

import json

from paceline.models.families.declared import FAMILIES
from paceline.models.families.listing import TESTED_TRANSFORMERS, TIER_RULES
from paceline.models.families.refused import REFUSED


def test_every_family_is_a_row(paceline):
    code, out, _ = paceline("models", "--json")
    rows = {row["family"]: row for row in json.loads(out)}
    assert code == 0 and set(rows) == set(FAMILIES) | set(REFUSED)
    for name, family in FAMILIES.items():
        row = rows[name]
        assert set(row["knobs"]) == {"tier", "top_k", "num_active_blocks"} and row["refused"] is None
        assert row["knobs"]["tier"] is family.has_tiers and row["knobs"]["num_active_blocks"] is True
        assert row["tier_rule"] in TIER_RULES and set(row["tested_with"]) <= set(TESTED_TRANSFORMERS)
        assert ("--trust-remote-code" in row["needs"]) is family.remote_code
        assert any("or newer" in each for each in row["needs"]) is (family.since is not None)
        assert TESTED_TRANSFORMERS[-1] in row["tested_with"]
        assert (TESTED_TRANSFORMERS[0] in row["tested_with"]) is (family.since is None)
    for name, reason in REFUSED.items():
        assert rows[name]["refused"] == reason and not any(rows[name]["knobs"].values())
