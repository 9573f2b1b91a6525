"""Which family a configuration is of, or in one sentence why none."""

import re
from typing import Any

import transformers

from paceline.errors import ModelError
from paceline.models.families.declared import FAMILIES
from paceline.models.families.family import Family
from paceline.models.families.refused import REFUSED

IMAGE_TOKEN_NAMES = ("image_token_id", "image_token_index", "image_patch_id", "media_placeholder_token_id")


def family_of(config: Any, name: str) -> Family:
    """Return the family of a model's configuration; `name` is what the sentence calls the model.

    Raises ModelError for a model that only reads text, one whose family cannot work here (with the reason), one that needs a
    newer transformers, and one of a family that is not supported yet.
    """
    kind = family_name(config)
    if kind in FAMILIES and not (hasattr(config, "vision_config") and config.vision_config is None):
        family = FAMILIES[kind]
        if not is_in_reach(family):
            raise ModelError(
                f"{name} is of the family {kind!r}, which works with transformers {needed_version(family)} or newer, and this "
                f"is {transformers.__version__}: install a newer one"
            )
        return family
    if kind in REFUSED:
        raise ModelError(f"{name} is of the family {kind!r}, which cannot be steered here: {REFUSED[kind]}")
    known = ", ".join(sorted(FAMILIES))
    if getattr(config, "vision_config", None) is None:
        raise ModelError(
            f"{name} ({config.model_type}) has no vision tower (its config has no vision_config); expected a vision-language "
            f"model of one of the families {known}"
        )
    raise ModelError(
        f"{name} is of the family {kind!r}, which is not supported yet; expected one of {known} (a family is one entry in "
        "paceline/models/families/declared.py)"
    )


def is_in_reach(family: Family) -> bool:
    """Return whether the transformers that is installed is new enough for a family."""
    installed = tuple(int(number) for number in re.findall(r"\d+", transformers.__version__)[:2])
    return family.since is None or installed >= family.since


def needed_version(family: Family) -> str:
    """Return the first version of transformers that a family works with, in words; nothing where every one does."""
    return "" if family.since is None else ".".join(map(str, family.since))


def family_name(config: Any) -> str:
    """Return the name a family is declared under: the configuration's `model_type`, or the vision tower's where that decides.

    Pixtral's checkpoints say `llava`, and their pictures keep their shape.
    """
    vision_type = getattr(getattr(config, "vision_config", None), "model_type", None)
    return "pixtral" if config.model_type == "llava" and vision_type == "pixtral" else str(config.model_type)


def image_token_id(config: Any) -> int:
    """Return the id of the token that an image feature takes the place of; ModelError where the configuration has none."""
    found = [value for name in IMAGE_TOKEN_NAMES if type(value := getattr(config, name, None)) is int]
    if not found:
        raise ModelError(
            f"the configuration of {config.model_type!r} names no image token; expected one of {', '.join(IMAGE_TOKEN_NAMES)}"
        )
    return found[0]
