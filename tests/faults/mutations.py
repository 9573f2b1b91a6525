"""Damage by structure: documents with one thing changed in them, lines, cells, tensors and bytes; a seed is one damage."""

import copy
import io
import json
import zipfile
from random import Random

STRANGE = [
    None, True, False, -1, 0, 1, 0.5, -0.5, 1e308, 1e999, -1e999, float("nan"), 2**31, 2**53, 2**63, 10**20, 10**400, "",
    " ", "12", "nan", "hgih", "high", "none", [], {}, [1], [[]], {"a": 1}, "\ud800", "\x00", "a" * 300, "../x", "\x1b[31m",
]  # fmt: skip
WORDS = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"Infinity", b"1e999", b"-", b'"', b"{", b"}", b"[" * 2000, b"\n", b"\r",
    b",", b"9" * 5000, b"null", b"\\ud800", b"\x1b[31m", b"\x80",
]  # fmt: skip


def damaged(shape: str, content: bytes, random: Random, seal=None) -> bytes:
    """Return the content with one to three things changed, by its shape or by its bytes."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        change = BY_SHAPE.get(shape)
        if change is None or random.random() < 0.3:
            content = by_bytes(content, random)
        else:
            try:
                content = change(content, random, seal)
            except Exception:
                content = by_bytes(content, random)  # damaged before
    return content


def by_bytes(content: bytes, random: Random) -> bytes:
    at, size = random.randrange(len(content) + 1), random.choice([1, 2, 4, 16, 100])
    kind = random.randrange(7)
    if kind == 0 and at < len(content):
        changed = bytearray(content)
        changed[at] ^= 1 << random.randrange(8)
        return bytes(changed)
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + content[at + size :]
    if kind == 3:
        return content[: at + size] + content[at:]
    if kind == 4:
        return content[:at] + random.choice(WORDS) + content[at:]
    if kind == 5:
        other = random.randrange(len(content) + 1)
        return content[:at] + content[other : other + size] + content[at + size :]
    return content[:at] + random.randbytes(size) + content[at + size :]


def places(value, path=()) -> list[tuple]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        found += places(inner, (*path, name))
    return found


def in_value(document, random: Random):
    """Return a JSON value with one place in it changed."""
    document = copy.deepcopy(document)
    found = places(document)
    if not found:
        return random.choice(STRANGE)
    *above, last = random.choice(found)
    owner = document
    for name in above:
        owner = owner[name]
    kind, old = random.randrange(8), owner[last]
    if kind == 0:
        del owner[last]
    elif kind == 1 and isinstance(last, str):
        letters = list(last) or ["x"]
        letters[random.randrange(len(letters))] = random.choice("aeT_ \x00é9")
        owner["".join(letters)] = owner.pop(last)
    elif kind == 2 and isinstance(old, (int, float)) and not isinstance(old, bool):
        owner[last] = random.choice([-old, old + 1, old * 10, old / 3, old * 1e300, str(old)])
    elif kind == 3:
        *other_above, other_last = random.choice(found)
        other = document
        for name in other_above:
            other = other[name]
        owner[last] = copy.deepcopy(other[other_last])
    elif kind == 4:
        owner[last] = [old]
    elif kind == 5 and isinstance(owner, list):
        owner.insert(random.randrange(len(owner) + 1), copy.deepcopy(old))
    else:
        owner[last] = copy.deepcopy(random.choice(STRANGE))
    return document


def in_json(content: bytes, random: Random, seal) -> bytes:
    changed = in_value(json.loads(content), random)
    if seal is not None and isinstance(changed, dict) and random.random() < 0.7:
        changed = seal(changed)
    return json.dumps(changed).encode()


def in_lines(content: bytes, random: Random, seal) -> bytes:
    lines = content.split(b"\n")
    at, kind = random.randrange(len(lines)), random.randrange(8)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(random.randrange(len(lines) + 1), lines[at])
    elif kind == 2:
        other = random.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:
        lines[at] = lines[at][: random.randrange(len(lines[at]) + 1)]
    else:
        lines[at] = in_json(lines[at], random, seal)
    return b"\n".join(lines)


def in_events(content: bytes, random: Random, seal) -> bytes:
    events = content.split(b"\n\n")
    at = random.randrange(len(events))
    if random.random() < 0.3:
        events[at] = by_bytes(events[at], random)
    else:
        events[at] = b"data: " + in_json(events[at][6:], random, seal)
    return b"\n\n".join(events)


def in_cells(content: bytes, random: Random, _seal) -> bytes:
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    cells = lines[at].split(b",")
    place, kind = random.randrange(len(cells)), random.randrange(6)
    if kind == 0:
        del cells[place]
    elif kind == 1:
        cells.insert(place, cells[place])
    elif kind == 2:
        lines.insert(at, lines[at])
    else:
        value = random.choice([*STRANGE, "2023-11-16 18:15:46.68", "1_000", "0x10", "１", "+5", "5 ", "1e3", '"'])
        cells[place] = str(value).encode("utf-8", "surrogatepass")
    lines[at] = b",".join(cells)
    return b"\n".join(lines)


def in_safetensors(content: bytes, random: Random, _seal) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    if random.random() < 0.5 and data:
        at = random.randrange(0, len(data), 4)
        data[at : at + 4] = random.choice(
            [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", random.randbytes(4)]
        )
        written = json.dumps(header).encode()
    else:
        written = json.dumps(in_value(header, random)).encode()
    return len(written).to_bytes(8, "little") + written + bytes(data)


def in_zip(content: bytes, random: Random, _seal) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name, kind = random.choice(sorted(members)), random.randrange(4)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[name] = members[random.choice(sorted(members))]
    else:
        members[name] = by_bytes(members[name], random)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for each, data in members.items():
            archive.writestr(each, data)
    return out.getvalue()


BY_SHAPE = {
    "json": in_json,
    "lines": in_lines,
    "events": in_events,
    "csv": in_cells,
    "safetensors": in_safetensors,
    "npz": in_zip,
}
