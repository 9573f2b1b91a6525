"""The public Python names as plain Markdown: signatures and docstrings as the sources have them, nothing imported.

The HTML page is mkdocstrings'; this one stands beside it for readers of Markdown.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src"
LONGEST = 80  # letters of arguments that stand in one line
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def page(home_of: Mapping[str, str], head: str) -> str:
    """Return the page of names, each with the module that defines it."""
    return (
        "\n\n".join([head.strip(), *(part for name, home in home_of.items() for part in parts_of(name, home))]) + "\n"
    )


def parts_of(name: str, home: str) -> Iterator[str]:
    """Yield heading, code and docstring of a name, then those of a class's own public members."""
    found = definition(name, home)
    yield f"## `paceline.{name}`"
    if not isinstance(found, Definition):
        yield block(ast.unparse(found))
        return
    yield block("\n".join([signature(found), *fields(found)]))
    yield from docstring(found)
    for each in found.body if isinstance(found, ast.ClassDef) else ():
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not each.name.startswith("_"):
            yield f"### `{name}.{each.name}`"
            yield block(signature(each))
            yield from docstring(each)


def definition(name: str, home: str) -> Definition | ast.stmt:
    """Return the statement that defines a name, in its module or where that took it from."""
    module = SOURCES / home.replace(".", "/")
    tree = ast.parse((module / "__init__.py" if module.is_dir() else module.with_suffix(".py")).read_text())
    for each in tree.body:
        if isinstance(each, Definition) and each.name == name:
            return each
        if isinstance(each, ast.ImportFrom) and each.module and any(alias.name == name for alias in each.names):
            return definition(name, each.module)
        if name in _assigned(each):
            return each
    raise LookupError(f"{home} defines no {name}")


def _assigned(statement: ast.stmt) -> set[str]:
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {each.id for each in targets if isinstance(each, ast.Name)}


def signature(found: Definition) -> str:
    """Return a definition's first line, a line for each argument where there are many."""
    if isinstance(found, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, found.bases))
        return f"class {found.name}({bases})" if bases else f"class {found.name}"
    keyword = "async def" if isinstance(found, ast.AsyncFunctionDef) else "def"
    arguments = ast.unparse(found.args)
    if len(arguments) > LONGEST:
        arguments = "\n    " + ",\n    ".join(_parted(arguments)) + ",\n"
    answer = f" -> {ast.unparse(found.returns)}" if found.returns else ""
    decorated = "".join(f"@{ast.unparse(each)}\n" for each in found.decorator_list)
    return f"{decorated}{keyword} {found.name}({arguments}){answer}"


def _parted(arguments: str) -> list[str]:
    """Return the arguments of a list, parted at the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in arguments:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def fields(found: Definition) -> list[str]:
    """Return the fields of a record, as they are declared."""
    if not isinstance(found, ast.ClassDef):
        return []
    declared = (each for each in found.body if isinstance(each, ast.AnnAssign))
    return [f"    {ast.unparse(each)}" for each in declared if not ast.unparse(each).startswith("_")]


def docstring(found: Definition) -> Iterator[str]:
    """Yield a definition's docstring, where it has one."""
    text = ast.get_docstring(found)
    if text:
        yield text


def block(code: str) -> str:
    """Return code as a block."""
    return f"```python\n{code}\n```"
