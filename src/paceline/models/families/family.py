"""A family's declaration: how a tier acts, how its tokens stand in the prompt, and what else is its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image

from paceline.errors import PictureError
from paceline.models.families.joining import Several, joined
from paceline.models.families.layouts import bare
from paceline.models.families.plans import Capped, Cost, ImagePlan, Layout, TierRule, Vision

TIER_TOKEN_CAPS = {"low": 576, "medium": 1296, "high": 2304}  # SPEC: 4, 9 and 16 crops of 144 tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What one family of models does differently.

    `placeholder` is what its chat template writes for a picture, None where that is the image token itself. `prompt` writes
    the whole prompt of a family that has no chat template: (tokenizer, the placeholders' text, the question). `caps` are the
    tiers of a model that ships with none of its own. `types` says what `token_type_ids` mark: the image tokens (1), those and
    the markers around them, or all that was generated. `several` says what is its own where a request has several pictures.
    `since` is the first version of transformers that it works with, where the oldest that Paceline takes is too old.
    `places` names the tensor that says which of its image tokens, from 0, each feature of a picture is for; the model gets
    their places in the prompt. `remote_code` says that its code comes with the checkpoint.
    `limits` are sentences for the table of families.
    """

    tiers: TierRule
    layout: Layout = bare
    placeholder: str | None = None
    prompt: Callable[[Any, str, str], str] | None = None
    caps: Mapping[str, int] = field(default_factory=lambda: TIER_TOKEN_CAPS)
    types: Literal["image", "image and markers", "generated"] = "image"
    several: Several = field(default_factory=Several)
    since: tuple[int, int] | None = None
    places: str | None = None
    remote_code: bool = False
    limits: str = ""

    @property
    def has_tiers(self) -> bool:
        """Whether a tier can move the image tokens at all."""
        return self.tiers.argument is not None

    def rule(self, *, alone: bool) -> TierRule:
        """Return the rule that a picture follows, alone in its request or one of several."""
        return self.tiers if alone or self.several.tiers is None else self.several.tiers

    def plan(self, vision: Vision, width: int, height: int, cap: int, cost: Cost, *, alone: bool = True) -> ImagePlan:
        """Return the largest plan of a picture of this size in pixels within `cap` tokens, alone in its request or not.

        Raises PictureError where none is, or where the image processor takes no picture of this shape.
        """
        try:
            return self.rule(alone=alone).plan(vision, width, height, cap, cost)
        except PictureError:
            raise
        except ValueError as error:  # the processors' own refusals: of a shape, of a size of 0
            raise _not_taken(f"picture of {width}x{height} pixels", error) from error

    def plans_alike(self, vision: Vision, pictures: Sequence[Capped], cost: Cost) -> list[ImagePlan]:
        """Return the largest plans of a request's pictures, each within its own cap, that have the same arguments.

        An engine that gives one set of arguments to all pictures of a request can carry no others. Raises PictureError where
        there are none.
        """
        rule = self.rule(alone=len(pictures) == 1)
        if rule.alike is None or len(pictures) == 1:
            plans = [self.plan(vision, *each, cost, alone=len(pictures) == 1) for each in pictures]
            if any(plan.arguments != plans[0].arguments for plan in plans):
                raise PictureError(
                    f"{len(pictures)} pictures of different shapes would each have another {rule.argument}, and a request has "
                    "one for all; expected one picture, or pictures of one shape"
                )
            return plans
        try:
            return rule.alike(vision, pictures, cost)
        except PictureError:
            raise
        except ValueError as error:
            raise _not_taken("picture of the shape of one of these", error) from error


def _not_taken(what: str, error: ValueError) -> PictureError:
    return PictureError(
        f"this model's image processor takes no {what} ({error}); expected a shape closer to a square: crop it first"
    )


def encoded(vision: Vision, picture: Image.Image, plan: ImagePlan) -> dict[str, torch.Tensor]:
    """Return the image processor's tensors for one RGB picture under a plan."""
    if plan.scaled_to is not None:
        picture = picture.resize(plan.scaled_to, Image.Resampling.BICUBIC)
    return _processed(vision, picture, plan.arguments)


def encoded_request(
    vision: Vision, pictures: Sequence[Image.Image], plans: Sequence[ImagePlan], several: Several
) -> dict[str, torch.Tensor]:
    """Return the image processor's tensors for all RGB pictures of a request, each under its plan; none without a picture."""
    if not pictures:
        return {}
    if several.together and len(pictures) > 1:
        return _processed(vision, [list(pictures)], plans[0].arguments)
    found = [encoded(vision, picture, plan) for picture, plan in zip(pictures, plans, strict=True)]
    return joined(found, several) if len(found) > 1 else found[0]


def _processed(vision: Vision, pictures: object, arguments: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    found = vision.processor(pictures, return_tensors="pt", **arguments)
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
