import re

from paceline.records import KnobConfig
from paceline.wire.metrics import PromiseMetrics

LINE = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (NaN|[-+0-9.e]+)')


def test_the_page_is_prometheus_text_with_the_names_of_the_contract():
    metrics = PromiseMetrics(alpha=0.05)
    metrics.promises["kept"] += 3
    metrics.decisions[KnobConfig(tier="low", top_k=4, num_active_blocks=None), True] += 2
    metrics.covered.extend([True, False])
    for seconds in (0.004, 0.005, 100.0):
        metrics.measured_ttft.observe(seconds)
    page = metrics.text(calibration_requests=7, calibration_needed=45, drift_factor=None, unfinished=1)
    for line in page.splitlines():
        assert line.startswith("# ") or LINE.fullmatch(line), line
    assert 'paceline:promises_total{alpha="0.05",outcome="kept"} 3' in page
    assert 'paceline:promises_total{alpha="0.05",outcome="refused"} 0' in page
    assert "paceline:coverage_ratio 0.5" in page and "paceline:coverage_target 0.95" in page
    assert "paceline:coverage_requests 2" in page and "paceline:calibration_needed 45" in page
    assert "paceline:calibration_requests 7" in page and "paceline:drift_factor NaN" in page
    assert 'paceline:decisions_total{tier="low",top_k="4",blocks="None",degraded="true"} 2' in page
    assert 'paceline:ttft_measured_seconds_bucket{le="0.005"} 2' in page
    assert 'paceline:ttft_measured_seconds_bucket{le="60"} 2' in page
    assert 'paceline:ttft_measured_seconds_bucket{le="+Inf"} 3' in page
    assert page.endswith("\n")
