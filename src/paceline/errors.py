"""Every error that a user can meet: what is wrong, what was expected, how to mend it, and the values as attributes."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path


class PacelineError(Exception):
    """A mistake that the user can mend; the command line prints it as one sentence and exits with 2."""


MOST_LETTERS = 200  # of a value that a sentence shows: a damaged file may hold one of megabytes
LONGEST_PROBLEM = 1000  # of what is wrong with a file, in words that may hold a name from it


def _shown(value: object, *, quoted: bool = True) -> str:
    shown = repr(value) if quoted else str(value)
    return shown if len(shown) <= MOST_LETTERS else f"{shown[:MOST_LETTERS]}…"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_PROBLEM else f"{text[:LONGEST_PROBLEM]}…"


class UnknownChoiceError(PacelineError, ValueError):
    """A name outside a closed list; names the closest one that exists."""

    def __init__(self, kind: str, value: object, expected: Sequence[str]) -> None:
        self.kind, self.value, self.expected = kind, value, tuple(expected)
        close = get_close_matches(_shown(value, quoted=False), self.expected, n=1)
        listed = " or ".join([", ".join(self.expected[:-1]), self.expected[-1]]) if len(expected) > 1 else expected[0]
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        super().__init__(f"{kind} {_shown(value)} is unknown; expected {listed}{hint}")


class InvalidValueError(PacelineError, ValueError):
    """A value outside its range; `expected` says the range in words."""

    def __init__(self, name: str, value: object, expected: str) -> None:
        self.name, self.value, self.expected = name, value, expected
        super().__init__(f"{name} is {_shown(value)}; expected {expected}")


class ModelError(PacelineError):
    """A model that Paceline cannot measure or steer, with the part that is missing."""


class PictureError(PacelineError, ValueError):
    """A picture that cannot be read or that no tier can carry."""


class UntrustedFileError(PacelineError):
    """A file that cannot be trusted: names it and the place in it, what is wrong, what was expected and how to mend it."""

    def __init__(self, path: Path | str, problem: str, *, expected: str, mend: str, place: str = "") -> None:
        self.path, self.problem, self.expected, self.mend = Path(path), problem, expected, mend
        super().__init__(f"{path}{_cut(place)}: {_cut(problem)}; expected {expected}; {mend}")


class ProfileDataError(UntrustedFileError, ValueError):
    """A profile file that cannot be trusted; names the sample and the field too."""

    def __init__(
        self,
        path: Path | str,
        problem: str,
        *,
        expected: str,
        mend: str,
        field: str | None = None,
        sample: str | None = None,
    ) -> None:
        self.field, self.sample = field, sample
        place = "".join([f", sample {sample!r}" if sample else "", f", field {field!r}" if field else ""])
        super().__init__(path, problem, expected=expected, mend=mend, place=place)


class ProfileConflictError(PacelineError):
    """Two measurements of one sample under one configuration, or one store asked to hold two different runs."""


class DatasetError(PacelineError, ValueError):
    """A data set that cannot be asked as it is: names the file, the row in it (from 0) and the field."""

    def __init__(
        self,
        place: Path | str,
        problem: str,
        *,
        expected: str,
        mend: str | None = None,
        row: int | None = None,
        field: str | None = None,
    ) -> None:
        self.place, self.problem, self.expected, self.mend = str(place), problem, expected, mend
        self.row, self.field = row, field
        where = "".join(["" if row is None else f", row {row}", "" if field is None else f", field {field!r}"])
        super().__init__(f"{place}{where}: {problem}; expected {expected}" + (f"; {mend}" if mend else ""))


class OutputPathError(PacelineError):
    """An output path that cannot be written; nothing was written."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path, self.reason = Path(path), reason
        super().__init__(f"cannot write to {path}: {reason}; choose another path or mend its permissions")


class TableError(PacelineError):
    """A lookup table that cannot be read, or that answers another question than the one asked."""


class EstimatorError(UntrustedFileError):
    """An estimator artifact that cannot be trusted or does not fit."""


class ControllerError(UntrustedFileError):
    """A learned controller that cannot be trusted or does not fit."""


class CertificateError(UntrustedFileError):
    """A certificate, or the parts and the plan behind it, that cannot be trusted or is asked for what it does not hold."""


class RequestFileError(UntrustedFileError, ValueError):
    """A trace, or a file of a benchmark run, that cannot be trusted; names the line and the column too."""

    def __init__(
        self,
        path: Path | str,
        problem: str,
        *,
        expected: str,
        mend: str,
        line: int | None = None,
        column: str | None = None,
    ) -> None:
        self.line, self.column = line, column
        place = "".join([f", line {line}" if line else "", f", column {column!r}" if column else ""])
        super().__init__(path, problem, expected=expected, mend=mend, place=place)


class BudgetTooSmallError(PacelineError):
    """No configuration fits the budget and the caller asked for strictness."""

    def __init__(self, budget_ms: float, fastest_ms: float) -> None:
        self.budget_ms, self.fastest_ms = budget_ms, fastest_ms
        super().__init__(
            f"no configuration keeps a budget of {budget_ms:g} ms: the fastest takes {fastest_ms:.1f} ms; "
            f"ask for at least that, or leave strictness off to get the nearest configuration, marked"
        )


class RequestRefusedError(PacelineError, ValueError):
    """A request over HTTP that is not served: its status, OpenAI's `code`, the field at fault and what else a client is told.

    `details` stand beside the message in the error object, `headers` in the answer.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        code: str = "invalid_value",
        param: str | None = None,
        details: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.status, self.code, self.param = status, code, param
        self.details, self.headers = dict(details or {}), dict(headers or {})
        super().__init__(message)


class RemoteServerError(PacelineError):
    """A server elsewhere that does not answer, or not as servers with OpenAI's interface do."""

    def __init__(self, server: str, problem: str, *, mend: str) -> None:
        self.server, self.problem = server, problem
        super().__init__(f"{server} {problem}; {mend}")


class StepTimeError(PacelineError, ValueError):
    """A step-time model that cannot be read, or a step log that none can be fitted on."""


class StepLogError(PacelineError, ValueError):
    """A line of a step log that cannot be trusted: names the field and what was expected."""


class EngineError(PacelineError):
    """A serving engine, or a setting of it, that Paceline's scheduler was not made for."""


class MissingExtraError(PacelineError, ImportError):
    """An optional dependency that is not installed, with the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{package} is not installed; run: pip install 'paceline[{extra}]'")


class PacelineWarning(UserWarning):
    """An answer that was given although it is not the one hoped for, such as a budget that nothing keeps."""
