"""`answers-rank0.jsonl`: answers of batched passes, which tell accuracies and no latency; samples tell both.

A batch has no latency of one request, so nothing of a batched pass stands among a profile's samples.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from paceline.errors import ProfileDataError
from paceline.profiles.journal import Journal
from paceline.records import KnobConfig

FILE_NAME = "answers-rank0.jsonl"
MEND = "delete the line, so that its question is answered again, or certify into a new directory"

AnswerKey = tuple[str, str, KnobConfig]


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer of a batched pass, with the number of questions that shared its batch, and its share of the batch's time in
    seconds (None in stores older than that)."""

    dataset: str
    sample_id: str
    config: str
    accuracy: float
    pred: str
    output_tokens: int
    batch_size: int
    seconds: float | None = None

    @property
    def key(self) -> AnswerKey:
        """The data set, the question and the configuration."""
        return self.dataset, self.sample_id, KnobConfig.from_key(self.config)


class AnswerJournal:
    """The answers of a store: what is known, and a place for the next one; one process writes it. `seconds` is what they took."""

    def __init__(self, journal: Journal, answers: Iterable[Answer]) -> None:
        self._journal, self.accuracies, self.seconds = journal, dict[AnswerKey, float](), 0.0
        for answer in answers:
            self._add(answer)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open or create the journal of a store, without the unfinished last line of a killed run.

        Raises ProfileDataError for a line that is no answer, ProfileConflictError when another process writes it.
        """
        journal = Journal.open(directory / FILE_NAME, fsync=False)  # lost with the power, it is answered again
        try:
            return cls(journal, read_answers(directory))
        except ProfileDataError:
            journal.close()
            raise

    def append(self, answer: Answer) -> None:
        """Keep one answer; raises OutputPathError on a full disk."""
        self._journal.append(answer)
        self._add(answer)

    def _add(self, answer: Answer) -> None:
        self.accuracies[answer.key] = answer.accuracy
        self.seconds += answer.seconds or 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._journal.close()


def read_answers(directory: Path) -> Iterator[Answer]:
    """Yield the answers of a store's batched passes, none where there were none; an unfinished last line is left out.

    Raises ProfileDataError, naming the line, for one that is no answer.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        return
    try:
        with path.open("rb") as lines:
            yield from _answers_in(lines, path)
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise ProfileDataError(path, problem, expected="the answers of batched passes", mend=MEND) from error


def _answers_in(lines: Iterable[bytes], path: Path) -> Iterator[Answer]:
    decoder = msgspec.json.Decoder(Answer)
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return
        try:
            answer = decoder.decode(line)
            answer.key  # noqa: B018  its configuration is read
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProfileDataError(
                path, f"line {number}: {error}", expected="one answer of a batched pass", mend=MEND
            ) from error
        yield answer
