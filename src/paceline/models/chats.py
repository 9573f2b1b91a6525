"""A chat as transformers has it: messages of roles and contents, checked once, their pictures opened and upright."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image

from paceline.errors import InvalidValueError
from paceline.models.pictures import check_pixels, open_picture, upright_rgb

# a role and its content: text, or parts of the types `text` and `image`
Message = Mapping[str, Any]

PLACES = ("image", "path")  # where a part of type `image` keeps its picture; transformers has both


def opened(messages: object) -> list[Message]:
    """Return the messages with every picture as an upright RGB `PIL.Image` under `image`.

    A picture is a `PIL.Image` or the path of one, under `image` or `path`. Raises InvalidValueError for what is no chat, or
    holds more than texts and pictures, and PictureError for a picture that cannot be read.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidValueError("messages", messages, "a list of messages, each a role and a content")
    return [_message(number, each) for number, each in enumerate(cast("Sequence[object]", messages), 1)]


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """Return every text of a chat."""
    for part in _parts(messages):
        if part["type"] == "text":
            yield part["text"]


def pictures_of(messages: Sequence[Message]) -> list[Image.Image]:
    """Return every picture of an opened chat, in the order in which the chat shows them."""
    return [part["image"] for part in _parts(messages) if part["type"] == "image"]


def question_of(messages: Sequence[Message]) -> str:
    """Return what a chat asks: the texts of the user's last message; "" where no user has spoken."""
    asked = [message for message in messages if message["role"] == "user"][-1:]
    return "\n".join(texts_of(asked))


def user_message(pictures: Sequence[object], question: str) -> list[Message]:
    """Return the chat of one message: the pictures in their order, then the question."""
    shown = [{"type": "image", "image": picture} for picture in pictures]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]


def in_parts(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with every content as parts: some chat templates read no other, and leave a bare text out."""
    return [{**message, "content": list(_parts([message]))} for message in messages]


def missing_texts(messages: Sequence[Message], written: str) -> list[str]:
    """Return the texts that a written prompt does not hold; of what the assistant said, templates leave out its thoughts."""
    missing: list[str] = []
    place = 0  # a template that keeps the order is looked through once, however many texts there are
    for text in texts_of([message for message in messages if message["role"] != "assistant"]):
        shown = text.strip()
        found = written.find(shown, place)
        if found >= 0:
            place = found + len(shown)
        elif shown not in written:
            missing.append(text)
    return missing


def _parts(messages: Sequence[Message]) -> Iterator[Mapping[str, Any]]:
    for message in messages:
        content = message["content"]
        yield from [{"type": "text", "text": content}] if isinstance(content, str) else content


def _message(number: int, message: object) -> Message:
    fields = cast("Mapping[str, Any]", message) if isinstance(message, Mapping) else {}
    if not isinstance(fields.get("role"), str):
        raise InvalidValueError(f"message {number}", message, "a role (system, user or assistant) and a content")
    content = fields.get("content")
    if isinstance(content, str):
        return dict(fields)
    if not isinstance(content, list | tuple):
        expected = "a text, or a list of parts of the types text and image"
        raise InvalidValueError(f"the content of message {number}", content, expected)
    return {**fields, "content": [_part(number, part) for part in cast("Sequence[object]", content)]}


def _part(number: int, part: object) -> dict[str, Any]:
    fields = cast("Mapping[str, Any]", part) if isinstance(part, Mapping) else {}
    if fields.get("type") == "text" and isinstance(fields.get("text"), str):
        return dict(fields)
    pictures = [fields[place] for place in PLACES if place in fields]
    if fields.get("type") == "image" and len(pictures) == 1 and isinstance(pictures[0], Image.Image | Path | str):
        others = {name: value for name, value in fields.items() if name not in PLACES}
        return {**others, "image": upright(pictures[0])}
    raise InvalidValueError(
        f"a part of message {number}",
        part if not fields else dict(fields),
        "{'type': 'text', 'text': …}, or {'type': 'image', 'image': …} with a picture or the path of one",
    )


def upright(image: Image.Image | Path | str) -> Image.Image:
    """Return a picture, or that in a file, as `upright_rgb` makes it; raises PictureError as `open_picture` does."""
    if not isinstance(image, Image.Image):
        return open_picture(image)
    check_pixels(image.width, image.height)
    return upright_rgb(image)
