"""What the site is made of, without building it: pages, links, the recorded first screen, and what is generated."""

import posixpath
import re
from pathlib import Path

import commands
import hooks
import pytest
import python_names
import recipe_commands
import recorded
import yaml

import paceline

ROOT = Path(__file__).parents[2]

NAV = yaml.safe_load(re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text()))["nav"]
FROM_ELSEWHERE = {
    "benchmarks.md",
    "changelog.md",
    "contributing.md",
    "trend.md",
    "reference/commands.md",
    "reference/python.md",
}
PAGES = {
    str(path.relative_to(ROOT / "docs")): path
    for path in (ROOT / "docs").rglob("*.md")
    if "decisions" not in path.parts
}


def listed(nav):
    for each in nav:
        for target in each.values():
            if isinstance(target, str):
                yield target
            else:
                yield from listed(target)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    assert sorted(listed(NAV)) == sorted({*PAGES, *FROM_ELSEWHERE, "decisions/README.md"})  # each of them once


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_to_a_page_or_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)", PAGES[page].read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
        made = {*FROM_ELSEWHERE, "recipes.json", "llms.txt", "decisions/README.md"}
        assert path in made or (ROOT / "docs" / path).exists(), f"{page} leads to {target}"


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_a_path_in_a_text_exists(page):
    text = (PAGES.get(page) or ROOT / page).read_text()
    for path in re.findall(r"`((?:docs|benchmarks|deploy|recipes|src|tests|website|release)/[\w/.-]+\.\w+)`", text):
        assert (ROOT / path).exists(), f"{page} names {path}"


def test_pages_show_what_was_recorded():
    told = "out of date: python website/recorded.py draws it anew"
    drawn = recorded.picture(recorded.recorded("first_screen"))
    assert recorded.PICTURE.read_text() == drawn, f"docs/first_screen.svg is {told}"
    for path, mark, part in recorded.parts():
        assert path.read_text() == recorded.page(path.read_text(), mark, part), f"{path.name} is {told}"


def test_the_reference_has_every_command_with_its_flags():
    page = commands.page()
    names = [name for name, _ in commands.every_command()]
    assert len(names) > 20 and all(f"## `{name}`\n" in page for name in names)
    assert "| `--budget` | required |" in page and "`--json`" in page


def test_a_path_in_a_text_becomes_a_link_by_the_title_of_its_page():
    titles = hooks.titles_of(NAV)
    assert set(listed(NAV)) <= set(titles) and len({*titles.values()}) == len(titles)
    text = "See `docs/load.md`, `docs/decisions/005-bounds.md`, `README.md`, `docs/nowhere.md`.\n```\n`docs/load.md`\n```\n"
    said = hooks.linked(text, "tutorials/budget.md", titles)
    assert said.startswith("See [The promise under load](../load.md), [") and "](../decisions/005-bounds.md), [" in said
    assert "[Paceline](../index.md), `docs/nowhere.md`." in said and said.endswith("```\n`docs/load.md`\n```\n")


def test_no_page_is_left_without_a_heading_of_its_own():
    assert all(re.search(r"^# \S", path.read_text(), re.MULTILINE) for path in PAGES.values())


def test_every_public_name_is_written_out_for_readers_of_markdown():
    page = python_names.page({name: paceline._HOME[name] for name in paceline.__all__}, "# Python")
    parts = page.split("\n## ")[1:]
    assert [part.split("\n")[0] for part in parts] == [f"`paceline.{name}`" for name in paceline.__all__]
    assert all("```python\n" in part and ":::" not in part for part in parts)
    assert "def generate(" in page and "latency_budget_ms" in page


def test_pages_for_language_models_stand_under_their_own_sections():
    sections = {"": []}
    for line in hooks.listing(NAV, "said").split("\n"):
        if line.startswith("## "):
            sections[line[3:]] = []
        elif line.startswith("- "):
            sections[[*sections][-1]].append(re.search(r"\]\((.*)\)$", line)[1])
    for each in NAV:
        ((title, target),) = each.items()
        if not isinstance(target, str):
            assert sections[title] == [path for page in target for path in page.values()]
    assert sections["Recipes"] == ["recipes.md"]
    records = {f"decisions/{path.name}" for path in (ROOT / "docs/decisions").glob("[0-9]*.md")}
    assert records < {path for paths in sections.values() for path in paths}
    every = [path for paths in sections.values() for path in paths]
    assert sorted(every) == sorted([*listed(NAV), *records])  # each of them once


