"""Chats whose pictures are at allowed addresses: fetched before anything is decided, for a decision needs their sizes."""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any, cast

from paceline.errors import RequestRefusedError
from paceline.server.fetching import Fetcher
from paceline.server.gate import App, Message, Receive, Scope, Send
from paceline.server.limits import Limits
from paceline.serving.answer import refusal
from paceline.serving.desk import CHAT_PATH
from paceline.serving.middleware import FETCHED, received_parts, replay


class FetchedPictures:
    """Puts pictures that chats name by address into them, before an application that takes `data:` URLs alone.

    How long that took stands in the request's scope, in milliseconds by `clock`.
    """

    def __init__(
        self, app: App, fetcher: Fetcher, limits: Limits, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.app, self.fetcher, self.limits, self.clock = app, fetcher, limits, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != CHAT_PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        parts = await received_parts(receive)
        if parts is None:
            return
        came, begun = b"".join(parts), self.clock()
        try:
            body = await self._filled(came)
        except RequestRefusedError as refused:
            await refusal(send, refused)
            return
        if body is not came:
            scope[FETCHED] = 1e3 * (self.clock() - begun)
        headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
        scope["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
        whole: Message = {"type": "http.request", "body": body, "more_body": False}
        await self.app(scope, replay(whole, receive), send)

    async def _filled(self, body: bytes) -> bytes:
        """Return a body with its pictures in it; one that names no address, or is no chat, as it came."""
        if b"http" not in body:
            return body
        try:
            document: Any = json.loads(body)
        except (ValueError, RecursionError):
            return body  # the application says what is wrong
        places = [place for place in _pictures(document) if str(place["url"]).startswith(("http:", "https:"))]
        if not places:
            return body
        if len(places) > self.limits.pictures:
            message = f"the request names {len(places)} pictures; expected {self.limits.pictures} at most"
            raise RequestRefusedError(message, status=413, code="too_many_images", param="messages")
        fetched = await asyncio.gather(*(asyncio.to_thread(self.fetcher.fetch, str(place["url"])) for place in places))
        if sum(map(len, fetched)) > self.limits.body_bytes:
            message = f"the pictures have more than {self.limits.body_bytes:,} bytes together"
            raise RequestRefusedError(message, status=413, code="request_too_large", param="messages")
        for place, data in zip(places, fetched, strict=True):
            place["url"] = "data:image;base64," + b64encode(data).decode()
        return json.dumps(document).encode()


def _pictures(document: Any) -> list[dict[str, Any]]:
    """Return the objects of a chat that have a picture's address under `url`; addresses by themselves become such."""
    messages: Any = document.get("messages") if isinstance(document, dict) else None
    found: list[dict[str, Any]] = []
    for message in cast("list[Any]", messages) if isinstance(messages, list) else []:
        content: Any = message.get("content") if isinstance(message, dict) else None
        for part in cast("list[Any]", content) if isinstance(content, list) else []:
            if isinstance(part, dict) and "image_url" in part:
                cells = cast("dict[str, Any]", part)
                image: Any = cells["image_url"] if isinstance(cells["image_url"], dict) else {"url": cells["image_url"]}
                cells["image_url"] = image
                if "url" in image:
                    found.append(image)
    return found
