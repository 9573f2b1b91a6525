"""A chat request with a budget, as far as a decision needs it: its pictures' sizes, its texts, and the caps of its caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from paceline.errors import PictureError, RequestRefusedError
from paceline.models.families.plans import TierPlan
from paceline.models.picture_header import PictureSize, size_of_data_url
from paceline.models.pictures import check_pixels
from paceline.wire.body import Fields, value_of
from paceline.wire.cut_body import CutBody, Url

TEXT_TYPES = ("text", "input_text", "output_text", "refusal", "thinking")
TEMPLATE_FIELDS = ("tools", "documents")
MOST_PARTS = 10_000  # messages of a chat and parts of their contents together: each is looked at several times


class Sizes(Protocol):
    """What tells a chat's tokens ahead: `paceline.models.request_plans.RequestPlans`."""

    @property
    def tiers(self) -> tuple[str | None, ...]:
        """The tiers, smallest first."""
        ...

    @property
    def smallest_cap(self) -> int | None:
        """The most tokens that the smallest tier gives a picture; None where no tier moves any."""
        ...

    def text_tokens(
        self, messages: Sequence[Mapping[str, Any]], *, arguments: Mapping[str, object] | None = None
    ) -> int:
        """Return the tokens of a chat without its pictures."""
        ...

    def plans(
        self, pictures: Sequence[tuple[int, int]], *, caps: Sequence[int | None] | None = None
    ) -> Mapping[str | None, TierPlan]:
        """Return the plan of all pictures together under every tier, each of them within its own of the `caps`."""
        ...

    def cap_under(self, width: int, height: int, arguments: Mapping[str, object]) -> int:
        """Return the most tokens within a caller's arguments."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A chat's tokens: of its text, and of its pictures by tier, with the image processor's arguments; None without a picture.

    `tiers` are those that the caller's caps allow, smallest first; `cap_tokens` the most image tokens they allow, None for as
    many as there are, `caps` the most of each picture. `pictures` is how many there are.
    """

    text_tokens: int
    pictures: int
    plans: Mapping[str | None, TierPlan] | None
    tiers: tuple[str | None, ...]
    cap_tokens: int | None = None
    caps: tuple[int | None, ...] = ()

    def image_tokens(self, tier: str | None) -> int:
        """Return the image tokens under a tier."""
        return 0 if self.plans is None else self.plans[tier].tokens

    @property
    def vision_tokens(self) -> dict[str | None, int]:
        """Image tokens by tier, those of the tiers beyond the caps at the caps."""
        return {tier: self.image_tokens(tier) for tier in (self.tiers if self.plans is None else self.plans)}


def read_chat(
    fields: Fields, sizes: Sizes, cut: CutBody, *, most_pictures: int | None = None, too_many_status: int = 400
) -> Chat:
    """Return the chat of a request's fields, whose pictures may be cut out.

    Raises RequestRefusedError (400, 413 or 415) for what no budget can be kept on, and with `too_many_status`
    for more than `most_pictures`.
    """
    messages, pictures = messages_and_pictures(value_of(fields, "messages"), cut)
    if most_pictures is not None and len(pictures) > most_pictures:
        message = f"messages hold {len(pictures)} pictures; this server takes at most {most_pictures}"
        raise _bad(message, "messages", status=too_many_status, code="too_many_images")
    text_tokens = sizes.text_tokens(messages, arguments=_template_arguments(fields))
    if not pictures:
        return Chat(text_tokens=text_tokens, pictures=0, plans=None, tiers=sizes.tiers)
    found = [(_size(cut.url(url)), detail) for url, detail in pictures]
    caller = value_of(fields, "mm_processor_kwargs") or {}
    if not isinstance(caller, dict):
        raise _bad("mm_processor_kwargs is no object; expected limits of the image processor", "mm_processor_kwargs")
    try:
        return _capped(sizes, found, text_tokens, cast("dict[str, object]", caller))
    except PictureError as error:
        raise _bad(str(error), "messages", code="invalid_image") from error


