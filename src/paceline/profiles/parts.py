"""`certify-parts.json`: which questions choose and which certify, written down before the first answer and sealed.

Questions about one picture are in one part. A question that chose a configuration knows it too well to judge it: it certifies
nothing, and calibrates no bound.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import polars as pl

from paceline.errors import CertificateError
from paceline.json_document import parsed_json, seal_of, sealed, stands_as_sealed
from paceline.profiles.atomic import write_atomically
from paceline.profiles.questions import AskedQuestion, Key

FILE_NAME = "certify-parts.json"
FORMAT = "paceline certifying parts"
MEND = "restore the file from a copy, or certify into a new directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionParts:
    """The questions of both parts by (dataset, sample_id), in the order in which they are asked.

    `pictures` numbers the picture of each certifying question: those about one picture stand together.
    """

    seed: int
    choosing: tuple[Key, ...]
    certifying: tuple[Key, ...]
    pictures: tuple[int, ...]

    @property
    def most_shared(self) -> int:
        """The largest number of certifying questions about one picture."""
        return max(Counter(self.pictures).values(), default=1)

    @property
    def sha256(self) -> str:
        """The seal, which names these very parts."""
        return seal_of(self._document())

    def write(self, directory: Path) -> None:
        """Write the file atomically; raises OutputPathError."""
        write_atomically(directory / FILE_NAME, (json.dumps(sealed(self._document()), indent=1) + "\n").encode())

    def _document(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "seed": self.seed,
            "pictures": list(self.pictures),
            "choosing": [list(key) for key in self.choosing],
            "certifying": [list(key) for key in self.certifying],
        }

    @staticmethod
    def read(directory: Path) -> "QuestionParts | None":
        """Return the parts of a store, None where it has none; raises CertificateError for a file that was changed."""
        path = directory / FILE_NAME
        if not path.is_file():
            return None
        try:
            document = parsed_json(path.read_bytes())
            fields = cast("Mapping[str, Any]", document)
            if not isinstance(document, dict) or not stands_as_sealed(fields) or fields["format"] != FORMAT:
                raise ValueError("was changed after it was written")
            return msgspec.convert(
                {name: fields[name] for name in ("seed", "choosing", "certifying", "pictures")}, QuestionParts
            )
        except (OSError, ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
            raise CertificateError(
                path, f"{error!s:.200}", expected="the sealed parts of a profile", mend=MEND
            ) from error

    def require_untouched(self, names: Iterable[Key], *, purpose: str, place: Path) -> None:
        """Raise CertificateError where a question of the choosing part is among those that are to certify or calibrate."""
        chose = set(self.choosing).intersection(names)
        if chose:
            dataset, sample_id = min(chose)
            raise CertificateError(
                place,
                f"{len(chose):,} questions of the choosing part are offered for {purpose}, {sample_id!r} of {dataset} first",
                expected="questions that chose nothing",
                mend="profile other questions into a new directory and use those",
            )


def parts_of(source: Path) -> QuestionParts | None:
    """Return the parts of a profile, also where it is read from the store's own Parquet file; None where it has none."""
    return QuestionParts.read(source.parent if source.is_file() else source)


def refuse_choosing_part(source: Path, samples: pl.DataFrame, *, purpose: str) -> None:
    """Raise CertificateError where samples of a profile are of its choosing part; a profile without parts has none."""
    parts = parts_of(source)
    if parts is not None:
        names = samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique()
        parts.require_untouched(names.iter_rows(), purpose=purpose, place=source)


def part_questions(questions: Sequence[AskedQuestion], *, choosing: int, seed: int) -> QuestionParts:
    """Return about `choosing` questions for the one part, of each set its share, and the rest for the other.

    Pictures are taken in an order that follows from the seed and their content; each stays whole.
    """
    groups = sorted(_by_picture(questions), key=lambda group: _place(seed, group[0].picture_sha256))
    counts = _counts(questions)
    quota = {name: round(choosing * count / len(questions)) for name, count in counts.items()}
    chosen: list[Key] = []
    rest: list[list[Key]] = []
    for group in groups:
        keys = [(each.dataset, each.sample_id) for each in group]
        if any(quota[dataset] > 0 for dataset, _ in keys):
            chosen += keys
            for dataset, _ in keys:
                quota[dataset] -= 1
        else:
            rest.append(keys)
    return QuestionParts(
        seed=seed,
        choosing=tuple(chosen),
        certifying=tuple(key for keys in rest for key in keys),
        pictures=tuple(number for number, keys in enumerate(rest) for _ in keys),
    )


def _by_picture(questions: Sequence[AskedQuestion]) -> list[list[AskedQuestion]]:
    """Return the questions grouped by picture: by its content, and by its id within a set."""
    group_of: dict[tuple[str, ...], list[AskedQuestion]] = {}
    for each in sorted(questions, key=lambda each: (each.dataset, each.sample_id)):
        names: list[tuple[str, ...]] = [(each.picture_sha256,)]
        if each.picture_id is not None:
            names.append((each.dataset, each.picture_id))
        known = {id(group): group for name in names if (group := group_of.get(name)) is not None}
        joined = [member for group in known.values() for member in group] + [each]
        for member in joined:
            group_of[(member.picture_sha256,)] = joined
            if member.picture_id is not None:
                group_of[(member.dataset, member.picture_id)] = joined
    return list({id(group): group for group in group_of.values()}.values())


def _counts(questions: Sequence[AskedQuestion]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in questions:
        counts[each.dataset] = counts.get(each.dataset, 0) + 1
    return counts


def _place(seed: int, picture: str) -> bytes:
    return hashlib.blake2b(f"{seed}/certify/{picture}".encode(), digest_size=8).digest()
