"""A request's body without its pictures: long `data:` URLs are cut out before JSON is read, and put back as they came.

A body of megabytes is then read as fast as its words are, and its pictures are looked at where they lie.
"""

import json
import re
import secrets
from dataclasses import dataclass

import msgspec

OPENING, BASE64 = b'"data:', b";base64,"
LONGEST_KIND = 128  # bytes of what stands between the two
MOST_LOOKS = 2000
SHORTEST_CUT = 4096  # bytes: a shorter string is read as fast as it is looked for
MARK = secrets.token_hex(16)  # of this process: a body that has it in its own words is not cut
NAME = re.compile(rf"data:{MARK}:([0-9]+)")
_PLACES = re.compile(NAME.pattern.encode())

Url = str | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class CutBody:
    """A body whose long `data:` URLs are cut out: `text` has a name where each stood, `urls` are their bytes in the body.

    `escaped` are the numbers of those that are written with escapes.
    """

    text: bytes
    urls: tuple[memoryview, ...] = ()
    escaped: tuple[int, ...] = ()

    def url(self, said: str) -> Url:
        """Return the URL that a string of the text is the name of; the string itself where it is none."""
        found = NAME.fullmatch(said) if self.urls else None
        if found is None or int(found[1]) >= len(self.urls):
            return said
        number = int(found[1])
        return _read(self.urls[number]) if number in self.escaped else self.urls[number]

    def words(self, said: str) -> str:
        """Return a string of the text as the client wrote it."""
        url = self.url(said)
        return url if isinstance(url, str) else bytes(url).decode(errors="replace")

    def whole(self, text: bytes) -> bytes:
        """Return a text made of this one with every URL in its place again."""
        if not self.urls:
            return text
        parts: list[bytes | memoryview] = list(_PLACES.split(text))
        for place in range(1, len(parts), 2):
            number = int(parts[place])
            parts[place] = self.urls[number] if number < len(self.urls) else f"data:{MARK}:{number}".encode()
        return b"".join(parts)


def cut_out(body: bytes) -> CutBody:
    """Return a body without its long `data:` URLs of base64.

    In JSON a quotation mark before `data:` opens a string unless it is escaped, and the next one that is not ends it; base64 has
    none. A body in another encoding than UTF-8 stays whole, and so does what comes after many words like these.
    """
    place = body.find(OPENING)
    if place < 0 or json.detect_encoding(body) != "utf-8":
        return CutBody(text=body)
    seen = memoryview(body)
    parts: list[bytes | memoryview] = []
    urls: list[memoryview] = []
    escaped: list[int] = []
    done = 0
    for _ in range(MOST_LOOKS):
        first, last = place + 1, body.find(b'"', place + 1)
        if place < 0 or last < 0:
            break
        if last - first >= SHORTEST_CUT and _is_base64(body, first) and not _follows_a_backslash(body, place, last):
            parts += [seen[done:first], f"data:{MARK}:{len(urls)}".encode()]
            escaped += [len(urls)] if body.find(b"\\", first, last) >= 0 else []
            urls.append(seen[first:last])
            done = last
        place = body.find(OPENING, last)
    text = b"".join([*parts, seen[done:]])
    if not urls or text.count(MARK.encode()) != len(urls):
        return CutBody(text=body)
    return CutBody(text=text, urls=tuple(urls), escaped=tuple(escaped))


def _follows_a_backslash(body: bytes, *places: int) -> bool:
    return any(body[place - 1 : place] == b"\\" for place in places)


def _is_base64(body: bytes, first: int) -> bool:
    return body.find(BASE64, first, first + LONGEST_KIND) >= 0


def _read(url: memoryview) -> str:
    """Return what a URL says that is written with escapes; nothing where they are none, which the server says."""
    written = b'"%b"' % url
    try:
        return msgspec.json.decode(written, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return str(json.loads(written))
    except ValueError:
        return ""