def _capped(
    sizes: Sizes, pictures: Sequence[tuple[PictureSize, str | None]], text_tokens: int, caller: Mapping[str, object]
) -> Chat:
    shapes = [(size.width, size.height) for size, _ in pictures]
    plans = sizes.plans(shapes)
    caps = [_cap(sizes, shape, detail, caller) for shape, (_, detail) in zip(shapes, pictures, strict=True)]
    if all(cap is None for cap in caps):
        return Chat(text_tokens=text_tokens, pictures=len(pictures), plans=plans, tiers=sizes.tiers)
    capped = sizes.plans(shapes, caps=caps)
    # a tier that the caps cut down to the one below it is not needed
    pairs = zip(sizes.tiers, (None, *sizes.tiers), strict=False)
    tiers = tuple(
        tier
        for number, (tier, below) in enumerate(pairs)
        if not number or capped[tier] != capped[below] or plans[tier] == plans[below]
    )
    most = max(capped[tier].tokens for tier in tiers)
    return Chat(
        text_tokens=text_tokens, pictures=len(pictures), plans=capped, tiers=tiers, cap_tokens=most, caps=tuple(caps)
    )


def _cap(sizes: Sizes, shape: tuple[int, int], detail: str | None, caller: Mapping[str, object]) -> int | None:
    """Return the most tokens that the caller allows one picture, None for as many as there are."""
    caps = [sizes.cap_under(*shape, caller)] if caller else []
    if detail == "low" and sizes.smallest_cap is not None:
        caps.append(sizes.smallest_cap)
    return min(caps) if caps else None


def messages_and_pictures(given: object, cut: CutBody) -> tuple[list[dict[str, Any]], list[tuple[str, str | None]]]:
    """Return the messages as chat templates take them, each picture a part of type `image`, and the pictures' URLs with their
    `detail`; raises RequestRefusedError (400) for what is no chat."""
    if not isinstance(given, list) or not given:
        raise _bad("messages is missing or empty; expected a list of messages", "messages")
    messages: list[dict[str, Any]] = []
    pictures: list[tuple[str, str | None]] = []
    parts = len(cast("list[Any]", given))
    for message in cast("list[Any]", given):
        if not isinstance(message, dict):
            raise _bad("a message is no object; expected one with role and content", "messages")
        cells = cast("dict[str, Any]", message)
        content = cells.get("content")
        if isinstance(content, list):
            parts += len(cast("list[Any]", content))
        if parts > MOST_PARTS:
            raise _bad(f"the chat has more than {MOST_PARTS:,} messages and parts; expected fewer", "messages")
        if isinstance(content, list):
            content = [_part(part, pictures, cut) for part in cast("list[Any]", content)]
        elif content is None or isinstance(content, str):
            content = [{"type": "text", "text": cut.words(content or "")}]
        else:
            raise _bad("a message's content is neither text nor a list of parts", "messages")
        messages.append({**cells, "content": content})
    return messages, pictures


def _part(part: object, pictures: list[tuple[str, str | None]], cut: CutBody) -> dict[str, Any]:
    cells = {"type": "text", "text": part} if isinstance(part, str) else part
    if not isinstance(cells, dict):
        raise _bad("a part of a message is neither text nor an object", "messages")
    found = cast("dict[str, Any]", cells)
    kind = found.get("type") or ("image_url" if "image_url" in found else None)
    if kind in TEXT_TYPES:
        return {"type": "text", "text": cut.words(str(found.get("text") or found.get(str(kind)) or ""))}
    if kind != "image_url":
        raise _bad(
            f"a part of a message is of type {kind!r}; expected text and image_url: nothing else is counted before a decision",
            "messages",
        )
    given = found.get("image_url")
    image = cast("dict[str, Any]", given) if isinstance(given, dict) else {"url": given}
    pictures.append((str(image.get("url")), image.get("detail")))
    return {"type": "image"}


def _size(url: Url) -> PictureSize:
    if isinstance(url, str) and not url.startswith("data:"):
        raise _bad(
            f"the picture is at {url[:60]!r}; expected it in the request, as data:image/png;base64,…: a budget counts from the "
            "request's last byte, and a picture elsewhere has yet to be fetched",
            "messages",
        )
    try:
        size = size_of_data_url(url)
    except PictureError as error:
        raise _bad(str(error), "messages", status=415, code="unsupported_image") from error
    try:
        check_pixels(size.width, size.height)
    except PictureError as error:
        raise _bad(str(error), "messages", status=413, code="image_too_large") from error
    return size


def _template_arguments(fields: Fields) -> dict[str, object]:
    found = value_of(fields, "chat_template_kwargs")
    arguments = dict(cast("dict[str, object]", found)) if isinstance(found, dict) else {}
    return arguments | {name: value for name in TEMPLATE_FIELDS if (value := value_of(fields, name))}


def _bad(message: str, param: str, *, status: int = 400, code: str = "invalid_value") -> RequestRefusedError:
    return RequestRefusedError(message, status=status, code=code, param=param)
