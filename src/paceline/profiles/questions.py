"""`questions.jsonl`: which questions a profile asked, so that another run can be held to the same ones.

Answers to a metric of a whole set (CIDEr) are stored without an accuracy: it follows from all of them, and from the references
that stand here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from paceline.errors import ProfileConflictError, ProfileDataError
from paceline.json_document import refuse_unknown_fields
from paceline.profiles.atomic import write_atomically

FILE_NAME = "questions.jsonl"
NAMED_BY = ("picture_sha256", "prompt_sha256", "references", "scorer")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedQuestion:
    """One question of a profile: its id, hashes of its picture and of the prompt as sent, and how it is judged."""

    dataset: str
    sample_id: str
    picture_sha256: str
    prompt_sha256: str
    scorer: str
    references: tuple[str, ...]
    choices: tuple[str, ...] = ()
    picture_id: str | None = None
    types: tuple[str, ...] = ()


Key = tuple[str, str]


def read_questions(directory: Path) -> dict[Key, AskedQuestion]:
    """Return the questions by (dataset, sample_id); none for a profile older than the file.

    Raises ProfileDataError, and ProfileConflictError where one stands there twice and differs.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return {}
    try:
        content = path.read_bytes()
        asked = msgspec.json.Decoder(AskedQuestion).decode_lines(content)
        refuse_unknown_fields(msgspec.json.Decoder().decode_lines(content), msgspec.to_builtins(asked))
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise ProfileDataError(
            path,
            f"cannot be read ({error})",
            expected="the questions that `paceline profile` writes, a line each",
            mend="restore the file from a copy, or profile into a new directory",
        ) from error
    return joined_questions(directory, {}, asked)


def pictures_of_profile(source: Path) -> dict[Key, str]:
    """Return the hash of each question's picture by (dataset, sample_id); none for what is no store of `paceline profile`."""
    questions = read_questions(source) if source.is_dir() else {}
    return {name: each.picture_sha256 for name, each in questions.items()}


def write_questions(directory: Path, questions: Iterable[AskedQuestion]) -> None:
    """Write the file atomically, in the order of names; raises OutputPathError."""
    ordered = sorted(questions, key=lambda each: (each.dataset, each.sample_id))
    write_atomically(directory / FILE_NAME, b"".join(msgspec.json.encode(each) + b"\n" for each in ordered))


def joined_questions(
    directory: Path, held: Mapping[Key, AskedQuestion], asked: Iterable[AskedQuestion]
) -> dict[Key, AskedQuestion]:
    """Return both; raises ProfileConflictError where one id stands for two pictures, prompts, references or scorers."""
    joined = dict(held)
    for each in asked:
        known = joined.setdefault((each.dataset, each.sample_id), each)
        field = next((name for name in NAMED_BY if getattr(known, name) != getattr(each, name)), None)
        if field is not None:
            raise ProfileConflictError(
                f"{directory} holds question {each.sample_id!r} of {each.dataset} with the {field} "
                f"{getattr(known, field)!r}, but now it is {getattr(each, field)!r}; expected the same question under the "
                "same id: choose another --out, or ask the data set that the profile was made with"
            )
    return joined
