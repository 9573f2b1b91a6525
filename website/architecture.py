"""The picture and the tables of rooms and packages in docs/architecture.md, from the imports and the packages' own docstrings.

    python website/architecture.py

Writes docs/architecture.svg, the rows between the marks `<!-- rooms -->` and `<!-- end of rooms -->`, and those between the marks
of packages. Rooms are what stands directly in `paceline`; rows of the picture are the layers that pyproject.toml's first import
contract names. An arrow is an import that no longer way through other arrows stands for (the transitive reduction), so that the
picture can be read.
"""

import ast
import sys
import tomllib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import grimp
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "paceline"
PICTURE, PAGE = ROOT / "docs" / "architecture.svg", ROOT / "docs" / "architecture.md"
ROOMS, PACKAGES = "rooms", "packages"  # the marks of the two tables
ASIDE = {"online": -130, "offline": 130}  # a room alone in its layer stands with its half
BOX_WIDTH, BOX_HEIGHT, GAP, ROW_HEIGHT, LEFT, TOP = 112, 30, 16, 64, 20, 48
KINDS = {  # colour, and what it stands for
    "entry": ("#5b6472", "for people"),
    "host": ("#8a4fbf", "host: runs a model or an engine, or simulates one"),
    "online": ("#0b6e4f", "online: decides while requests wait, without torch"),
    "offline": ("#2a6fbb", "offline: measures, fits and judges"),
    "ground": ("#b5651d", "what both halves stand on"),
}
ROOMS_OF = {
    "entry": ("cli", "demo", "doctor", "report", "dashboard", "quick", "warm_up", "page", "monitoring", "remote"),
    "host": ("runtime", "simulate", "vllm_plugin", "lmms_plugin", "server", "tune"),
    "online": ("estimate", "control", "schedule", "serving", "wire", "request_vector"),
    "offline": ("measure", "analyze", "accuracy", "compare", "profiles", "datasets", "fit", "evaluate"),
    "ground": ("models", "certify", "slo", "records", "errors", "checkout", "json_document"),
}
KIND_OF = {room: kind for kind, rooms in ROOMS_OF.items() for room in rooms}
STANDS_ON = {  # module that is imported: (the package's name, what for), in the order of the table
    "torch": ("torch", "models"),
    "transformers": ("transformers", "models, their tokenizers and image processors"),
    "safetensors": ("safetensors", "what was learned, in a file that runs no code"),
    "huggingface_hub": ("huggingface_hub", "a checkpoint's files"),
    "jinja2": ("jinja2", "chat templates"),
    "PIL": ("pillow", "pictures"),
    "numpy": ("numpy", "arrays"),
    "scipy": ("scipy", "statistics"),
    "sklearn": ("scikit-learn", "what an estimator is compared with, and the embedded scans of digits"),
    "threadpoolctl": ("threadpoolctl", "how many threads a fit takes"),
    "polars": ("polars", "Parquet, and frames larger than memory"),
    "msgspec": ("msgspec", "typed JSON"),
    "pydantic": ("pydantic", "bodies of requests; records inside are plain and trusted"),
    "packaging": ("packaging", "which versions fit"),
    "typer": ("typer", "the command line"),
    "rich": ("rich", "what the command line prints"),
    "altair": ("altair", "charts"),
    "vl_convert": ("vl-convert-python", "charts without a network"),
    "numba": ("numba", "the fast simulator"),
    "datasets": ("datasets", "data sets of the hub"),
    "pyarrow": ("pyarrow", "rows of Parquet files"),
    "fsspec": ("fsspec", "files of the hub"),
    "fastapi": ("fastapi", "a server of one model"),
    "starlette": ("starlette", "what servers answer with"),
    "uvicorn": ("uvicorn", "a server of one model"),
    "h11": ("h11", "the reading of HTTP below it"),
    "opentelemetry": ("opentelemetry-sdk", "spans"),
    "vllm": ("vllm", "an engine"),
    "lmms_eval": ("lmms-eval", "tasks of others"),
}
COMES_WITH = {  # what pyproject.toml does not ask for, and who brings it
    "huggingface_hub": "transformers",
    "jinja2": "torch",
    "threadpoolctl": "scikit-learn",
    "pyarrow": "datasets",
    "fsspec": "datasets",
    "starlette": "fastapi",
    "h11": "uvicorn",
}
BY_ITS_USER = ("lmms-eval",)  # who has Paceline as its plugin

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
        shift = ASIDE.get(KIND_OF[row[0]], 0) if len(row) == 1 else 0
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
    colour = KINDS[KIND_OF[room]][0]
    way = f"M{x1:.0f},{y1:.0f} C{x1:.0f},{middle:.0f} {x2:.0f},{middle:.0f} {x2:.0f},{y2 - 5:.0f}"
    head = f"M{x2 - 4:.0f},{y2 - 7:.0f} L{x2:.0f},{y2:.0f} L{x2 + 4:.0f},{y2 - 7:.0f} Z"
    return (
        f'<path d="{way}" fill="none" stroke="{colour}" stroke-opacity="0.55" stroke-width="1.2"/>'
        f'<path d="{head}" fill="{colour}"/>'
    )


def _box(room: str, x: float, y: float) -> str:
    colour = KINDS[KIND_OF[room]][0]
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


def packages() -> dict[str, list[str]]:
    """Return the rooms that import each package from elsewhere at run time, by the module that is imported."""
    graph = grimp.build_graph(
        "paceline", include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )
    own = ("paceline", *sys.stdlib_module_names)
    return {
        each: sorted({name.split(".")[1] for name in graph.find_modules_that_directly_import(each)})
        for each in graph.modules
        if each.split(".")[0] not in own
    }


def package_rows(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the table of packages: name, what for, the rooms that import it, when it is installed.

    ValueError for a package that STANDS_ON says nothing of.
    """
    lines = ["| package | for | imported in | installed |", "|---|---|---|---|"]
    for module in sorted(found, key=[*STANDS_ON].index):
        name, purpose = STANDS_ON[module]
        lines.append(f"| {name} | {purpose} | {', '.join(f'`{room}`' for room in found[module])} | {_when(name)} |")
    return lines


def _when(name: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {"always": project["dependencies"]}
    asked |= {f"extra `{extra}`": lines for extra, lines in project["optional-dependencies"].items()}
    for when, lines in asked.items():
        if name in (Requirement(line).name for line in lines):
            return when
    return "by its user" if name in BY_ITS_USER else f"with {COMES_WITH[name]}"


def page(text: str, table: Sequence[str], mark: str) -> str:
    """Return the page with a table between its marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, rest = text.split(begin)
    return "\n".join([before + begin, "", *table, "", end + rest.split(end)[1]])


def main() -> None:
    """Write picture and page."""
    rows = layers()
    PICTURE.write_text(picture(rows, reduced(rooms())))
    PAGE.write_text(page(page(PAGE.read_text(), room_rows(rows), ROOMS), package_rows(packages()), PACKAGES))


if __name__ == "__main__":
    main()
