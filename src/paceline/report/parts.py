"""What every page of this package is made of: its frame, its script, its figures, its tables, where its numbers come from."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from paceline.errors import InvalidValueError, MissingExtraError
from paceline.profiles import Profile
from paceline.profiles.atomic import write_atomically
from paceline.records import Provenance

try:
    import vl_convert
except ModuleNotFoundError as missing:
    raise MissingExtraError("vl-convert-python", "report") from missing

ASSETS = Path(__file__).parent / "assets"
LARGEST_PAGE_BYTES = 1_500_000
VEGA_SNIPPET = "window.vegaEmbed = vegaEmbed;"
STILL_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # nothing is loaded from elsewhere
CHART_POLICY = f"{STILL_POLICY}; script-src 'unsafe-inline' 'unsafe-eval'; img-src data:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What stands over a page; all but `summary`, which is HTML, are words that may hold anything.

    `skip_to` is the id of what the keyboard's first link leads to, `skip_words` what it is called.
    """

    kind: str
    heading: str
    summary: str
    about: str = ""
    skip_to: str = "content"
    skip_words: str = "the charts"

    @property
    def title(self) -> str:
        """Its name in the browser."""
        return f"{self.heading}: {self.about}" if self.about else self.heading


def filled(asset: str, cells: Mapping[str, str]) -> str:
    """Return a file of the assets with HTML in its cells."""
    return Template((ASSETS / asset).read_text(encoding="utf-8")).substitute(cells)


def framed(head: Head, content: str, scripts: str = "") -> str:
    """Return a whole page around its content; `scripts` are those of `chart_scripts`, a page without them runs none."""
    return filled(
        "frame.html",
        {
            "policy": CHART_POLICY if scripts else STILL_POLICY,
            "title": escape(head.title),
            "style": (ASSETS / "page.css").read_text(encoding="utf-8"),
            "skip_to": head.skip_to,
            "skip_words": escape(head.skip_words),
            "brand": escape(head.kind),
            "heading": escape(head.heading),
            "summary": head.summary,
            "content": content.rstrip("\n"),
            "scripts": scripts,
        },
    )


def chart_scripts(figures: Mapping[str, Any], *more: str) -> str:
    """Return what draws a page's charts: its figures, Vega, the script of all pages, and `more` files of the assets."""
    script = "".join((ASSETS / name).read_text(encoding="utf-8") for name in ("charts.js", *more))
    return filled("scripts.html", {"figures": embedded_json(figures), "vega": vega_script(), "script": script}).rstrip()


def write_page(out: Path, page: str) -> int:
    """Write a page and return its size in bytes; raises OutputPathError, and InvalidValueError for one too large."""
    content = page.encode()
    if len(content) > LARGEST_PAGE_BYTES:
        raise InvalidValueError(
            "report",
            f"{len(content):,} bytes",
            f"at most {LARGEST_PAGE_BYTES:,}: choose fewer datasets or configurations",
        )
    write_atomically(out, content)
    return len(content)


@cache
def vega_script() -> str:
    """Return the script that draws the charts; making it takes seconds, and gives the same text every time."""
    return vl_convert.javascript_bundle(VEGA_SNIPPET)


def embedded_json(document: Mapping[str, Any]) -> str:
    """Return JSON for a script element; a "</script>" inside a name must not end the element that carries it."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def title_of(profile: Profile) -> str:
    """Return the models of a profile, or its own name where it does not tell them."""
    models = list(dict.fromkeys(run.model for run in profile.provenance))
    return " and ".join(models) or profile.source.name


def facts_list(profile: Profile, facts: Mapping[str, str]) -> str:
    """Return the head of a page: names and values, and a mark on data that were generated."""
    return plain_facts(facts, mark="Synthetic data: generated, not measured" if _is_synthetic(profile) else None)


def plain_facts(facts: Mapping[str, str], *, mark: str | None = None) -> str:
    """Return names and values, with a mark over them on what must not be taken for measured."""
    badge = "" if mark is None else f'<p class="synthetic">{escape(mark)}</p>'
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'{badge}<dl class="facts">{pairs}</dl>'


def numbers_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that opens on a click, and by itself in print."""
    return f"<details><summary>Show the numbers</summary>{table(columns, rows)}</details>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table that scrolls sideways where the page is too narrow for it."""
    head = "".join(f"<th scope='col'>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll' tabindex='0'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def provenance_list(profile: Profile) -> str:
    """Return every profiling run behind a page, field by field."""
    source = f"<p>Read from <b>{escape(profile.source.name)}</b>.</p>"
    if not profile.provenance:
        return source + "<p>These files carry no provenance: model, device and versions are not known.</p>"
    return source + "".join(_run(run) for run in profile.provenance)


def _is_synthetic(profile: Profile) -> bool:
    told = [profile.source.name]
    for run in profile.provenance:
        told += [run.model, run.device, *run.datasets, *run.datasets.values(), *map(str, run.settings.values())]
    return any("synthetic" in text.lower() for text in told)


def _run(run: Provenance) -> str:
    grid = f"tiers {run.grid.tiers}, top_k {run.grid.top_ks}, blocks {run.grid.block_counts}"
    facts = {
        "model": f"{run.model} (revision {run.revision})" if run.revision else run.model,
        "engine": run.engine,
        "device": f"{run.device}, {run.dtype}" + (f", driver {run.driver}" if run.driver else ""),
        "clock": run.clock,
        "created": run.created,
        "datasets": ", ".join(f"{name} ({scorer})" for name, scorer in run.datasets.items()),
        "grid": grid,
        "block ranking": ", ".join(map(str, run.block_ranking)),
        "seed": str(run.seed),
        "commit": run.commit or "not known",
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "settings": ", ".join(f"{name} = {value}" for name, value in run.settings.items()),
    }
    return origin_list(facts)


def origin_list(facts: Mapping[str, str]) -> str:
    """Return where something comes from, name by name."""
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f'<dl class="origin">{pairs}</dl>'
