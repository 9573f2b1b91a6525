"""What is shipped and what it brings along: a software bill of materials (CycloneDX 1.6) and a report of licences.

    python release/inventory.py [--out dist] [--extras data report]

Reads the installed packages that the requirements of pyproject.toml lead to, those of every extra for users unless some are
named, in this environment and for this machine; what is asked for and not installed here is named as such. No network. The same
environment gives the same bytes: the time is `SOURCE_DATE_EPOCH`, or the last commit's.
"""

import argparse
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).parent))
from twice_built import ROOT, last_commit_seconds

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = ("dev", "docs")
EXTRAS = tuple(extra for extra in PROJECT["optional-dependencies"] if extra not in FOR_DEVELOPERS)
INSTALLED_APART = {  # why a package may be none of this environment's
    "vllm": "vLLM is installed by its user, in an environment of its own, and is under Apache-2.0 by its own declaration",
}
UNKNOWN = "not declared"
# what the wheel holds that is not our own text, and what a page that it writes holds
SHIPPED = (
    ("paceline", "the package's own code and documentation", "Apache-2.0"),
    (
        "paceline/models/digits/model.safetensors",
        "weights of the embedded model, trained by training/train_digits.py on UCI's Optical Recognition of Handwritten Digits "
        "(data set 80), which ships with scikit-learn; the scans themselves are not in the wheel",
        "Apache-2.0 (data: the terms of UCI's data set 80)",
    ),
    (
        "pages of `paceline report`",
        "hold Vega, Vega-Lite and Vega-Embed, which vl-convert-python brings and the wheel does not",
        "BSD-3-Clause",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One package that is installed along: `extras` of ours that ask for it, none where it always comes."""

    name: str
    version: str
    licence: str
    extras: tuple[str, ...]
    requires: tuple[str, ...]

    @property
    def url(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


def licence_of(found: Distribution) -> str:
    """Return what a package declares: its SPDX expression, else its licence field or its classifiers."""
    metadata = found.metadata
    if expression := metadata.get_all("License-Expression"):
        return expression[0]
    classified = [
        each.split(" :: ")[-1] for each in metadata.get_all("Classifier") or [] if each.startswith("License :: OSI")
    ]
    written = " ".join(metadata.get_all("License") or []).strip()
    short = written if written and "\n" not in written and len(written) < 60 else ""
    return short or " and ".join(classified) or _first_line(found) or UNKNOWN


def _first_line(found: Distribution) -> str:
    """Return the first line of a package's licence file, for one that declares nothing else."""
    for path in found.files or []:
        if re.match(r"(?i)licen[cs]e", path.name):
            lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
            return lines[0] if lines else ""
    return ""


def required_by(found: Distribution, extras: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return what a package asks for here, with the extras asked of each: by canonical name."""
    return _asked(found.requires or [], extras)


def required_by_us(extras: Iterable[str], project: Mapping[str, Any] = PROJECT) -> dict[str, tuple[str, ...]]:
    """Return what pyproject.toml asks for, with `extras`, and the extras asked of each: by canonical name."""
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return _asked(lines, ())


def _asked(lines: Iterable[str], extras: Iterable[str]) -> dict[str, tuple[str, ...]]:
    asked: dict[str, tuple[str, ...]] = {}
    for line in lines:
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            name = canonicalize_name(one.name)
            asked[name] = tuple(sorted({*asked.get(name, ()), *one.extras}))
    return asked


def closure(required: Mapping[str, tuple[str, ...]]) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Return every installed package that `required` leads to, with what each asks for, and the names of those not installed."""
    found: dict[str, tuple[str, ...]] = {}
    absent: set[str] = set()
    open_ones = list(required.items())
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while open_ones:
        one = open_ones.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            asked = required_by(distribution(one[0]), one[1])
        except PackageNotFoundError:
            absent.add(one[0])
            continue
        found[one[0]] = tuple(sorted({*found.get(one[0], ()), *asked}))
        open_ones += asked.items()
    return found, absent


def not_installed(extras: Sequence[str] = EXTRAS) -> dict[str, tuple[str, ...]]:
    """Return what is asked for and not installed here, with the extras that ask for it: none where it is always needed."""
    always = closure(required_by_us(()))[1]
    by_extra = {extra: closure(required_by_us((extra,)))[1] for extra in extras}
    return {
        name: () if name in always else tuple(extra for extra in extras if name in by_extra[extra])
        for name in sorted(always.union(*by_extra.values()))
    }


def components(extras: Sequence[str] = EXTRAS) -> list[Component]:
    """Return everything that installing paceline with `extras` brings along, by name, of what is installed here."""
    always = closure(required_by_us(()))[0]
    by_extra = {extra: closure(required_by_us((extra,)))[0] for extra in extras}
    every = always | {name: asked for each in by_extra.values() for name, asked in each.items()}
    made: list[Component] = []
    for name in sorted(every):
        found = distribution(name)
        asking = () if name in always else tuple(extra for extra in extras if name in by_extra[extra])
        made.append(
            Component(
                name=name,
                version=found.version,
                licence=licence_of(found),
                extras=asking,
                requires=tuple(each for each in every[name] if each in every),
            )
        )
    return made


def bill_of_materials(
    found: Sequence[Component], absent: Mapping[str, tuple[str, ...]], *, version: str, epoch_seconds: int
) -> dict[str, Any]:
    """Return the CycloneDX 1.6 document of the package and its components; `absent` makes it say that it is incomplete."""
    own = f"pkg:pypi/paceline@{version}"
    url_of = {each.name: each.url for each in found}
    direct = sorted({*required_by_us(EXTRAS)} & set(url_of))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="seconds"),
            "component": {
                "type": "library",
                "bom-ref": own,
                "name": "paceline",
                "version": version,
                "purl": own,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
            "properties": [{"name": "paceline:not-installed", "value": name} for name in absent],
        },
        "compositions": [{"aggregate": "incomplete" if absent else "complete", "dependencies": [own]}],
        "components": [
            {
                "type": "library",
                "bom-ref": each.url,
                "name": each.name,
                "version": each.version,
                "purl": each.url,
                "scope": "optional" if each.extras else "required",
                "licenses": [{"license": {"name": each.licence}}],
            }
            for each in found
        ],
        "dependencies": [
            {"ref": own, "dependsOn": [url_of[name] for name in direct]},
            *({"ref": each.url, "dependsOn": [url_of[name] for name in each.requires]} for each in found),
        ],
    }


def licence_report(found: Sequence[Component], absent: Mapping[str, tuple[str, ...]]) -> str:
    """Return the report of licences as Markdown, with `absent`, of which it knows no licence."""
    lines = ["# Licences of what is shipped", "", "## In the wheel, and in what it writes", ""]
    lines += ["| what | whose, and from where | licence |", "|---|---|---|"]
    lines += [f"| {name} | {words} | {licence} |" for name, words, licence in SHIPPED]
    lines += [
        "",
        "## Installed along",
        "",
        "| package | version | licence, as it declares it | asked for by |",
        "|---|---|---|---|",
    ]
    lines += [f"| {each.name} | {each.version} | {each.licence} | {_asking(each.extras)} |" for each in found]
    if absent:
        lines += ["", "## Asked for, and not installed where this report was made", ""]
        lines += ["What they and what they bring along are licensed under is not told here.", ""]
        lines += ["| package | asked for by | |", "|---|---|---|"]
        lines += [
            f"| {name} | {_asking(extras)} | {INSTALLED_APART.get(name, '')} |" for name, extras in absent.items()
        ]
    return "\n".join(lines) + "\n"


def _asking(extras: Sequence[str]) -> str:
    return ", ".join(f"`[{extra}]`" for extra in extras) or "always"


def main() -> None:
    """Write both documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--extras", nargs="*", default=list(EXTRAS), choices=EXTRAS, metavar="EXTRA")
    asked = parser.parse_args()
    found, absent = components(asked.extras), not_installed(asked.extras)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or last_commit_seconds())
    version = PROJECT["version"]
    asked.out.mkdir(parents=True, exist_ok=True)
    bill = bill_of_materials(found, absent, version=version, epoch_seconds=epoch)
    (asked.out / "sbom.cdx.json").write_text(json.dumps(bill, indent=1) + "\n")
    (asked.out / "LICENCES.md").write_text(licence_report(found, absent))
    undeclared = [each.name for each in found if each.licence == UNKNOWN]
    print(
        f"{len(found)} packages; without a declared licence: {', '.join(undeclared) or 'none'}; "
        f"not installed here: {', '.join(absent) or 'none'}"
    )


if __name__ == "__main__":
    main()
