"""The page on architecture against the code: its picture, its table of rooms, and every name in its walks."""

import ast
import re
from importlib.metadata import requires
from pathlib import Path

import architecture
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "paceline"
PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))
PAGE = ROOT / "docs" / "architecture.md"
NAMED = sorted(set(re.findall(r"`(paceline\.[\w.]+)`", PAGE.read_text())))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_package_says_what_lives_there_and_what_must_not(package):
    text = ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
    assert text and text.split("\n")[0].strip(), f"{package.name} has no docstring"
    assert any(each.startswith("Not here: ") for each in text.split("\n\n")), (
        f"{package.name} names nothing it must not hold"
    )


def test_the_picture_and_the_table_of_rooms_are_current():
    rows = architecture.layers()
    drawn = architecture.picture(rows, architecture.reduced(architecture.rooms()))
    told = "out of date: python website/architecture.py draws it anew"
    assert architecture.PICTURE.read_text() == drawn, f"docs/architecture.svg is {told}"
    page = PAGE.read_text()
    assert page == architecture.page(page, architecture.room_rows(rows), "rooms"), f"docs/architecture.md is {told}"


def test_the_table_of_packages_is_that_of_the_imports():
    page, rows = PAGE.read_text(), architecture.package_rows(architecture.packages())
    told = "docs/architecture.md is out of date: python website/architecture.py draws it anew"
    assert page == architecture.page(page, rows, "packages"), told


def test_what_comes_with_another_package_is_asked_for_by_that():
    for name, parent in architecture.COMES_WITH.items():
        asked = {canonicalize_name(Requirement(line).name) for line in requires(parent)}
        assert canonicalize_name(name) in asked, f"{parent} does not bring {name}"


def test_every_room_has_one_kind_and_every_kind_its_rooms():
    named = [room for rooms in architecture.ROOMS_OF.values() for room in rooms]
    assert len(named) == len(set(named)) and set(architecture.ROOMS_OF) == set(architecture.KINDS)
    assert set(named) == {room for row in architecture.layers() for room in row}, (
        "a room of no kind, or a kind of no room"
    )


def test_the_online_rooms_and_what_both_halves_stand_on_import_no_offline_one():
    graph = architecture.rooms()
    for kind in ("online", "ground"):
        for room in architecture.ROOMS_OF[kind]:
            assert not graph.get(room, set()) & set(architecture.ROOMS_OF["offline"]), room


def test_arrows_point_down_and_leave_nothing_out():
    rows, graph = architecture.layers(), architecture.rooms()
    row_of = {room: number for number, row in enumerate(rows) for room in row}
    assert set(graph) | set().union(*graph.values()) <= set(row_of), "a room stands in no layer"
    arrows = architecture.reduced(graph)
    for room, imports in arrows.items():
        assert all(row_of[room] < row_of[each] for each in imports)

    def reached(room, edges):
        return set().union(*({each} | reached(each, edges) for each in edges.get(room, ())))

    assert all(reached(room, arrows) == reached(room, graph) for room in graph)


def names_in(body):
    """Return the definitions of a module's or class's body by name, assignments and imports included."""
    found = {}
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        for target in [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", ()):
            found[getattr(target, "id", "")] = node
    return found


@pytest.mark.parametrize("name", NAMED)
def test_a_name_in_the_walks_exists(name):
    words, place = name.split(".")[1:], PACKAGE
    while words and (place / words[0]).is_dir():
        place /= words.pop(0)
    module = place / f"{words.pop(0)}.py" if words and (place / f"{words[0]}.py").exists() else place / "__init__.py"
    body = ast.parse(module.read_text()).body
    for word in words:
        found = names_in(body)
        assert word in found, f"{name}: {module.relative_to(ROOT)} has no {word}"
        body = getattr(found[word], "body", [])


def test_the_walks_name_enough_to_follow():
    assert len(NAMED) > 30
