"""A loaded model with all that it takes to turn a picture and a question into its inputs."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from paceline.errors import ModelError, UnknownChoiceError
from paceline.models.chats import Message, opened, pictures_of, question_of
from paceline.models.families.family import encoded_request
from paceline.models.families.plans import ImagePlan, Vision
from paceline.models.features import picture_features, prompt_embedding
from paceline.models.pictures import check_pixels, check_smallest, upright_rgb, upright_size
from paceline.models.placement import execution_devices
from paceline.models.prompts import Prompts
from paceline.models.structure import ModelParts
from paceline.records import TIERS, RequestFeatures

NOWHERE = -100  # the place of a feature that is left out
UNBOUNDED = 10**9  # the cap of a family whose pictures all have one size


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """Model inputs of one request (batch 1, on the model's device) and their token counts.

    `vision_tokens` are all that the pictures bring into the prompt; `image_tokens` those of them that a feature of the image
    encoder takes the place of, markers left out. `target_vision_tokens` is the tier's cap for each picture, None for a model
    without tiers and for a request without a picture.
    """

    inputs: dict[str, torch.Tensor]
    target_vision_tokens: int | None
    vision_tokens: int
    image_tokens: int
    text_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnencodedRequest:
    """One request for an engine that encodes pictures by itself: the prompt's text, the picture in RGB, and the arguments of
    the image processor that are its tier.

    `ids` are the tokens that the engine must come to, the counts those of `PreparedRequest`.
    """

    text: str
    picture: Image.Image
    arguments: Mapping[str, Any]
    ids: tuple[int, ...]
    target_vision_tokens: int | None
    vision_tokens: int
    text_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionLanguageModel:
    """A loaded model with everything needed to ask it about a picture under any tier.

    `token_projection_VP` (vocabulary, 16) is what a prompt's embedding is made from, see `project_tokens`. `remote_code` is the
    commit or the hash of the code that came with the checkpoint, None where transformers' own ran.
    """

    name: str
    revision: str | None
    remote_code: str | None
    parts: ModelParts
    tokenizer: Any
    image_processor: Any
    prompts: Prompts
    token_projection_VP: NDArray[np.float32]
    tier_token_caps: dict[str, int]
    block_ranking: tuple[int, ...] | None
    default_top_ks: tuple[int, ...] | None
    default_block_counts: tuple[int, ...] | None
    # a fast tokenizer refuses a second thread while one is in it ("Already borrowed")
    tokenizer_lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are, or the requests' inputs where they are spread over several devices."""
        return self.parts.device

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """Every device that the model computes on."""
        return execution_devices(self.parts.model)

    @property
    def dtype_name(self) -> str:
        """The weights' type, for example `float32`."""
        return str(self.parts.model.dtype).removeprefix("torch.")

    @property
    def tiers(self) -> tuple[str | None, ...]:
        """The tiers of this model, smallest first; (None,) where every picture has the same number of image tokens."""
        return TIERS if self.parts.family.has_tiers else (None,)

    def prepare(self, picture: Image.Image, prompt: str, tier: str | None) -> PreparedRequest:
        """Encode a picture at `tier` and a prompt into model inputs of batch 1; None is the largest tier there is.

        Raises PictureError when the picture is too small, too large or too long, InvalidValueError when the prompt is empty
        or holds one of the model's special tokens, and ModelError for a tier of a model that has none.
        """
        check_pixels(picture.width, picture.height)
        return self._prepared([upright_rgb(picture)], partial(self.prompts.question, prompt), tier)

    def unencoded(self, picture: Image.Image, prompt: str, tier: str | None) -> UnencodedRequest:
        """Return what an engine takes that encodes pictures by itself; no weight of this model is used.

        Raises as `prepare` does.
        """
        cap = self._cap(tier)
        check_pixels(picture.width, picture.height)
        picture = upright_rgb(picture)
        [plan] = self._plans([picture.size], cap)
        if plan.scaled_to is not None:
            picture = picture.resize(plan.scaled_to, Image.Resampling.BICUBIC)
        with self.tokenizer_lock:
            text = self.prompts.question(prompt)
            ids, text_tokens = self.prompts.ids(text, [plan]), self.prompts.text_tokens(text)
        return UnencodedRequest(
            text=text,
            picture=picture,
            arguments=plan.arguments,
            ids=tuple(ids),
            target_vision_tokens=cap,
            vision_tokens=len(ids) - text_tokens,
            text_tokens=text_tokens,
        )

    def prepare_chat(
        self,
        messages: Sequence[Message],
        tier: str | None,
        *,
        template_arguments: Mapping[str, object] | None = None,
        caps: Sequence[int | None] | None = None,
    ) -> PreparedRequest:
        """Encode a chat into model inputs of batch 1: messages of roles and contents, as transformers' chat templates take
        them, with any number of pictures (each a `PIL.Image` or the path of one, in a part of type `image`).

        Every picture is encoded at `tier`, its cap is each picture's own. Without a picture the tier moves nothing and no
        image encoder runs. `template_arguments` go to the chat template, before the model's own, for example
        `enable_thinking`. `caps` are the most image tokens of each picture, where the model has tiers. Raises as `prepare` does,
        and InvalidValueError for what is no chat.
        """
        chat = opened(messages)
        pictures = pictures_of(chat)
        write = partial(self._chat, chat, len(pictures), template_arguments)
        return self._prepared(pictures, write, tier, caps)

    def features(self, picture: Image.Image, prompt: str) -> RequestFeatures:
        """Return all that a controller may know of a request before the vision encoder runs: its token counts, a glance at
        the picture, and an embedding of the prompt's own tokens.

        Raises PictureError and InvalidValueError as `prepare` does.
        """
        check_pixels(picture.width, picture.height)
        picture = upright_rgb(picture)
        return self._looked_at(self.token_features(picture, prompt), picture, prompt)

    def token_features(self, picture: Image.Image, prompt: str) -> RequestFeatures:
        """Return the part of a request's features that latency depends on: its text tokens, and the image tokens that each
        tier would give the picture; no pixel is read.

        Raises PictureError and InvalidValueError as `prepare` does.
        """
        check_pixels(picture.width, picture.height)
        width, height = upright_size(picture)
        return self._ahead([(width, height)], partial(self.prompts.question, prompt))

    def chat_features(
        self, messages: Sequence[Message], *, template_arguments: Mapping[str, object] | None = None, look: bool = True
    ) -> RequestFeatures:
        """Return what a controller may know of a chat before the vision encoder runs, as `features` does for a question.

        The image tokens of a tier are those of all pictures; without a picture they are 0. With one picture, and only then,
        and where `look` asks for it, the picture is looked at and what the user's last message asks. Raises as
        `prepare_chat` does.
        """
        chat = opened(messages)
        pictures = pictures_of(chat)
        counts = self._ahead(
            [picture.size for picture in pictures], partial(self._chat, chat, len(pictures), template_arguments)
        )
        return self._looked_at(counts, pictures[0], question_of(chat)) if look and len(pictures) == 1 else counts

    def decode(self, ids: torch.Tensor) -> str:
        """Turn output token ids (sequence) into text, special tokens left out."""
        with self.tokenizer_lock:
            return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _looked_at(self, counts: RequestFeatures, picture: Image.Image, prompt: str) -> RequestFeatures:
        with self.tokenizer_lock:
            own_ids: list[int] = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return replace(
            counts,
            picture=picture_features(picture),
            prompt_embedding=prompt_embedding(self.token_projection_VP, own_ids),
        )

    def _chat(self, chat: Sequence[Message], pictures: int, arguments: Mapping[str, object] | None) -> str:
        return self.prompts.chat(chat, pictures, arguments or {})

    def _ahead(self, sizes: Sequence[tuple[int, int]], write: Callable[[], str]) -> RequestFeatures:
        """Return the token counts of a request from the (width, height) of its upright pictures."""
        with self.tokenizer_lock:
            written = write()
            text_tokens = self.prompts.text_tokens(written)
            plans = {tier: self._plans(sizes, self._cap(tier)) for tier in self.tiers}
            ahead = {tier: self.prompts.picture_tokens(written, each, text_tokens) for tier, each in plans.items()}
        return RequestFeatures(text_tokens=text_tokens, vision_tokens=ahead, pictures=len(sizes))

    def _prepared(
        self,
        pictures: Sequence[Image.Image],
        write: Callable[[], str],
        tier: str | None,
        caps: Sequence[int | None] | None = None,
    ) -> PreparedRequest:
        cap = self._cap(tier) if pictures else None
        plans = self._plans([picture.size for picture in pictures], cap, caps)
        tensors = encoded_request(self._vision, pictures, plans, self.parts.family.several)
        with self.tokenizer_lock:
            written = write()
            ids, text_tokens = self.prompts.ids(written, plans), self.prompts.text_tokens(written)
        ids_BL = torch.tensor([ids])
        tensors |= self._places(tensors, ids_BL)
        inputs = {
            "input_ids": ids_BL,
            "attention_mask": torch.ones_like(ids_BL),
            **{name: value for name, value in tensors.items() if name in self.parts.accepted_inputs},
            **self.parts.token_type_ids(ids_BL, prompt_tokens=ids_BL.shape[1]),
        }
        return PreparedRequest(
            inputs={name: self._placed(value) for name, value in inputs.items()},
            target_vision_tokens=cap,
            vision_tokens=len(ids) - text_tokens,
            image_tokens=sum(plan.tokens for plan in plans),
            text_tokens=text_tokens,
        )

    def _places(self, tensors: Mapping[str, torch.Tensor], ids_BL: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return where in the prompt each feature goes, of which the image processor knows its image token alone."""
        name = self.parts.family.places
        if name is None or name not in tensors:
            return {}
        at_I = (ids_BL[0] == self.parts.image_token_id).nonzero()[:, 0]
        tokens = tensors[name]
        return {name: torch.where(tokens >= 0, at_I[tokens.clamp(min=0)], NOWHERE)}

    @property
    def _vision(self) -> Vision:
        return Vision(processor=self.image_processor, config=self.parts.model.config)

    def _cap(self, tier: str | None) -> int | None:
        if not self.parts.family.has_tiers:
            if tier is None:
                return None
            raise ModelError(
                f"tier is {tier!r}, but every picture has the same number of image tokens on {self.name}; leave the tier out"
            )
        tier = TIERS[-1] if tier is None else tier
        if tier not in TIERS:
            raise UnknownChoiceError("tier", tier, TIERS)
        return self.tier_token_caps[tier]

    def _plans(
        self, sizes: Sequence[tuple[int, int]], cap: int | None, own: Sequence[int | None] | None = None
    ) -> list[ImagePlan]:
        """Return the plan of every picture of a request, by their (width, height) in pixels, each within its own cap too."""
        family, vision, alone = self.parts.family, self._vision, len(sizes) == 1
        plans: list[ImagePlan] = []
        for number, (width, height) in enumerate(sizes):
            check_smallest(width, height, family.rule(alone=alone).smallest_side(vision))
            cost = partial(self.prompts.cost, number=number)
            caps = [each for each in (cap, own[number] if own else None) if each is not None]
            plans.append(family.plan(vision, width, height, min(caps, default=UNBOUNDED), cost, alone=alone))
        return plans

    def _placed(self, value: torch.Tensor) -> torch.Tensor:
        dtype = self.parts.model.dtype if value.is_floating_point() else value.dtype
        return value.to(self.device, dtype)
