import json
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import trend
import trend_page
from hypothesis import given
from hypothesis import strategies as st
from trend import Accepted, History, Version, Watched, judge
from watched import EACH, WATCHED, at, entry, flags_of, way_of

ROOT = Path(__file__).parents[2]


def watched(better="higher", worst_ratio=0.9, **others):
    return Watched(
        name="x", results="x", place=("a",), words="a figure", better=better, worst_ratio=worst_ratio, **others
    )


def versions(*values, way=()):
    return [Version(commit=f"c{place}", date="2026-01-01", value=value, way=way) for place, value in enumerate(values)]


def history(each, found, accepted=()):
    return History(watched=each, versions=tuple(found), accepted=tuple(accepted), verdict=judge(each, found, accepted))


@pytest.mark.parametrize(
    ("better", "limit", "values", "passes"),
    [
        ("higher", 0.98, (0.90, 0.91), True),
        ("higher", 0.98, (0.90, 0.89), True),
        ("higher", 0.98, (0.90, 0.85), False),
        ("higher", 0.98, (0.90, 0.885, 0.872), False),  # each step is let pass, both are not
        ("higher", 0.98, (0.90, 0.5, 0.895), True),
        ("lower", 1.25, (2.0, 2.4), True),
        ("lower", 1.25, (2.0, 2.6), False),
        ("lower", 1.25, (2.0, 2.4, 2.8), False),
        ("lower", 1.25, (2.0, 1.0), True),
        ("higher", 0.9, (0.1, -0.1), False),
    ],
)
def test_the_newest_is_compared_with_the_best(better, limit, values, passes):
    verdict = judge(watched(better, limit), versions(*values))
    assert verdict.passes == passes and verdict.ratio is not None
    assert f"c{len(values) - 1}" in verdict.said and f"{values[-1]:.4g}" in verdict.said


@given(
    st.lists(st.floats(0.1, 10), min_size=2, max_size=12), st.sampled_from(["higher", "lower"]), st.floats(0.01, 0.5)
)
def test_whatever_way_it_went_a_figure_beyond_the_limit_fails_and_no_other(values, better, room):
    best = max(values[:-1]) if better == "higher" else min(values[:-1])
    limit = 1 - room if better == "higher" else 1 + room
    worse = values[-1] / best < limit if better == "higher" else values[-1] / best > limit
    assert judge(watched(better, limit), versions(*values)).passes == (not worse)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=8), st.floats(0.001, 0.099))
def test_no_drift_passes_however_slow(values, step):
    drift = [max(values)]
    while drift[-1] >= 0.9 * drift[0]:
        drift.append(drift[-1] * (1 - step))
    assert not judge(watched(), versions(*values, *drift)).passes


def test_what_was_measured_in_another_way_is_not_compared_and_said():
    found = versions(1.0, way=("--questions 10",)) + versions(0.5, way=("--questions 20",))
    verdict = judge(watched(), found)
    assert verdict.passes and verdict.ratio is None and verdict.said == "one measurement in this way"
    assert judge(watched(), []).said == "not measured yet"
    assert judge(watched(), versions(1.0)).said == "one measurement so far"
    assert judge(watched(), versions(0.0, 1.0)).ratio is None
    back = judge(watched(), [*found, *versions(0.8, way=("--questions 10",))])
    assert not back.passes and back.best == found[0]


