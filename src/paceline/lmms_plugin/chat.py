"""A chat request of lmms-eval as Paceline is asked it, and its settings as greedy decoding knows them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from paceline.errors import InvalidValueError

DEFAULT_MAX_NEW_TOKENS = 64  # where a task sets none
OWN_SETTINGS = {"do_sample": False, "temperature": 0, "num_beams": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What is asked, the longest answer in tokens, and what ends it.

    `asked` is what `AdaptiveModel.generate` takes: a picture and a prompt where a document is one picture and a question about
    it, else messages, with every picture by itself and where it stood.
    """

    asked: Mapping[str, Any]
    max_new_tokens: int
    until: tuple[str, ...]


def chat_request(messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], *, name: str) -> ChatRequest:
    """Read the messages of one document and its generation settings; `name` is the document's in errors.

    Raises InvalidValueError for a request with video or audio, and for settings that are not greedy.
    """
    chat = [{"role": each["role"], "content": [_part(part, name) for part in each["content"]]} for each in messages]
    for setting, own in OWN_SETTINGS.items():
        if settings.get(setting) not in (None, own):
            raise InvalidValueError(
                f"{setting} of {name}", settings[setting], f"{own}, for decoding is greedy under a budget"
            )
    until = settings.get("until") or ()
    return ChatRequest(
        asked=_question(chat) or {"messages": chat},
        max_new_tokens=int(settings.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS),
        until=(until,) if isinstance(until, str) else tuple(until),
    )


def _part(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    if content["type"] == "text":
        return {"type": "text", "text": content["text"]}
    if content["type"] == "image" and isinstance(content["url"], Image.Image):
        return {"type": "image", "image": content["url"]}
    raise InvalidValueError(f"content of {name}", content["type"], "pictures and text alone")


def _question(chat: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a chat of one picture and the words after it as every family takes it, those without a chat template too."""
    if len(chat) != 1 or chat[0]["role"] != "user":
        return None
    first, *others = chat[0]["content"] or [{"type": "text"}]
    if first["type"] != "image" or not others or any(each["type"] != "text" for each in others):
        return None
    return {"image": first["image"], "prompt": "\n".join(each["text"] for each in others)}


def cut_at(text: str, until: Sequence[str]) -> str:
    """Return the text up to the first of the ends."""
    for end in until:
        if end:
            text = text.split(end, 1)[0]
    return text
