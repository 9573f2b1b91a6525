"""Alert rules and dashboard before the real Prometheus: promtool's checks, and alerts of a server under load that come and go."""

import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from page_server import SyntheticServer, ask_over_http, served

from paceline.cli.main import run
from paceline.monitoring.files import DASHBOARD, RULES, monitoring_files
from paceline.records import KnobConfig
from paceline.wire.metrics import PromiseMetrics

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="no Prometheus on this machine; Debian: apt-get install --no-install-recommends prometheus",
)
SERVER = 'instance="a:8000", job="paceline"'
PATIENCE_SECONDS = 240


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / RULES
    path.write_bytes(monitoring_files()[RULES])
    return path


@needs_prometheus
def test_promtool_takes_the_rules(rules):
    done = subprocess.run(["promtool", "check", "rules", "--lint-fatal", rules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stdout


def series(name, values, labels=""):
    return {"series": f"{name}{{{SERVER}{labels}}}", "values": values}


def promises(outcome, values):
    return series("paceline:promises_total", values, f', alpha="0.05", outcome="{outcome}"')


def decisions(degraded, values):
    return series(
        "paceline:decisions_total", values, f', tier="low", top_k="2", blocks="8", degraded="{str(degraded).lower()}"'
    )


TARGET = series("paceline:coverage_target", "0.95x120")
COVERED, BESIDE = "paceline:coverage_ratio", "paceline:coverage_beside_ratio"
# name: (series, the alerts that fire after an hour)
SCENES = {
    "on target": ([TARGET, promises("kept", "0+19x120"), promises("missed", "0+1x120")], []),
    "an eighth missed": (
        [TARGET, promises("kept", "0+7x120"), promises("missed", "0+1x120")],
        ["PacelinePromisesBroken"],
    ),
    "all missed": ([TARGET, promises("kept", "0x120"), promises("missed", "0+1x120")], ["PacelinePromisesBroken"]),
    "one missed of two": ([TARGET, promises("kept", "0x40 1x80"), promises("missed", "0x40 1x80")], []),
    "none missed": ([TARGET, promises("kept", "0+9x120"), promises("missed", "0x120")], []),
    "bounds cover": ([TARGET, series(COVERED, "0.94x120"), series("paceline:coverage_requests", "1000x120")], []),
    "bounds fail": (
        [TARGET, series(COVERED, "0.90x120"), series("paceline:coverage_requests", "1000x120")],
        ["PacelineBoundsTooLow"],
    ),
    "bounds fail of few": ([TARGET, series(COVERED, "0.90x120"), series("paceline:coverage_requests", "20x120")], []),
    "none covered": (
        [TARGET, series(COVERED, "0x120"), series("paceline:coverage_requests", "60x120")],
        ["PacelineBoundsTooLow"],
    ),
    "bounds fail beside others": (
        [TARGET, series(BESIDE, "0.90x120"), series("paceline:coverage_beside_requests", "1000x120")],
        ["PacelineBoundsTooLowUnderLoad"],
    ),
    "bounds cover beside others": (
        [TARGET, series(BESIDE, "0.94x120"), series("paceline:coverage_beside_requests", "1000x120")],
        [],
    ),
    "none covered beside others": (
        [TARGET, series(BESIDE, "0x120"), series("paceline:coverage_beside_requests", "60x120")],
        ["PacelineBoundsTooLowUnderLoad"],
    ),
    "nobody beside others": ([TARGET, series("paceline:coverage_beside_requests", "0x120")], []),
    "not yet covered": ([TARGET, series("paceline:coverage_requests", "0x120")], []),
    "drifted": ([series("paceline:drift_factor", "1.2x50 2.0x70")], ["PacelineMachineSlower"]),
    "drift not known before": ([series("paceline:drift_factor", "_x50 2.0x70")], []),
    "degraded": ([decisions(True, "0+1x120"), decisions(False, "0+2x120")], ["PacelineNothingFits"]),
    "seldom degraded": ([decisions(True, "0+1x120"), decisions(False, "0+9x120")], []),
    "few degraded": ([decisions(True, "0 1x119"), decisions(False, "0x120")], []),
    "calibrates": (
        [
            series("paceline:calibration_requests", "12x120"),
            series("paceline:calibration_needed", "45x120"),
            decisions(False, "0+1x120"),
        ],
        ["PacelineNotCalibrated"],
    ),
    "queue": ([series("paceline:requests_unfinished", "65x120")], ["PacelineQueueGrows"]),
    "no queue": ([series("paceline:requests_unfinished", "64x120")], []),
    "idle": (
        [
            series("paceline:calibration_requests", "0x120"),
            series("paceline:calibration_needed", "45x120"),
            decisions(False, "0x120"),
        ],
        [],
    ),
}


@needs_prometheus
def test_each_alert_fires_where_it_should_and_nowhere_else(rules):
    names = re.findall(r"alert: (\w+)", rules.read_text())
    assert set(names) == {name for _, fired in SCENES.values() for name in fired}
    tests = [
        {
            "name": scene,
            "interval": "1m",
            "input_series": given,
            "promql_expr_test": [
                {
                    "expr": "count by (alertname) (ALERTS{alertstate='firing'})",
                    "eval_time": "1h",
                    "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in fired],
                }
            ],
        }
        for scene, (given, fired) in SCENES.items()
    ]
    document = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}
    path = rules.with_name("tests.yml")
    path.write_text(json.dumps(document))  # YAML too
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_chernoffs_bound_is_no_less_than_the_probability():
    """What the rule takes for evidence is never more than what the binomial distribution gives."""
    for count, alpha in ((3, 0.05), (20, 0.05), (100, 0.1), (500, 0.05)):
        for missed in range(1, count + 1):
            share = missed / count
            if share <= alpha:
                continue
            rest = max(1 - share, 1e-9)
            evidence = count * (share * math.log(share / alpha) + rest * math.log(rest / (1 - alpha)))
            exact = sum(math.comb(count, k) * alpha**k * (1 - alpha) ** (count - k) for k in range(missed, count + 1))
            assert exact <= math.exp(-evidence) * (1 + 1e-6)


def test_every_panel_asks_for_metrics_that_there_are():
    document = json.loads(monitoring_files()[DASHBOARD])
    metrics = PromiseMetrics(alpha=0.05)
    metrics.decisions[KnobConfig(tier="low", top_k=2, num_active_blocks=8), False] += 1
    page = metrics.text(calibration_requests=1, calibration_needed=45, drift_factor=1.0, unfinished=0)
    there = set(re.findall(r"^([\w:]+)[{ ]", page, flags=re.MULTILINE)) - {"#"}
    there |= set(re.findall(r"record: (\S+)", monitoring_files()[RULES].decode()))
    asked = {name for expr in expressions(document) for name in re.findall(r"(?:paceline|instance):[\w:]+", expr)}
    assert asked and asked <= there
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])