def test_readers_of_markdown_get_the_commands_of_every_recipe():
    page = hooks.as_markdown((ROOT / "docs/recipes.md").read_text(), "recipes.md")
    assert "<div" not in page and "<script" not in page and "## What a recipe holds" in page
    for recipe in recipe_commands.exported():
        (own,) = re.findall(rf"^### {re.escape(recipe['hub'])}\n(.*?)(?=^##)", page, re.DOTALL | re.MULTILINE)
        for each in recipe["hardware"]:
            shown = "\n".join(each["commands"])
            assert each["name"] in own and f"```\n{shown}\n```\n" in own
        rows = [] if recipe["measured"] is None else recipe["measured"]["rows"]
        assert all(f"| {row['budget_ms']:g} | {row['paceline']:.3f} |" in own for row in rows)
        assert ("Not measured." in own) == (not rows)


EVERY_COMMAND = dict(commands.every_command())
GUIDE = (ROOT / "docs" / "guide.md").read_text()


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_a_command_prints_json_or_stands_among_those_that_do_not(name):
    flags = {flag for each in EVERY_COMMAND[name].params for flag in each.opts}
    assert ("--json" in flags) != (name in commands.WITHOUT_JSON)


def test_both_pages_name_the_commands_without_json():
    assert set(commands.WITHOUT_JSON) <= set(EVERY_COMMAND)
    head = commands.page().split("## ", 1)[0]
    (sentence,) = re.findall(r"[^.]*have no `--json`\.", GUIDE)
    for name in commands.WITHOUT_JSON:
        assert f"`{name}`" in head and f"`{name}`" in sentence


def told_in_the_guide():
    """Yield the words of every command in the guide's table: `paceline table build \\| show` are two."""
    table = GUIDE.split("| command | does |", 1)[1].split("\n\n", 1)[0]
    for row in table.splitlines()[2:]:
        for code in re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\|", row)[1]):
            first, *others = code.removeprefix("paceline ").split(r" \| ")
            words = re.match(r"(?:[a-z][a-z-]*\b ?)+", first)[0].split()
            yield tuple(words)
            yield from ((*words[:-1], each.split()[0]) for each in others)


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_the_guides_table_has_every_command(name):
    words, told = tuple(name.split()[1:]), set(told_in_the_guide())
    assert any(words[: len(each)] == each for each in told), f"{name} is not in the table of docs/guide.md"


TERMS = (  # of README, index and guide
    *(
        "knob",
        "configuration",
        "setting",
        "grid",
        "tier",
        "image tokens",
        "MoE",
        "experts",
        "block",
        "family",
        "recipe",
    ),
    *("embedded model", "latency budget", "latency kind", "TTFT", "TPOT", "prefill", "decode", "P50", "P95", "P99"),
    *(
        "profile",
        "accuracy",
        "front",
        "sentinel",
        "drift",
        "interval",
        "controller",
        "lookup table",
        "estimator",
        "bound",
    ),
    *(
        "promise",
        "confidence",
        "calibration",
        "learned controller",
        "refused",
        "oracle",
        "step-time model",
        "policy",
        "fcfs",
    ),
    *("spf", "srtf", "aging", "edf", "capacity", "class", "price", "goodput", "trace", "chunk_size"),
)
OF_OTHER_PAGES = (
    *(
        "tail",
        "α",
        "degraded",
        "certificate",
        "adherence",
        "held-out part",
        "request vector",
        "core-exp layout",
        "synthetic",
    ),
)


def test_the_words_of_the_first_pages_are_in_the_glossary():
    rows = re.findall(r"^\| (.+?) \| .+ \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    known = {re.sub(r"`| \(.*?\)", "", term) for row in rows for term in row.split(", ")}
    assert [term for term in (*TERMS, *OF_OTHER_PAGES) if term not in known] == []
    read = " ".join((ROOT / page).read_text() for page in ("README.md", "docs/index.md", "docs/guide.md"))
    unused = [term for term in TERMS if re.search(rf"\b{re.escape(term)}", read, re.IGNORECASE) is None]
    assert unused == [], "no longer said there"


def test_no_term_stands_in_the_glossary_twice():
    rows = re.findall(r"^\| (.+?) \| .+ \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    terms = [term for row in rows if row != "term" for term in row.split(", ")]
    assert len(terms) == len({*terms}) > 60
