"""The page that sets two profiles side by side: what became slower, or less accurate, from one to the other."""

from html import escape
from pathlib import Path

from paceline.compare import ConfigChange, ProfileComparison, compare_profiles
from paceline.profiles import CONFIGURATION, Profile, read_profile
from paceline.records import LatencyKind
from paceline.report.charts import change_chart
from paceline.report.parts import (
    Head,
    chart_scripts,
    facts_list,
    filled,
    framed,
    provenance_list,
    table,
    title_of,
    write_page,
)

READ_COLUMNS = (
    "dataset",
    "sample_id",
    *CONFIGURATION,
    "accuracy",
    "T_vision_total",
    "T_LLM_prefill",
    "T_total",
    "T_ttft",
    "metadata",
)
COLUMNS = ("configuration", "questions", "latency", "interval", "", "accuracy, points", "interval", "")


def write_comparison(
    after: Path | str, before: Path | str, out: Path | str, *, latency_kind: LatencyKind = "prefill"
) -> tuple[ProfileComparison, int]:
    """Write the page that compares a profile with an earlier one; returns what was found, and the page's size in bytes.

    Raises OutputPathError, and InvalidValueError where the two have no questions in common.
    """
    new, old = (read_profile(Path(each), columns=READ_COLUMNS) for each in (after, before))
    found = compare_profiles(new, old, latency_kind=latency_kind)
    return found, write_page(Path(out), comparison_page(found, new, old))


def comparison_page(found: ProfileComparison, after: Profile, before: Profile) -> str:
    """Return the page's HTML; nothing in it is loaded from elsewhere."""
    count = len(found.changes)
    charts = {
        "latency": change_chart("ratio", "latency, after over before", middle=1.0, worse="above", num_configs=count),
        "accuracy": change_chart("accuracy", "accuracy change, points", middle=0.0, worse="below", num_configs=count),
    }
    cells = {
        "latency_note": escape(_latency_note(found)),
        "accuracy_note": escape(_accuracy_note(found)),
        "numbers": table(COLUMNS, [_number_row(each) for each in found.changes]),
        "after": provenance_list(after),
        "before": provenance_list(before),
    }
    summary = facts_list(after, _facts(found))
    head = Head(kind="Paceline comparison", heading=title_of(after), about="before and after", summary=summary)
    scripts = chart_scripts({"rows": comparison_rows(found), "charts": charts})
    return framed(head, filled("comparison.html", cells), scripts)


def comparison_rows(found: ProfileComparison) -> list[dict[str, str | float | int]]:
    """Return a row a configuration, as the charts read it."""
    return [
        {
            "key": each.config.key,
            "order": order,
            "n": each.pairs,
            "ratio": each.ratio,
            "ratio_low": each.ratio_interval.low,
            "ratio_high": each.ratio_interval.high,
            "accuracy": 100 * each.accuracy,
            "accuracy_low": 100 * each.accuracy_interval.low,
            "accuracy_high": 100 * each.accuracy_interval.high,
        }
        for order, each in enumerate(found.changes)
    ]


def _facts(found: ProfileComparison) -> dict[str, str]:
    return {
        "latency kind": found.latency_kind,
        "answers in both": f"{found.pairs:,}",
        "in one alone": f"{found.left_out:,}",
        "all together": f"{100 * (found.all_ratio - 1):+.1f} %",
        "slower": f"{len(found.slower)} of {len(found.changes)}",
        "less accurate": f"{len(found.less_accurate)} of {len(found.changes)}",
    }


def _latency_note(found: ProfileComparison) -> str:
    return (
        "Geometric mean of latency after over before, on the same questions under the same configuration; above 1 is slower. "
        "The intervals hold together: with probability 0.95 all on this page are right. Over all configurations it is "
        f"{100 * (found.all_ratio - 1):+.1f} %. Where all changed alike, the machine is as likely a cause as the upgrade."
    )


def _accuracy_note(found: ProfileComparison) -> str:
    return f"Mean difference in accuracy, after less before, in hundredths, over {found.pairs:,} pairs of answers."


def _number_row(each: ConfigChange) -> tuple[str, ...]:
    low, high = each.ratio_interval.low, each.ratio_interval.high
    points = each.accuracy_interval
    return (
        each.config.key,
        f"{each.pairs:,}",
        f"{100 * (each.ratio - 1):+.1f} %",
        f"{100 * (low - 1):+.1f} to {100 * (high - 1):+.1f}",
        "slower" if each.slower else "faster" if each.faster else "",
        f"{100 * each.accuracy:+.2f}",
        f"{100 * points.low:+.2f} to {100 * points.high:+.2f}",
        "less accurate" if each.less_accurate else "",
    )
