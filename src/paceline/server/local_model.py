"""The model behind the server: a question that came over HTTP, answered under a configuration, told of token by token."""

import binascii
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from paceline.errors import ModelError, RequestRefusedError
from paceline.measure.clock import clock_for
from paceline.measure.one_pass import request_measured
from paceline.models.chats import Message, opened, pictures_of, question_of
from paceline.models.knobs import check_config
from paceline.models.loading import PreparedRequest, VisionLanguageModel
from paceline.models.picture_header import BY_PILLOW
from paceline.models.pictures import open_picture
from paceline.records import KnobConfig
from paceline.server.engine import HandOn, Unwanted
from paceline.server.question import Answered, Caps, FirstToken, Question
from paceline.server.texts import AnswerText

FORMATS = (*BY_PILLOW, "WEBP")
MOST_TOKENS = 1024  # of an answer that names no number, where the context has room


class LocalModel:
    """A loaded model with the block ranking of its controller; `answer` is for one thread."""

    def __init__(
        self,
        model: VisionLanguageModel,
        ranking: Sequence[int],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model, self.ranking, self._clock = model, tuple(ranking), clock
        self.context: int | None = getattr(model.parts.text_config, "max_position_embeddings", None)

    @property
    def largest_picture_tokens(self) -> int:
        """The most tokens of one picture; 0 for a model without tiers, where nobody knows before it is encoded."""
        return max(self.model.tier_token_caps.values(), default=0)

    def whole(self, *, low: bool = False) -> KnobConfig:
        """Return the configuration of a request without a budget: all of the model, the smallest tier where `low` asks."""
        tiers = self.model.tiers
        return KnobConfig(tier=tiers[0] if low else tiers[-1], top_k=None, num_active_blocks=None)

    def answer(
        self, question: Question, config: KnobConfig, caps: Caps, hand_on: HandOn, unwanted: Unwanted
    ) -> Answered:
        """Answer a question; hands on a FirstToken before the first of its texts, one text a token.

        Raises RequestRefusedError for pictures that cannot be read and for a chat that is longer than the model's context, and
        what `prepare_chat` raises.
        """
        check_config(self.model.parts, config)
        text = AnswerText(self._decoded, question.stops)
        following = _Following(text, hand_on, unwanted, self._clock)
        prepared = self._timed(question, caps, following)
        measured = request_measured(
            self.model,
            prepared,
            config,
            ranking=self.ranking,
            max_new_tokens=self._most(question),
            clock=clock_for(*self.model.devices),
            sampling=question.sampling,
            listener=following,
            to_the_last=question.to_the_last,
        )
        rest = text.rest()  # a stop sequence may be met in it
        reason = "stop" if text.stopped or following.last in self._ends else "length"
        return Answered(
            rest=rest,
            finish_reason=reason,
            prompt_tokens=measured.request.vision_tokens + measured.request.text_tokens,
            completion_tokens=measured.times.output_tokens,
        )

    def _most(self, question: Question) -> int:
        if question.max_tokens is not None:
            return question.max_tokens
        return MOST_TOKENS if self.context is None else max(1, min(MOST_TOKENS, self.context // 2))

    def _timed(
        self, question: Question, caps: Caps, following: "_Following"
    ) -> Callable[[str | None], PreparedRequest]:
        def prepare(tier: str | None) -> PreparedRequest:
            started = self._clock()
            request = self._prepared(question, tier, caps)
            following.preprocess_ms = 1e3 * (self._clock() - started)
            return request

        return prepare

    def _prepared(self, question: Question, tier: str | None, caps: Caps) -> PreparedRequest:
        messages = _shown(question.messages, map(_picture, question.pictures))
        request = self._encoded(messages, tier, caps, question.template_arguments)
        prompt, answer = request.vision_tokens + request.text_tokens, self._most(question)
        if self.context is not None and prompt + answer > self.context:
            raise RequestRefusedError(
                f"the chat has {prompt:,} tokens and its answer {answer:,} at most; expected {self.context:,} together, "
                "the context of this model: shorten the chat, or ask for a smaller max_tokens",
                code="context_length_exceeded",
                param="messages",
            )
        return request

    def _encoded(
        self, messages: Sequence[Message], tier: str | None, caps: Caps, arguments: Mapping[str, object]
    ) -> PreparedRequest:
        if self.model.parts.family.prompt is None:
            return self.model.prepare_chat(messages, tier, template_arguments=arguments, caps=caps)
        chat = opened(messages)
        pictures = pictures_of(chat)
        if len(pictures) != 1 or len(chat) != 1:
            raise ModelError(
                f"{self.model.name} has no chat template: it answers one question about one picture; expected one message of a "
                "user with a picture and a text"
            )
        return self.model.prepare(pictures[0], question_of(chat), tier)

    def _decoded(self, ids: Sequence[int]) -> str:
        with self.model.tokenizer_lock:
            return self.model.tokenizer.decode(list(ids), skip_special_tokens=True)

    @property
    def _ends(self) -> tuple[int, ...]:
        found: Any = self.model.parts.model.generation_config
        end = None if found is None else found.eos_token_id
        return tuple(end) if isinstance(end, list) else (end,) if end is not None else ()


class _Following:
    """Hands an answer's texts on from the thread that generates it."""

    def __init__(self, text: AnswerText, hand_on: HandOn, unwanted: Unwanted, clock: Callable[[], float]) -> None:
        self._text, self._hand_on, self._unwanted, self._clock = text, hand_on, unwanted, clock
        self.preprocess_ms, self.last = 0.0, -1

    def prefilled(self, vision_ms: float, prefill_ms: float) -> None:
        """Hand on when the first token was there."""
        first = FirstToken(
            seconds=self._clock(), preprocess_ms=self.preprocess_ms, vision_ms=vision_ms, prefill_ms=prefill_ms
        )
        self._hand_on(first)

    def token(self, token_id: int) -> bool:
        """Hand on the text that is certain with this token."""
        self.last = token_id
        self._hand_on(self._text.add(token_id))
        return not (self._text.stopped or self._unwanted())


def _picture(url: str) -> Image.Image:
    spec, _, data = url.partition(",")
    if not spec.endswith(";base64"):
        raise RequestRefusedError("a picture is no data: URL of base64", param="messages", code="invalid_image")
    try:
        return open_picture(b64decode(data, validate=True), formats=FORMATS)
    except (binascii.Error, ValueError) as error:  # a PictureError too
        raise RequestRefusedError(
            f"a picture cannot be read: {error}", param="messages", code="invalid_image"
        ) from error


def _shown(messages: Sequence[dict[str, Any]], pictures: Iterator[Image.Image]) -> list[Message]:
    """Return the messages with each picture in its place."""
    return [
        {**message, "content": [_part(part, pictures) for part in message["content"]]}
        if isinstance(message["content"], list)
        else message
        for message in messages
    ]


def _part(part: dict[str, Any], pictures: Iterator[Image.Image]) -> dict[str, Any]:
    return {"type": "image", "image": next(pictures)} if part["type"] == "image" else part
