"""What `mkdocs build` does beside turning docs/ into pages: the pages made from elsewhere, links, and pages for language models.

Pages from elsewhere: the reference of commands (the command line itself), of the Python names (`paceline.__all__`), the
benchmarks, the trend of their figures with its charts, the changelog and how to contribute. A path such as `docs/load.md` in
a text becomes a link by that page's title. Every page is beside its HTML as .md, and llms.txt lists them.
"""

import json
import posixpath
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / each) for each in ("website", "src")]
import commands  # noqa: E402
import python_names  # noqa: E402
import recipe_commands  # noqa: E402
import trend  # noqa: E402
import trend_page  # noqa: E402

ELSEWHERE = {  # page: the file it is made from
    "benchmarks.md": "benchmarks/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
DECISIONS, PYTHON = "decisions/README.md", "reference/python.md"
PYTHON_HEAD = "# Python\n\nEverything here is imported from `paceline` itself; names load when they are first used.\n\n"
NAMED = re.compile(r"`(?P<path>docs/[\w/.-]+\.md|benchmarks/README\.md|CONTRIBUTING\.md|CHANGELOG\.md|README\.md)`")
NOT_RUN = re.compile(r"<!-- not run: .*? -->\n")
PAGE_OF = {source: page for page, source in ELSEWHERE.items()} | {"README.md": "index.md"}
WRITTEN: dict[str, str] = {}  # Markdown by page, as it was turned into HTML


def python_page() -> str:
    """Return the page of public names, in the order of `paceline.__all__`, each with its own docstring."""
    return PYTHON_HEAD + "".join(f"::: {home}.{name}\n\n" for name, home in homes().items())


def homes() -> dict[str, str]:
    """Return the module of every public name."""
    import paceline

    return {name: paceline._HOME[name] for name in paceline.__all__}  # pyright: ignore[reportPrivateUsage]


def decisions() -> list[str]:
    """Return a line with a link for every decision, by number."""
    paths = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    return [f"- [{path.read_text().split(chr(10), 1)[0].lstrip('# ')}]({path.name})" for path in paths]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from elsewhere, and the recipes as JSON."""
    made = {page: (ROOT / source).read_text() for page, source in ELSEWHERE.items()}
    made["reference/commands.md"] = commands.page()
    made[PYTHON] = python_page()
    made |= trend_page.pages(trend.histories(), trend.why_short())
    made["llms.txt"] = listing(config["nav"], config["site_description"])
    made["recipes.json"] = json.dumps(recipe_commands.exported(), indent=1)
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def titles_of(nav: Any) -> dict[str, str]:
    """Return the title of every page of the navigation, and of every decision."""
    flat = [pair for each in nav for pair in each.items()]
    pages = [pair for name, part in flat for pair in (part if isinstance(part, list) else [{name: part}])]
    titles = {target: name for each in pages for name, target in each.items()}
    for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"):
        titles[f"decisions/{path.name}"] = path.read_text().split("\n", 1)[0].lstrip("# ")
    return titles


def linked(text: str, page: str, titles: Mapping[str, str]) -> str:
    """Return a page's text in which the path of another page in backticks is a link to it, by its title."""

    def link(found: re.Match[str]) -> str:
        target = PAGE_OF.get(found["path"], found["path"].removeprefix("docs/"))
        if target not in titles or target == page:
            return found[0]
        return f"[{titles[target]}]({posixpath.relpath(target, posixpath.dirname(page) or '.')})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if index % 2 else NAMED.sub(link, part) for index, part in enumerate(parts))


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Turn paths of pages into links, and leave out what is said to the tests alone."""
    text = linked(NOT_RUN.sub("", markdown), page.file.src_uri, titles_of(config["nav"]))
    if page.file.src_uri == DECISIONS:
        text += "\n" + "\n".join(decisions()) + "\n"
    WRITTEN[page.file.src_uri] = as_markdown(text, page.file.src_uri)
    return recipe_commands.inlined(text)


def as_markdown(text: str, page: str) -> str:
    """Return what a reader of Markdown gets of a page: where its HTML is made by a plugin or a script, what that would show."""
    return python_names.page(homes(), PYTHON_HEAD) if page == PYTHON else recipe_commands.written(text)


def on_post_build(config: Any) -> None:
    """Write every page as Markdown beside its HTML."""
    site = Path(config["site_dir"])
    for path, text in WRITTEN.items():
        place = site / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def listing(nav: Any, said: str) -> str:
    """Return llms.txt: what this is, and every page by its title, those of the navigation and then the decisions."""
    lines = ["# Paceline", "", f"> {said}", ""]
    in_section = False
    for each in nav:
        ((title, target),) = each.items()
        if isinstance(target, str):
            lines += (
                ["", f"## {title}", ""] if in_section else []
            )  # a line of its own would belong to the section before
            lines.append(f"- [{title}]({target})")
            continue
        in_section = True
        lines += ["", f"## {title}", ""]
        lines += [f"- [{name}]({path})" for page in target for name, path in page.items()]
    lines += ["", "## Decisions, one a page", "", *(line.replace("](", "](decisions/") for line in decisions())]
    return "\n".join(lines) + "\n"
