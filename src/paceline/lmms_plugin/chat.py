"""A chat request of lmms-eval as one picture and one prompt, and its settings as greedy decoding knows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from paceline.datasets.picture_source import side_by_side
from paceline.errors import InvalidValueError

DEFAULT_MAX_NEW_TOKENS = 64  # where a task sets none
OWN_SETTINGS = {"do_sample": False, "temperature": 0, "num_beams": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What is asked: a picture (several set side by side), the text, the longest answer in tokens, and what ends it."""

    picture: Image.Image
    prompt: str
    max_new_tokens: int
    until: tuple[str, ...]


def chat_request(messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], *, name: str) -> ChatRequest:
    """Read the messages of one document and its generation settings; `name` is the document's in errors.

    Texts of all messages are joined by line breaks. Raises InvalidValueError for a request without a picture, one with video
    or audio, and for settings that are not greedy.
    """
    pictures: list[Image.Image] = []
    texts: list[str] = []
    for content in (each for message in messages for each in message["content"]):
        if content["type"] == "text":
            texts.append(content["text"])
        elif content["type"] == "image" and isinstance(content["url"], Image.Image):
            pictures.append(content["url"])
        else:
            raise InvalidValueError(f"content of {name}", content["type"], "pictures and text alone")
    if not pictures:
        raise InvalidValueError(f"pictures of {name}", 0, "at least one: Paceline steers requests about pictures")
    for setting, own in OWN_SETTINGS.items():
        if settings.get(setting) not in (None, own):
            raise InvalidValueError(
                f"{setting} of {name}", settings[setting], f"{own}, for decoding is greedy under a budget"
            )
    until = settings.get("until") or ()
    return ChatRequest(
        picture=side_by_side(pictures),
        prompt="\n".join(texts),
        max_new_tokens=int(settings.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS),
        until=(until,) if isinstance(until, str) else tuple(until),
    )


def cut_at(text: str, until: Sequence[str]) -> str:
    """Return the text up to the first of the ends."""
    for end in until:
        if end:
            text = text.split(end, 1)[0]
    return text
