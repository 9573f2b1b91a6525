"""The picture and the table of rooms in docs/architecture.md, from the import graph and the packages' own docstrings.

    python website/architecture.py

Writes docs/architecture.svg, and the rows between the marks `<!-- rooms -->` and `<!-- end of rooms -->`. Rooms are what stands
directly in `paceline`; rows of the picture are the layers that pyproject.toml's first import contract names. An arrow is an
import that no longer way through other arrows stands for (the transitive reduction), so that the picture can be read.
"""

import ast
import tomllib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "paceline"
PICTURE, PAGE = ROOT / "docs" / "architecture.svg", ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->", "<!-- end of rooms -->"
ASIDE = {"online": -130, "offline": 130}  # a room alone in its layer stands with its half
BOX_WIDTH, BOX_HEIGHT, GAP, ROW_HEIGHT, LEFT, TOP = 112, 30, 16, 64, 20, 48
KINDS = {  # colour, and what it stands for
    "entry": ("#5b6472", "for people"),
    "host": ("#8a4fbf", "host: runs a model or an engine, or simulates one"),
    "online": ("#0b6e4f", "online: decides while requests wait, without torch"),
    "offline": ("#2a6fbb", "offline: measures, fits and judges"),
    "ground": ("#b5651d", "what all stand on"),
}
KIND_OF = {
    **dict.fromkeys(
        ("cli", "demo", "doctor", "report", "dashboard", "quick", "warm_up", "page", "monitoring"), "entry"
    ),
    **dict.fromkeys(("runtime", "simulate", "vllm_plugin", "lmms_plugin", "server", "tune"), "host"),
    **dict.fromkeys(("estimate", "control", "schedule", "serving", "wire", "certify", "request_vector"), "online"),
    **dict.fromkeys(("measure", "analyze", "accuracy", "profiles", "datasets", "fit", "evaluate", "models"), "offline"),
}

Graph = Mapping[str, set[str]]


def rooms() -> dict[str, set[str]]:
    """Return the rooms that each room imports, the package's own lazy names left out."""
    graph = grimp.build_graph("paceline", cache_dir=None)
    found: dict[str, set[str]] = {}
    for module in sorted(graph.modules):
        for imported in graph.find_modules_directly_imported_by(module):
            importer, room = (name.split(".")[1] if "." in name else "" for name in (module, imported))
            if importer and room and importer != room:
                found.setdefault(importer, set()).add(room)
    return found


def layers() -> list[list[str]]:
    """Return the rooms of every layer, the highest first, as the first import contract has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rows = next(each["layers"] for each in contracts if each["type"] == "layers")
    named = [[word.strip(" ()").removeprefix("paceline.") for word in row.split("|")] for row in rows]
    return [present for row in named if (present := [room for room in row if home_of(room).exists()])]


def home_of(room: str) -> Path:
    """Return the file whose docstring says what a room is for."""
    package = PACKAGE / room / "__init__.py"
    return package if package.exists() else PACKAGE / f"{room}.py"


def reduced(graph: Graph) -> dict[str, set[str]]:
    """Return the imports without those that a way through another import stands for."""
    reached: dict[str, set[str]] = {}

    def below(room: str) -> set[str]:
        if room not in reached:
            reached[room] = set[str]().union(*({each} | below(each) for each in graph.get(room, ())))
        return reached[room]

    return {
        room: {each for each in imports if not any(each in below(other) for other in imports - {each})}
        for room, imports in graph.items()
    }


def picture(rows: Sequence[Sequence[str]], arrows: Graph) -> str:
    """Return the picture as SVG: a row of boxes a layer, an arrow an import."""
    width = 2 * LEFT + max(len(row) for row in rows) * (BOX_WIDTH + GAP) - GAP + 120
    height = TOP + len(rows) * ROW_HEIGHT + 20 + 20 * len(KINDS)
    place: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        begin = (width - len(row) * (BOX_WIDTH + GAP) + GAP) / 2
        shift = ASIDE.get(KIND_OF.get(row[0], "ground"), 0) if len(row) == 1 else 0
        for column, room in enumerate(row):
            place[room] = (begin + shift + column * (BOX_WIDTH + GAP), TOP + number * ROW_HEIGHT)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        "<title>Which room imports which</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="14">Rooms of paceline, highest layer first; arrows are imports</text>',
    ]
    for room in place:
        parts += [_arrow(place[room], place[each], room) for each in sorted(arrows.get(room, ())) if each in place]
    parts += [_box(room, *each) for room, each in place.items()]
    for number, (colour, words) in enumerate(KINDS.values()):
        y = TOP + len(rows) * ROW_HEIGHT + 10 + 20 * number
        parts.append(f'<rect x="{LEFT}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 20}" y="{y + 10}">{escape(words)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _arrow(start: tuple[float, float], end: tuple[float, float], room: str) -> str:
    (x1, y1), (x2, y2) = start, end
    x1, x2, y1 = x1 + BOX_WIDTH / 2, x2 + BOX_WIDTH / 2, y1 + BOX_HEIGHT
    middle = (y1 + y2) / 2
    colour = KINDS[KIND_OF.get(room, "ground")][0]
    way = f"M{x1:.0f},{y1:.0f} C{x1:.0f},{middle:.0f} {x2:.0f},{middle:.0f} {x2:.0f},{y2 - 5:.0f}"
    head = f"M{x2 - 4:.0f},{y2 - 7:.0f} L{x2:.0f},{y2:.0f} L{x2 + 4:.0f},{y2 - 7:.0f} Z"
    return (
        f'<path d="{way}" fill="none" stroke="{colour}" stroke-opacity="0.55" stroke-width="1.2"/>'
        f'<path d="{head}" fill="{colour}"/>'
    )


def _box(room: str, x: float, y: float) -> str:
    colour = KINDS[KIND_OF.get(room, "ground")][0]
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" fill="white" stroke="{colour}" '
        f'stroke-width="2"/><text x="{x + BOX_WIDTH / 2:.0f}" y="{y + 20:.0f}" text-anchor="middle" fill="{colour}">'
        f"{escape(room)}</text>"
    )


def room_rows(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the table of rooms: name, what lives there, what must not."""
    lines = ["| room | lives there | must not |", "|---|---|---|"]
    for room in (room for row in rows for room in row):
        paragraphs = (ast.get_docstring(ast.parse(home_of(room).read_text())) or "").split("\n\n")
        forbidden = next((each for each in paragraphs if each.startswith("Not here: ")), "")
        cells = (f"`{room}`", paragraphs[0], forbidden.removeprefix("Not here: "))
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return lines


def page(text: str, table: Sequence[str]) -> str:
    """Return the page with the table of rooms between its marks."""
    before, rest = text.split(BEGIN)
    return "\n".join([before + BEGIN, "", *table, "", END + rest.split(END)[1]])


def main() -> None:
    """Write picture and page."""
    rows = layers()
    PICTURE.write_text(picture(rows, reduced(rooms())))
    PAGE.write_text(page(PAGE.read_text(), room_rows(rows)))


if __name__ == "__main__":
    main()
