"""`paceline.json` beside a model's weights: what its maker knows of its knobs, checked before the weights are read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from paceline.errors import InvalidValueError, ModelError
from paceline.json_document import parsed_json
from paceline.records import TIERS, block_ranking

SETTINGS_FILE = "paceline.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Image tokens at most by tier, decoder blocks least important first, and the values to profile; None where unsaid."""

    tier_token_caps: dict[str, int] | None = None
    block_ranking: tuple[int, ...] | None = None
    default_top_ks: tuple[int, ...] | None = None
    default_block_counts: tuple[int, ...] | None = None


def read_model_settings(folder: Path) -> ModelSettings:
    """Return a model folder's settings, empty ones without a file; raises ModelError naming the file and field."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return ModelSettings()
    try:
        document = parsed_json(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise InvalidValueError("the document", document, "a JSON object")
        fields = cast("dict[str, Any]", document)
        read: dict[str, Any] = {name: parse(fields[name]) for name, parse in FIELDS.items() if name in fields}
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    except ValueError as error:
        raise ModelError(f"{path}: {error}; mend the field, or delete the file to do without it") from error
    return ModelSettings(**read)


def _caps(value: object) -> dict[str, int]:
    caps: dict[str, Any] = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    counts: list[Any] = [caps.get(tier) for tier in TIERS]
    if (
        set(caps) != set(TIERS)
        or not all(type(each) is int and each >= 1 for each in counts)
        or counts != sorted(counts)
    ):
        expected = f"one whole number of at least 1 for each of {', '.join(TIERS)}, none below the one before"
        raise InvalidValueError("tier_token_caps", value, expected)
    return {tier: caps[tier] for tier in TIERS}


def _counts(name: str) -> Callable[[object], tuple[int, ...]]:
    def parse(value: object) -> tuple[int, ...]:
        counts = cast("list[Any]", value) if isinstance(value, list) else []
        if not counts or not all(type(each) is int and each >= 1 for each in counts) or len(set(counts)) < len(counts):
            raise InvalidValueError(name, value, "a list of whole numbers of at least 1, none twice")
        return tuple(counts)

    return parse


FIELDS: dict[str, Callable[[object], object]] = {
    "tier_token_caps": _caps,
    "block_ranking": block_ranking,
    "default_top_ks": _counts("default_top_ks"),
    "default_block_counts": _counts("default_block_counts"),
}
