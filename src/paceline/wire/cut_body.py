"""A request's body without its pictures: long `data:` URLs are cut out before JSON is read, and put back as they came.

A body of megabytes is then read as fast as its words are, and its pictures are looked at where they lie.
"""

import json
import re
import secrets
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

OPENING, BASE64 = b'"data:', b";base64,"
LONGEST_KIND = 128  # bytes of what stands between the two
MOST_LOOKS = 2000
SHORTEST_CUT = 4096  # bytes: a shorter string is read as fast as it is looked for
MARK = secrets.token_hex(16)  # of this process: a body that has it in its own words is not cut
NAME = re.compile(rf"data:{MARK}:([0-9]+)")
_PLACES = re.compile(NAME.pattern.encode())

SLASH, BACKSLASH = ord("/"), ord("\\")
BLOCK = 256  # bytes: half of them may be escapes
LANES = np.uint64(0x0101010101010101)


class SlashedUrl:
    """A URL whose slashes are written `\\/`, as PHP does: what is asked for of it is read, the rest is passed over.

    How many escapes stand before a place is known by blocks of BLOCK bytes, and within one it is counted.
    """

    __slots__ = ("_length", "_starts_B", "_written")

    def __init__(self, written: memoryview, escapes_N: NDArray[np.bool_]) -> None:
        self._written = written
        # eight bytes of 0 or 1 are added at once: no sum of BLOCK / 8 of them reaches the next byte, nor the whole 256
        sums_B = escapes_N.view(np.uint64).reshape(-1, BLOCK // 8).sum(axis=1)
        counts_B = ((sums_B * LANES) >> np.uint64(56)).astype(np.int64)
        before_B = np.cumsum(counts_B)
        self._starts_B = BLOCK * np.arange(len(counts_B)) - before_B + counts_B
        self._length = len(written) - int(before_B[-1])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> bytes:
        first, last, _ = part.indices(self._length)
        read = bytes(self._written[self._place(first) : self._place(last)]).replace(b"\\/", b"/")
        return read.removesuffix(b"\\")  # its slash stands in the next block, and is not asked for

    def _place(self, place: int) -> int:
        """Return where a place of the URL as it reads is in what was written: at the escape of a slash."""
        block = int(np.searchsorted(self._starts_B, place, side="right")) - 1
        start = BLOCK * block
        written = bytes(self._written[start : start + BLOCK])
        offset = found = place - int(self._starts_B[block])
        while (counted := offset + written.count(b"\\", 0, found)) != found:
            found = counted
        return start + found


Url = str | memoryview | SlashedUrl


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
        return url if isinstance(url, str) else bytes(url[:]).decode(errors="replace")

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


def _read(url: memoryview) -> Url:
    """Return what a URL says that is written with escapes; nothing where they are none, which the server says."""
    if (slashed := _slashed(url)) is not None:
        return slashed
    written = b'"%b"' % url
    try:
        return msgspec.json.decode(written, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return str(json.loads(written))
    except ValueError:
        return ""


def _slashed(url: memoryview) -> SlashedUrl | None:
    """Return a URL that has no other escapes than those of slashes; None for another."""
    letters_N = np.frombuffer(url, dtype=np.uint8)
    escapes_N = np.zeros(-(-len(letters_N) // BLOCK) * BLOCK, dtype=np.bool_)
    np.equal(letters_N, BACKSLASH, out=escapes_N[: len(letters_N)])
    others = letters_N[1:] != SLASH
    others &= escapes_N[: len(others)]
    return None if others.any() or letters_N[-1] == BACKSLASH else SlashedUrl(url, escapes_N)
