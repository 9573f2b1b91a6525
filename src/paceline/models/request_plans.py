"""What a chat will cost in tokens, told without the model: text tokens, and the plan of its pictures under each tier.

The same rules as `VisionLanguageModel`'s, over a tokenizer and an image processor alone: servers decide with it.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from paceline.errors import PictureError
from paceline.models.chats import Message, texts_of
from paceline.models.families.family import Family
from paceline.models.families.plans import TierPlan, Vision
from paceline.models.pictures import check_pixels, check_smallest
from paceline.models.prompts import OWN_ARGUMENTS, Prompts
from paceline.models.vision_language import VisionLanguageModel
from paceline.records import TIERS

# a longer text is counted by its beginning: tokenizers take a millisecond for some five thousand letters
MOST_LETTERS = 4096
MOST_WRITTEN_LETTERS = 200_000  # of a chat that its template is asked to write here, on a server's own loop
UNBOUNDED = 10**9
LOWER_LIMITS = ("shortest_edge", "min_pixels")  # of arguments of image processors: they cap nothing
PIXEL_LIMITS = {"max_pixels": "longest_edge", "min_pixels": "shortest_edge"}  # other words for the edges of a `size`


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureModel:
    """How a model's pictures become tokens: its family, image processor and configuration, and its tiers' caps."""

    family: Family
    vision: Vision
    prompts: Prompts
    tier_token_caps: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlans:
    """Tells a chat's tokens ahead; `pictures` is None for a model that only reads text. `template_arguments` go to the chat
    template of every chat, behind a request's own. `alike` says that the engine encodes all pictures of a request with the same
    arguments, and none that is scaled before."""

    tokenizer: Any
    pictures: PictureModel | None
    template_arguments: Mapping[str, object] = field(default_factory=dict[str, object])
    alike: bool = True

    @property
    def tiers(self) -> tuple[str | None, ...]:
        """The tiers of this model, smallest first; (None,) where no picture has another number of tokens under one."""
        return TIERS if self.pictures is not None and self.pictures.family.has_tiers else (None,)

    @property
    def smallest_cap(self) -> int | None:
        """The most tokens that the smallest tier gives a picture; None where no tier moves any."""
        tier = self.tiers[0]
        return None if self.pictures is None or tier is None else self.pictures.tier_token_caps[tier]

    def text_tokens(self, messages: Sequence[Message], *, arguments: Mapping[str, object] | None = None) -> int:
        """Return the tokens of a chat and its template, its pictures left out; beyond 4,096 letters by its beginning.

        A chat that the template cannot write is counted by its texts alone: the server says what is wrong with it; and so is one
        of which the template's own words are next to nothing. Arguments of the function that fills it are passed over, another
        template above all: a client's would run as a program.
        """
        own = {name: value for name, value in (arguments or {}).items() if name not in OWN_ARGUMENTS}
        written = self._written(messages, {**self.template_arguments, **own})
        return self._counted("\n".join(texts_of(messages)) if written is None else written)

    def _written(self, messages: Sequence[Message], arguments: Mapping[str, object]) -> str | None:
        """Return the written prompt without its pictures; None where the template cannot write it, or it would be too long."""
        placeholder = "" if self.pictures is None else self.pictures.prompts.placeholder
        try:
            if sum(map(len, texts_of(messages))) > MOST_WRITTEN_LETTERS:
                return None
            written: str = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, tokenize=False, **arguments
            )
        except Exception:  # a template raises what it likes
            return None
        return written.replace(placeholder, "") if placeholder else written

    def plans(
        self, pictures: Sequence[tuple[int, int]], *, caps: Sequence[int | None] | None = None
    ) -> dict[str | None, TierPlan]:
        """Return the plan of a request's pictures, of these widths and heights in pixels, under every tier.

        Each picture is within the tier and within its own of the `caps`, in tokens, where that is not None; all are encoded
        with the same arguments, as engines take them, and their tokens are those of all. Raises PictureError for a picture that
        no tier can carry, or that must be scaled before its processor sees it, and for pictures that have no arguments in
        common.
        """
        model = self._pictures()
        for width, height in pictures:
            check_pixels(width, height)
            check_smallest(width, height, model.family.tiers.smallest_side(model.vision))
        own = [UNBOUNDED if cap is None else cap for cap in caps or [None] * len(pictures)]
        found: dict[tuple[tuple[int, int, int], ...], TierPlan] = {}
        plans: dict[str | None, TierPlan] = {}
        for tier in self.tiers:
            cap = UNBOUNDED if tier is None else model.tier_token_caps[tier]
            capped = tuple((*size, min(cap, each)) for size, each in zip(pictures, own, strict=True))
            if capped not in found:
                found[capped] = self._plan(model, capped)
            plans[tier] = found[capped]
        return plans

    def cap_under(self, width: int, height: int, arguments: Mapping[str, object]) -> int:
        """Return the most tokens that stay within a caller's own arguments of the image processor, read as upper limits.

        Raises PictureError for arguments that no number of tokens follows from, naming those that do.
        """
        model = self._pictures()
        limits = _limits(arguments)
        low, high = 0, max(model.tier_token_caps.values()) if model.family.has_tiers else 0
        while low < high:  # a plan's arguments grow with its cap
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._fits(model, width, height, middle, limits) else (low, middle - 1)
        if low == 0:
            raise PictureError(
                f"mm_processor_kwargs {dict(arguments)!r} allow no picture that this model's tiers know; expected limits of "
                f"{model.family.tiers.argument or 'nothing: its pictures have one size'}, or none"
            )
        return low

    def _fits(self, model: PictureModel, width: int, height: int, cap: int, limits: Mapping[str, object]) -> bool:
        try:
            plan = model.family.plan(model.vision, width, height, cap, model.prompts.cost)
        except PictureError:  # so few tokens make no picture: no limit is exceeded
            return True
        return _within(plan.arguments, limits)

    def _plan(self, model: PictureModel, pictures: Sequence[tuple[int, int, int]]) -> TierPlan:
        if not self.alike:
            return TierPlan(tokens=_own_tokens(model, pictures), arguments={})
        plans = model.family.plans_alike(model.vision, pictures, model.prompts.cost)
        for plan, (width, height, _) in zip(plans, pictures, strict=True):
            if plan.scaled_to is not None:
                raise PictureError(
                    f"a picture of {width}x{height} pixels must be scaled to {plan.scaled_to[0]}x{plan.scaled_to[1]} before "
                    "this model's image processor sees it, which a server does not do; expected one that is: scale it first"
                )
        tokens = sum(model.prompts.cost(plan, number) for number, plan in enumerate(plans))
        return TierPlan(tokens=tokens, arguments=plans[0].arguments)

    def _pictures(self) -> PictureModel:
        if self.pictures is None:
            raise PictureError("this model only reads text; expected a chat without a picture")
        return self.pictures

    def _counted(self, text: str) -> int:
        looked_at = text[:MOST_LETTERS].encode(errors="replace").decode()  # half a surrogate pair is no letter
        tokens = len(self.tokenizer(looked_at, add_special_tokens=False).input_ids)
        return tokens if len(text) == len(looked_at) else round(tokens * len(text) / len(looked_at))


def _own_tokens(model: PictureModel, pictures: Sequence[tuple[int, int, int]]) -> int:
    """Return the tokens of pictures (width, height, cap) of which each has a plan of its own."""
    tokens = 0
    for number, (width, height, cap) in enumerate(pictures):
        cost = partial(model.prompts.cost, number=number)
        plan = model.family.plan(model.vision, width, height, cap, cost, alone=len(pictures) == 1)
        tokens += model.prompts.cost(plan, number)
    return tokens


def _within(values: Mapping[str, Any], limits: Mapping[str, object]) -> bool:
    for name, limit in limits.items():
        if name in LOWER_LIMITS:
            continue
        value = values.get(name)
        if isinstance(limit, Mapping):
            inner = cast("Mapping[str, object]", limit)
            if not isinstance(value, Mapping) or not _within(cast("Mapping[str, Any]", value), inner):
                return False
        elif not isinstance(limit, int | float) or not isinstance(value, int | float) or value > limit:
            return False
    return True


def _limits(arguments: Mapping[str, object]) -> Mapping[str, object]:
    """Return arguments with limits in pixels in the word that processors have for them now."""
    pixels = {edge: arguments[name] for name, edge in PIXEL_LIMITS.items() if name in arguments}
    others = {name: value for name, value in arguments.items() if name not in PIXEL_LIMITS}
    if not pixels:
        return others
    given = others.get("size")
    size = cast("Mapping[str, object]", given) if isinstance(given, Mapping) else {}
    return {**others, "size": {**size, **pixels}}


def plans_of_model(model: VisionLanguageModel) -> RequestPlans:
    """Return what tells the tokens of a loaded model's chats ahead, with a tokenizer of its own: two threads cannot share one."""
    tokenizer = deepcopy(model.tokenizer)
    config = model.parts.model.config
    prompts = Prompts(tokenizer=tokenizer, family=model.parts.family, config=config, name=model.name)
    vision = Vision(processor=model.image_processor, config=config)
    return RequestPlans(
        tokenizer=tokenizer,
        pictures=PictureModel(
            family=model.parts.family, vision=vision, prompts=prompts, tier_token_caps=model.tier_token_caps
        ),
        template_arguments=model.prompts.template_arguments,
        alike=False,
    )
