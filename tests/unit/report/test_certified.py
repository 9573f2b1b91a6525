"""The certificate on a profile's page."""

from certified_tables import CONFIGS, certificate, certified_table, claim

from paceline.fit import save_table
from paceline.report.certified import certificate_section


def test_a_store_with_a_certificate_shows_it_and_names_in_it_are_text(tmp_path):
    held = certificate(claim(CONFIGS[1], "certified", bound_ms=25.5, requests=240), mix={"<b>set</b>": 400})
    save_table(certified_table(held), tmp_path / "table.json")
    section = certificate_section(tmp_path)
    assert "within 3 points of low_8_16 with probability 0.9: low_4_16 (95 of 100 requests within 25.5 ms)" in section
    assert "&lt;b&gt;set&lt;/b&gt;" in section and "<td>1 of 240</td>" in section


def test_a_profile_without_a_certificate_has_no_such_section(tmp_path):
    assert certificate_section(tmp_path) == ""
    assert certificate_section(tmp_path / "samples.parquet") == ""