def expressions(document):
    return [target["expr"] for panel in document["panels"] for target in panel["targets"]]


UNITS = {"percentunit", "short", "s", "reqps"}  # of Grafana's own, as far as they are used
LONGEST_UID = 40
BUILT_IN = {"__rate_interval", "__range", "__interval"}


def strings(value):
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def test_the_dashboard_is_one_that_grafana_imports():
    """By hand what Grafana's schema does not say; that every field is in it is `make lint-deploy`'s."""
    document = json.loads(monitoring_files()[DASHBOARD])
    assert re.fullmatch(r"[\w-]+", document["uid"]) and len(document["uid"]) <= LONGEST_UID and document["title"]
    assert (
        "id" not in document and "__inputs" not in document
    )  # an id is of one Grafana; inputs would have to be filled in
    assert document["schemaVersion"] >= 36  # from there on a data source is an object of type and uid
    source, *others = document["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    assert all(each["type"] == "query" and each["datasource"] == chosen for each in others)
    known = {each["name"] for each in document["templating"]["list"]} | BUILT_IN | {"__all"}
    assert {name for text in strings(document) for name in re.findall(r"\$\{?(\w+)", text)} <= known
    cells = set()
    for panel in document["panels"]:
        assert panel["type"] in ("stat", "timeseries") and panel["title"] and panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS and panel["datasource"] == chosen
        names = [target["refId"] for target in panel["targets"]]
        assert names and len(set(names)) == len(names) and all(re.fullmatch("[A-Z]", name) for name in names)
        assert all(target["datasource"] == chosen for target in panel["targets"])
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert own and place["x"] + place["w"] <= 24 and not own & cells
        cells |= own
    for expr in expressions(document):  # each server by itself, and only those that were chosen
        selected = re.findall(r"(?:paceline|instance):[\w:]+(\{[^}]*\})?", expr)
        assert selected and all('job=~"$job"' in each and 'instance=~"$instance"' in each for each in selected)


def filled(expr, interval="5m"):
    return re.sub(r"\$__(rate_interval|range)", interval, expr.replace("$job", ".*").replace("$instance", ".*"))


@needs_prometheus
def test_promtool_reads_every_expression_of_the_dashboard(tmp_path):
    exprs = [filled(expr) for expr in expressions(json.loads(monitoring_files()[DASHBOARD]))]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(exprs)]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "panels.yml"], capture_output=True, text=True)
    assert done.returncode == 0 and f"SUCCESS: {len(exprs)} rules found" in done.stdout, done.stdout + done.stderr


