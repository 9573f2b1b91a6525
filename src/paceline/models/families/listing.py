"""The families as rows and as a page: what is declared, and nothing else."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from paceline.models.families.choosing import needed_version
from paceline.models.families.declared import FAMILIES
from paceline.models.families.family import Family
from paceline.models.families.refused import REFUSED
from paceline.records import TIERS

# the oldest, the one of vLLM's environment and of constraints.txt, and the newest: make test-transformers-oldest, make test and
# make test-transformers-newest
TESTED_TRANSFORMERS = ("5.16.0", "5.19.0", "5.24.0")

EXPERTS = "where the checkpoint has experts"
TIER_RULES = {
    "area": "The picture is scaled to an area in pixels.",
    "area × frames": "As area, where the processor counts the area once for each frame that a still is repeated to.",
    "edge": "The picture keeps its shape and its longest edge is shortened; a marker ends each row of tokens.",
    "tile count": "The picture is cut into tiles of one size, and the whole picture is shown beside them.",
    "crop tiling": "The picture is cut into overlapping crops, as many of a tier as fit its shape best; the overlap is left out.",
    "pinpoints": "The picture is scaled until the processor and the model pick a smaller one of their resolutions.",
    "enumerated": "The processor has a few settings only.",
    "fixed": "Every picture has the same number of image tokens: there is no tier.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """One family as the table shows it; `caps` are image tokens by tier, None where a tier moves nothing.

    `needs` is what a user has to install or allow, `tested_with` the versions of transformers it was tested under.
    """

    family: str
    knobs: tuple[str, ...]
    tier_rule: str
    argument: str | None
    caps: dict[str, int] | None
    limits: str
    needs: tuple[str, ...]
    tested_with: tuple[str, ...]


def family_rows() -> list[FamilyRow]:
    """Return every supported family, by name."""
    return [_row(name, family) for name, family in sorted(FAMILIES.items())]


def models_document() -> list[dict[str, Any]]:
    """Return every family, those that cannot work here with the reason under `refused`, as `paceline models` prints them."""
    supported = [{**asdict(row), "knobs": _knobs(row.knobs), "refused": None} for row in family_rows()]
    nothing: dict[str, Any] = {each.name: None for each in fields(FamilyRow)}
    refused = [
        {**nothing, "family": name, "knobs": _knobs(()), "needs": [], "tested_with": [], "refused": reason}
        for name, reason in refused_rows()
    ]
    return supported + refused


def _knobs(names: tuple[str, ...]) -> dict[str, bool | str]:
    found: dict[str, bool | str] = {name: name in names for name in ("tier", "top_k", "num_active_blocks")}
    return {**found, "top_k": EXPERTS if "top_k" in names else False}


def refused_rows() -> list[tuple[str, str]]:
    """Return every family that cannot work here with the reason, by name."""
    return sorted(REFUSED.items())


def models_page() -> str:
    """Return docs/models.md: the page is written by `paceline models --markdown`."""
    lines = [
        "# Models",
        "",
        f"{len(FAMILIES)} families of vision-language models, each tested as a tiny random model (`tests/families`) under "
        f"transformers {', '.join(TESTED_TRANSFORMERS[:-1])} and {TESTED_TRANSFORMERS[-1]}. A family is an entry in "
        "`paceline/models/families/declared.py`; this page is made from it by `paceline models --markdown`.",
        "",
        "Every family has the knob `num_active_blocks`. `top_k` is there where the checkpoint has experts, `tier` where the "
        "tokens of a picture can be moved. Caps are the tokens that a picture brings into the prompt at most, the family's own "
        "markers included; a `paceline.json` beside the model with `tier_token_caps` sets others.",
        "",
        "## How a tier acts",
        "",
        *(f"- **{kind}**: {sentence}" for kind, sentence in TIER_RULES.items()),
        "",
        "## Families",
        "",
        "| family | tier rule | what it moves | caps (low, medium, high) | limits |",
        "|---|---|---|---|---|",
        *(_markdown(row) for row in family_rows()),
        "",
        "## Larger than one device, and quantised",
        "",
        "`--device-map` of `profile`, `run` and `verify` (`device_map` of `load_model` and "
        "`AdaptiveModel.from_pretrained`) spreads a model over devices with accelerate. Tested on the embedded model, "
        "with blocks, embeddings and the encoder on a CPU and its disk: knobs, restoration, caches, marks, and the three "
        "commands. Untested: several GPUs, where every mark waits for all of them, and the other families; a profile "
        "names the first device alone. Quantised checkpoints (bitsandbytes, GPTQ, AWQ, FP8) are loaded by what "
        "transformers has for them, and one whose package is missing is refused before its weights are read; none of them "
        "has been run.",
        "",
        "## Refused, with the reason",
        "",
        *(f"- `{name}`: {reason}." for name, reason in refused_rows()),
        "",
    ]
    return "\n".join(lines)


def _row(name: str, family: Family) -> FamilyRow:
    has_tiers = family.has_tiers
    version = f"transformers {needed_version(family)} or newer" if family.since else ""
    return FamilyRow(
        family=name,
        knobs=(*(("tier",) if has_tiers else ()), "top_k", "num_active_blocks"),
        tier_rule=family.tiers.kind,
        argument=family.tiers.argument,
        caps={tier: family.caps[tier] for tier in TIERS} if has_tiers else None,
        limits="; ".join(filter(None, (version, family.limits))),
        needs=tuple(filter(None, (version, "--trust-remote-code" if family.remote_code else ""))),
        tested_with=tuple(
            each for each in TESTED_TRANSFORMERS if family.since is None or _number(each) >= family.since
        ),
    )


def _number(version: str) -> tuple[int, int]:
    major, minor, *_ = map(int, version.split("."))
    return major, minor


def _markdown(row: FamilyRow) -> str:
    caps = "" if row.caps is None else ", ".join(f"{tokens:,}" for tokens in row.caps.values())
    moved = "" if row.argument is None else f"`{row.argument}`"
    return f"| `{row.family}` | {row.tier_rule} | {moved} | {caps} | {row.limits} |"