def test_an_accepted_change_begins_anew_and_what_falls_after_it_fails():
    meant = Accepted(figure="x", before=1.0, after=0.5, commit="abc", reason="another rule")
    found = versions(1.0, 0.5)
    assert not judge(watched(), found).passes
    assert judge(watched(), found, [meant]).passes
    assert "since a change was accepted" in judge(watched(), found, [meant]).said
    assert judge(watched(), versions(1.0, 0.5, 0.5001), [meant]).best.value == 0.5
    assert not judge(watched(), versions(1.0, 0.5, 0.4), [meant]).passes
    assert not judge(watched(), versions(0.7, 0.5), [meant]).passes  # from another value: not this change
    assert trend.unused([history(watched(), versions(0.7, 0.5), [meant])])
    assert not trend.unused([history(watched(), found, [meant])])


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([{"figure": "under_load_gain", "from": 1, "to": 2, "commit": "a"}], "reason"),
        ([{"figure": "under_load_gain", "from": 1, "to": 2, "commit": "a", "reason": " "}], "filled in"),
        ([{"figure": "nothing", "from": 1, "to": 2, "commit": "a", "reason": "b"}], "named nothing"),
    ],
)
def test_an_accepted_change_has_a_reason_and_a_figure(tmp_path, entries, told):
    (tmp_path / "accepted.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=told):
        trend.read_accepted(tmp_path / "accepted.json")
    assert trend.read_accepted(tmp_path / "none.json") == ()


# A repository of its own, whose results are those of the load benchmark with one figure each.


def results(gain, command, requests=600):
    return {
        "command": command,
        "requests": requests,
        "t0_seconds": 0.28,
        "rate_at_100_percent": 1.7,
        "assumed": {"base_ms": 11.4},
        "loads": [{"share": 1.0, "seeds": 20, "gain_over_best_fixed": {"mean": gain}}],
    }


def committed(root, *documents):
    path = root / "benchmarks" / "results" / "under_load.json"
    path.parent.mkdir(parents=True)
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    for place, document in enumerate(documents):
        path.write_text(json.dumps(document))
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", str(place)], check=True)
    return root


def checked(root, capsys):
    with pytest.raises(SystemExit) as left:
        trend.main(["--check"], root)
    said = capsys.readouterr()
    return left.value.code, said.out, said.err


CALL = "python benchmarks/under_load.py --trace /data/conv.csv"


def test_the_gate_fails_on_a_fall_whatever_flags_that_change_nothing(tmp_path, capsys):
    others = f"{CALL} --workers 6 --parts loads --cells new --results ul_new.json"
    code, out, err = checked(committed(tmp_path, results(0.099, CALL), results(0.083, others)), capsys)
    assert code == 1 and "0.083" in err and "0.099" in err and "1 of" in out


def test_the_gate_fails_on_a_slow_drift(tmp_path, capsys):
    fall = [results(0.1 * 0.96**place, f"{CALL} --workers {place}") for place in range(4)]
    assert checked(committed(tmp_path, *fall), capsys)[0] == 1


def test_the_gate_passes_and_says_so_where_another_thing_was_measured(tmp_path, capsys):
    code, out, err = checked(committed(tmp_path, results(0.099, CALL), results(0.05, CALL, requests=60)), capsys)
    assert code == 0 and not err
    assert "trend: 0 of" in out and "not compared: under_load_gain: one measurement in this way" in out


def test_results_that_are_not_committed_yet_are_judged(tmp_path, capsys):
    root = committed(tmp_path, results(0.099, CALL))
    (root / "benchmarks" / "results" / "under_load.json").write_text(json.dumps(results(0.05, CALL)))
    code, _, err = checked(root, capsys)
    assert code == 1 and "not committed" in err


def test_a_shallow_clone_is_said_and_breaks_nothing(tmp_path, capsys):
    whole = committed(tmp_path / "whole", results(0.099, CALL), results(0.05, CALL))
    assert trend.why_short(whole) is None
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{whole}", tmp_path / "shallow"], check=True)
    code, out, err = checked(tmp_path / "shallow", capsys)
    assert code == 0 and not err and "a shallow clone of 1 commits" in out and "one measurement so far" in out
    assert "Not all of it is here" in trend_page.page([], trend.why_short(tmp_path / "shallow"))


def test_without_a_repository_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code, out, _ = checked(tmp_path, capsys)
    assert code == 0 and "no git repository here" in out


def test_an_accepted_change_in_a_repository_opens_the_gate(tmp_path, capsys):
    root = committed(tmp_path, results(0.099, CALL), results(0.083, CALL))
    meant = {"figure": "under_load_gain", "from": 0.099, "to": 0.083, "commit": "a1b2c3d", "reason": "another rule"}
    (root / "benchmarks" / "accepted.json").write_text(json.dumps([meant]))
    assert checked(root, capsys)[0] == 0
    trend.main(["--out", str(tmp_path / "out")], root)
    assert "Accepted: from 0.099 to 0.083 by `a1b2c3d`. another rule" in (tmp_path / "out" / "trend.md").read_text()
    assert (tmp_path / "out" / "trend" / "under_load_gain.svg").exists()
    (root / "benchmarks" / "accepted.json").write_text(json.dumps([meant | {"from": 0.2}]))
    code, _, err = checked(root, capsys)
    assert code == 1 and "which no versions" in err


def test_the_fall_under_load_in_this_history_is_compared_and_would_have_failed():
    if trend.why_short():
        pytest.skip(f"needs the whole history: {trend.why_short()}")
    each = next(each for each in WATCHED if each.name == "under_load_gain")
    found = trend.versions_of(each)
    values = [round(version.value, 3) for version in found]
    fall = values.index(0.083) + 1
    assert values[0] == 0.099 and len({version.way for version in found[:fall]}) == 1
    verdict = judge(each, found[:fall])
    assert not verdict.passes and verdict.ratio == pytest.approx(0.838, abs=1e-3)


def test_a_number_is_found_at_its_place_and_nothing_else_is_one():
    assert at({"a": [{"b": 2}]}, ("a", 0, "b")) == 2.0
    loads = {"loads": [{"share": 0.5, "gain": 1}, {"share": 1.0, "gain": 2}]}
    assert at(loads, ("loads", entry(share=1.0), "gain")) == 2.0
    assert at(loads, ("loads", EACH, "gain")) == 1.5
    assert at({"a": {"x": 1, "y": 4}}, ("a", EACH)) == 2.5
    with pytest.raises(KeyError, match=r"share 3\.0"):
        at(loads, ("loads", entry(share=3.0), "gain"))
    for place in (("a",), ("a", 0)):
        with pytest.raises(TypeError):
            at({"a": [{"b": 2}]}, place)
    with pytest.raises(TypeError):
        at({"a": True}, ("a",))
    with pytest.raises(KeyError):
        at({"a": []}, ("a", EACH))


def test_a_way_is_the_settings_that_matter():
    command = "python x.py store --busy 0 2 --trace=/data/conv.csv --workers 6"
    assert flags_of(command) == {"--busy": "0 2", "--trace": "conv.csv", "--workers": "6"}
    each = watched(same=("--trace", "--questions", ("requests",)))
    assert way_of(each, {"command": command, "requests": 3}) == ("--trace conv.csv", "--questions None", "requests 3")
    assert way_of(each, {}) == ("--trace None", "--questions None", "requests None")


def test_the_page_has_a_row_and_a_chart_a_version_and_says_what_was_accepted():
    meant = Accepted(figure="x", before=1.0, after=0.5, commit="abc", reason="Another rule.")
    found = [*versions(3.0, way=("--few",)), *versions(1.0, 0.5, 0.6)[0:]]
    found = [
        Version(commit=each.commit, date=each.date, value=each.value, way=each.way or ("--many",)) for each in found
    ]
    one = history(watched(), found, [meant])
    text = trend_page.page([one])
    assert "| `c0` | 2026-01-01 | 3 | measured in another way: `--few` |" in text
    assert "before a change that is accepted" in text and "the best before" in text
    assert "Accepted: from 1 to 0.5 by `abc`. Another rule." in text
    assert "| A figure | 0.6 | 0.5 | 1.200 | ≥ 0.9 |  |" in text
    dots = [each for each in ElementTree.fromstring(trend_page.chart(one)).iter() if each.tag.endswith("circle")]
    assert [each.get("fill") != "white" for each in dots] == [False, False, True, True]
    assert "Not measured yet." in trend_page.page([history(watched(), [])])
    assert "**worse than is let pass**" in trend_page.page([history(watched(), versions(1.0, 0.5))])
    assert set(trend_page.pages([one, history(watched(), versions(1.0))])) == {"trend.md", "trend/x.svg"}


def test_every_watched_figure_stands_in_its_results():
    names = [each.name for each in WATCHED]
    assert len(set(names)) == len(names) > 20
    for each in WATCHED:
        document = json.loads((ROOT / "benchmarks" / "results" / f"{each.results}.json").read_text())
        assert trend.value_of(each, document) > 0, each.name
        assert not [said for said in way_of(each, document) if said.endswith(" None")], each.name