@contextmanager
def prometheus(folder, targets):
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
        "rule_files": [str(folder / RULES)],
        "scrape_configs": [{"job_name": "paceline", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        *("prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
        *("--web.listen-address=127.0.0.1:0", "--log.level=info"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        address, is_ready, said = None, False, []
        for line in process.stderr:  # the two come in either order
            said.append(line)
            if found := re.search(r'msg="Listening on" address=(\S+)', line):
                address = found[1]
            is_ready = is_ready or "Server is ready" in line
            if address is not None and is_ready:
                break
        assert address is not None and is_ready, "".join(said)[-3000:]
        yield f"http://{address}"
    finally:
        process.terminate()
        process.stderr.read()
        process.stderr.close()
        process.wait(30)


def asked(address, path, **query):
    with urllib.request.urlopen(f"{address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)["data"]


def firing(address):
    return {
        (alert["labels"]["alertname"], alert["labels"]["instance"])
        for alert in asked(address, "alerts")["alerts"]
        if alert["state"] == "firing"
    }


def wait_for(holds, meanwhile=lambda: time.sleep(0.1)):
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end
        meanwhile()


def seldom(address):
    time.sleep(0.2)
    ask_over_http(address, 500, stream=True)


@needs_prometheus
def test_alerts_of_a_server_under_load_fire_and_fall_silent(tmp_path):
    assert run(["alerts", "--out", str(tmp_path), "--window", "4s", "--for", "250ms", "--baseline", "30s"]) == 0
    quick = {
        KnobConfig(tier=tier, top_k=2, num_active_blocks=8): (ms, accuracy)
        for tier, ms, accuracy in (("low", 40.0, 0.5), ("medium", 60.0, 0.6), ("high", 80.0, 0.7))
    }
    old, new = SyntheticServer(configs=quick, calibration=480), SyntheticServer(configs=quick, calibration=0)
    old.slowed = new.slowed = 0.02
    with served(old) as old_address, served(new) as new_address:
        old_target, new_target = (address.removeprefix("http://") for address in (old_address, new_address))
        with prometheus(tmp_path, [old_target, new_target]) as address:
            # a new server promises nothing until it has answered 45 requests
            uncalibrated = ("PacelineNotCalibrated", new_target)
            ask_over_http(new_address, 500, stream=True)
            wait_for(lambda: uncalibrated in firing(address), lambda: seldom(new_address))
            assert firing(address) == {uncalibrated}
            for _ in range(45):
                ask_over_http(new_address, 500, stream=True)
            wait_for(lambda: uncalibrated not in firing(address))
            # promises that were fair until now are missed once the engine takes three times as long
            for _ in range(3):
                ask_over_http(old_address, 60, stream=True)
            old.slowed = 3.0
            for name in ("PacelinePromisesBroken", "PacelineMachineSlower"):  # and then bounds follow
                told = (name, old_target)
                wait_for(lambda told=told: told in firing(address), lambda: ask_over_http(old_address, 60, stream=True))
            # budgets below every bound, many at once
            with ThreadPoolExecutor(8) as pool:
                wait_for(
                    lambda: ("PacelineNothingFits", old_target) in firing(address),
                    lambda: list(pool.map(lambda _: ask_over_http(old_address, 20, stream=True), range(24))),
                )
            for expr in expressions(json.loads((tmp_path / DASHBOARD).read_bytes())):
                assert asked(address, "query", query=filled(expr, "5s"))["result"], expr
            old.slowed = 0.02
            wait_for(lambda: not firing(address), lambda: ask_over_http(old_address, 500, stream=True))


def test_files_are_written_once_and_edits_are_kept(tmp_path, capsys):
    out = tmp_path / "watched"
    assert run(["alerts", "--out", str(out), "--json"]) == 0
    assert [name.rsplit("/", 1)[1] for name in json.loads(capsys.readouterr().out)["files"]] == [RULES, DASHBOARD]
    assert "[30m]" in (out / RULES).read_text() and "@" not in (out / RULES).read_text().replace("{{@", "")
    assert run(["alerts", "--out", str(out)]) == 0
    with (out / RULES).open("a") as edited:
        edited.write("# mine\n")
    assert run(["alerts", "--out", str(out)]) == 2
    assert "perhaps edited" in " ".join(capsys.readouterr().err.split())
    assert (out / RULES).read_text().endswith("# mine\n")
    assert run(["alerts", "--out", str(tmp_path / "other"), "--window", "soon"]) == 2
    assert "window is 'soon'; expected a duration" in " ".join(capsys.readouterr().err.split())
