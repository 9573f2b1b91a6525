"""The certificate on a profile's page."""

from paceline.control import LookupTable, TableEntry, TableMetadata
from paceline.control.certificate import Certificate, CertifiedClaim
from paceline.fit import save_table
from paceline.records import KnobConfig
from paceline.report.certified import certificate_section

FULL, FASTER = (KnobConfig(tier="low", top_k=k, num_active_blocks=16) for k in (8, 4))


def test_a_store_with_a_certificate_shows_it_and_names_in_it_are_text(tmp_path):
    claim = CertifiedClaim(
        config=FASTER,
        verdict="certified",
        asked=300,
        broken=3,
        mended=2,
        mean_loss=1 / 300,
        bound_ms=25.5,
        requests=240,
        exceeded=1,
    )
    held = Certificate(
        epsilon=0.03,
        delta=0.1,
        rule="two_looks",
        latency_kind="prefill",
        full=FULL,
        claims=(claim,),
        choosing_questions=50,
        certifying_questions=400,
        mix={"<b>set</b>": 400},
        model="digits",
        seed=1,
        plan_sha256="ab" * 32,
    )
    entries = [
        TableEntry(
            config=config,
            accuracy=0.9,
            latency_ms=ms,
            num_samples=50,
            accuracy_std=0.3,
            latency_std_ms=0.0,
        )
        for config, ms in ((FULL, 20.0), (FASTER, 10.0))
    ]
    metadata = TableMetadata(
        aggregation_method="mean",
        tolerance=0.05,
        latency_kind="prefill",
        datasets=("digits_read",),
        num_profiling_results=100,
        certificate=held,
        chosen_on=50,
    )
    save_table(LookupTable(entries=entries, metadata=metadata), tmp_path / "table.json")
    section = certificate_section(tmp_path)
    assert "within 3 points of low_8_16 with probability 0.9: low_4_16 (95 of 100 requests within 25.5 ms)" in section
    assert "&lt;b&gt;set&lt;/b&gt;" in section and "<td>1 of 240</td>" in section


def test_a_profile_without_a_certificate_has_no_such_section(tmp_path):
    assert certificate_section(tmp_path) == ""
    assert certificate_section(tmp_path / "samples.parquet") == ""
