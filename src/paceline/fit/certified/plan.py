"""What is asked of a certificate, and the sealed file in which all is fixed before the first certifying answer."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from paceline.certify.margin import require_margin
from paceline.certify.procedure import ChosenGrid, PlannedTest
from paceline.certify.sequence import Rule, StoppingRule
from paceline.datasets.scorers.whole_set import WHOLE_SET_SCORERS
from paceline.errors import CertificateError, InvalidValueError, PacelineError
from paceline.estimate.json_fields import finite_number, typed, typed_fields
from paceline.json_document import SEAL, parsed_json, sealed, stands_as_sealed
from paceline.measure.profiling import ProfilePlan
from paceline.profiles.atomic import write_atomically
from paceline.records import KnobConfig

FILE_NAME = "certify-plan.json"
FORMAT = "paceline certificate plan"
DEFAULT_QUESTIONS = 3000
MOST_QUESTIONS = 1_000_000
MEND = "go on with the settings it was written with, or certify into a new directory"
TEST_FIELDS = {
    "config": "text",
    "rule": "text",
    "questions": "a whole number",
    "most_shared": "a whole number",
    "expected_loss": "a number",
    "bound_ms": "a number",
}
RIGHT_OR_WRONG = ("exact_match/1", "multiple_choice/1", "mmmu/1", "tally/1", "tally_normalised/1")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifyPlan:
    """A profile to be certified: within `epsilon` of the full configuration with probability 1 − `delta`.

    `questions` is how many are taken over all sets, choosing part included. With `minutes` the run ends in time, and answers
    are read so that it may.
    """

    profile: ProfilePlan
    epsilon: float
    delta: float
    questions: int = DEFAULT_QUESTIONS
    minutes: float | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        require_margin(self.epsilon, self.delta)
        if not 2 <= self.questions <= MOST_QUESTIONS:
            raise InvalidValueError("questions", self.questions, f"a whole number from 2 to {MOST_QUESTIONS:,}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise InvalidValueError("minutes", self.minutes, "a number of minutes above 0, for example 30")

    @property
    def measured(self) -> ProfilePlan:
        """The profile's own plan with as many questions of each set as the certificate takes."""
        return replace(self.profile, samples=max(1, math.ceil(self.questions / len(self.profile.datasets))))


def parse_margin(text: str) -> tuple[float, float]:
    """Read `EPS,DELTA` as a user writes it, for example `0.03,0.1`; raises InvalidValueError."""
    words = text.split(",")
    expected = "two numbers, the largest loss and the probability of error, for example 0.03,0.1"
    try:
        epsilon, delta = (float(word) for word in words)
    except ValueError as error:
        raise InvalidValueError("--certify", text, expected) from error
    require_margin(epsilon, delta)
    return epsilon, delta


def stopping_kind(plan: CertifyPlan, scorers: Sequence[str], *, most_shared: int, large: bool) -> Rule:
    """Return how answers are read: at two looks, or at any time where the plan or the answers ask for it.

    Raises InvalidValueError for a set that is judged as a whole: its questions have no accuracy of their own.
    """
    whole = [scorer for scorer in scorers if scorer in WHOLE_SET_SCORERS]
    if whole:
        raise InvalidValueError(
            "data sets", f"judged by {whole[0]}", "sets whose every answer has an accuracy: leave the captions out"
        )
    graded = any(scorer not in RIGHT_OR_WRONG for scorer in scorers)
    return "e_process" if plan.minutes is not None or graded or most_shared > 1 or large else "two_looks"


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPlan:
    """The sequence, its rules and bounds as they stand in the store, and the seal that names them."""

    tests: tuple[PlannedTest, ...]
    requests: int
    sha256: str


def fixed_plan(
    directory: Path, planned: Sequence[PlannedTest], chosen: ChosenGrid, *, requests: int, told: Mapping[str, object]
) -> SealedPlan:
    """Write the plan, or read the one that stands there; raises CertificateError where that was made otherwise.

    `told` says what it follows from: margin, seed, parts and the choosing part's answers.
    """
    path = directory / FILE_NAME
    document = sealed(
        {
            "format": FORMAT,
            **told,
            "requests": requests,
            "full": chosen.configs[chosen.full].key,
            "sequence": [
                {
                    "config": chosen.configs[each.place].key,
                    "rule": each.rule.kind,
                    "questions": each.rule.questions,
                    "most_shared": each.rule.most_shared,
                    "expected_loss": each.expected_loss,
                    "needed": each.needed,
                    "bound_ms": each.bound_ms,
                }
                for each in planned
            ],
        }
    )
    if path.is_file():
        return _standing(path, document, chosen)
    write_atomically(path, (json.dumps(document, indent=2) + "\n").encode())
    return SealedPlan(tests=tuple(planned), requests=requests, sha256=document[SEAL])


def answers_sha256(chosen: ChosenGrid) -> str:
    """Return what names the choosing part's answers."""
    return hashlib.sha256(chosen.answers_MC.tobytes()).hexdigest()


def _standing(path: Path, document: Mapping[str, Any], chosen: ChosenGrid) -> SealedPlan:
    try:
        held = parsed_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(path, f"cannot be read ({error})", expected="the sealed plan", mend=MEND) from error
    fields = cast("Mapping[str, Any]", held)
    if not isinstance(held, dict) or not stands_as_sealed(fields):
        raise CertificateError(path, "was changed after it was written", expected="the sealed plan", mend=MEND)
    for name in ("format", "epsilon", "delta", "seed", "latency_kind", "parts_sha256", "answers_sha256"):
        if fields.get(name) != document[name]:
            problem = f"{name} is {fields.get(name)!r:.60}, not {document[name]!r:.60}"
            raise CertificateError(path, problem, expected="the plan of this very run", mend=MEND)
    try:
        return SealedPlan(
            tests=tuple(_test(each, fields, chosen) for each in fields["sequence"]),
            requests=typed(fields["requests"], "a whole number", "requests"),
            sha256=fields[SEAL],
        )
    except (PacelineError, ValueError, KeyError, TypeError) as error:
        raise CertificateError(path, f"{error!s:.200}", expected="the sequence of this very run", mend=MEND) from error


def _test(cells: object, fields: Mapping[str, Any], chosen: ChosenGrid) -> PlannedTest:
    held = typed_fields(cells, TEST_FIELDS, place="sequence", prefix="sequence.")
    config, needed = KnobConfig.from_key(held["config"]), cast("Mapping[str, Any]", cells)["needed"]
    if config not in chosen.configs:
        raise InvalidValueError("sequence.config", config.key, "a configuration of this profile's grid")
    return PlannedTest(
        place=chosen.configs.index(config),
        expected_loss=finite_number(held["expected_loss"]),
        needed=None if needed is None else typed(needed, "a whole number", "sequence.needed"),
        bound_ms=finite_number(held["bound_ms"]),
        rule=StoppingRule(
            kind=held["rule"],
            epsilon=fields["epsilon"],
            delta=fields["delta"],
            questions=held["questions"],
            most_shared=held["most_shared"],
        ),
    )
