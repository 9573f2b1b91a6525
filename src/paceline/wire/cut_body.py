"""A request's body without its pictures: long `data:` URLs are cut out before JSON is read, and put back as they came.

A body of megabytes is then read as fast as its words are, and its pictures are looked at where they lie.
"""

import json
import re
import secrets
from dataclasses import dataclass, field

OPENING = b'"data:'
SHORTEST_CUT = 4096  # bytes: a shorter string is read as fast as it is looked for
MARK = secrets.token_hex(16)  # of this process: a body that has it in its own words is not cut
NAME = re.compile(rf"data:{MARK}:([0-9]+)")
_PLACES = re.compile(NAME.pattern.encode())

Url = str | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class CutBody:
    """A body whose long `data:` URLs are cut out: `text` has a name where each stood, `urls` are their bytes in the body."""

    text: bytes
    urls: tuple[memoryview, ...] = field(default=())

    def url(self, said: str) -> Url:
        """Return the URL that a string of the text is the name of; the string itself where it is none."""
        found = NAME.fullmatch(said) if self.urls else None
        return said if found is None or int(found[1]) >= len(self.urls) else self.urls[int(found[1])]

    def whole(self, text: bytes) -> bytes:
        """Return a text made of this one with every URL in its place again."""
        if not self.urls:
            return text
        parts: list[bytes | memoryview] = list(_PLACES.split(text))
        for place in range(1, len(parts), 2):
            name = f"data:{MARK}:{int(parts[place])}"
            url = self.url(name)
            parts[place] = name.encode() if isinstance(url, str) else url
        return b"".join(parts)


def cut_out(body: bytes) -> CutBody:
    """Return a body without its long `data:` URLs.

    In JSON a quotation mark before `data:` opens a string unless it is escaped, and the next one ends it where no backslash
    stands between them. A string with one stays where it is, as does all of a body in another encoding than UTF-8.
    """
    place = body.find(OPENING)
    if place < 0 or json.detect_encoding(body) != "utf-8":
        return CutBody(text=body)
    seen = memoryview(body)
    parts: list[bytes | memoryview] = []
    urls: list[memoryview] = []
    done = 0
    while place >= 0:
        first, last = place + 1, body.find(b'"', place + 1)
        if last < 0:
            break
        if last - first >= SHORTEST_CUT and body[place - 1 : place] != b"\\" and body.find(b"\\", first, last) < 0:
            parts += [seen[done:first], f"data:{MARK}:{len(urls)}".encode()]
            urls.append(seen[first:last])
            done = last
        place = body.find(OPENING, last)
    text = b"".join([*parts, seen[done:]])
    return CutBody(text=text, urls=tuple(urls)) if text.count(MARK.encode()) == len(urls) > 0 else CutBody(text=body)
