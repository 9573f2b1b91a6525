"""The front as a fixed sequence of tests: closest to the full configuration first, until the first failure.

Each is tested at δ and none is split, for a configuration is reached only when all before it were certified (fixed-sequence
Learn then Test: Angelopoulos et al., arXiv 2110.01052; Pareto Testing, arXiv 2210.07913). A certificate holds two claims, the
loss of accuracy and the latency bound, and both have to pass at δ (intersection–union: Berger, Technometrics 24, 1982, 295).

Legend of array suffixes: M questions in the order in which they are asked, C configurations, T pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paceline.certify.betting import first_crossing, log_evidence
from paceline.certify.exact import certifies
from paceline.certify.margin import require_margin
from paceline.errors import InvalidValueError, UnknownChoiceError

Floats = NDArray[np.float64]

Rule = Literal["two_looks", "e_process"]
RULES: tuple[Rule, ...] = ("two_looks", "e_process")
FIRST_LOOK_SHARE = 0.25  # of δ, spent after half of the questions


def front_sequence(accuracy_C: Floats, latency_C: Floats, full: int) -> list[int]:
    """Return the places of the accuracy–latency front, the most accurate first, faster than the full configuration all.

    A place is on the front where no faster one is as accurate. The full configuration itself is not among them.
    """
    order = np.lexsort((-accuracy_C, latency_C))
    front: list[int] = []
    best = -np.inf
    for place in order.tolist():
        if accuracy_C[place] > best and latency_C[place] < latency_C[full] and place != full:
            front.append(place)
        best = max(best, float(accuracy_C[place]))
    return front[::-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """How one configuration is judged, fixed before its first answer: margin, level, test and the most questions.

    `two_looks` reads 0/1 answers after half of the questions, at a quarter of δ, and after all, at the rest; `e_process` reads
    any answers after every picture. `most_shared` is the largest number of questions about one picture.
    """

    kind: Rule
    epsilon: float
    delta: float
    questions: int
    most_shared: int = 1

    def __post_init__(self) -> None:
        require_margin(self.epsilon, self.delta)
        if self.kind not in RULES:
            raise UnknownChoiceError("stopping rule", self.kind, RULES)
        if self.questions < 1 or self.most_shared < 1:
            raise InvalidValueError("questions of a stopping rule", self.questions, "at least 1")
        if self.kind == "two_looks" and self.most_shared > 1:
            raise InvalidValueError(
                "stopping rule", self.kind, "e_process: several questions share a picture and are not independent"
            )

    @property
    def looks(self) -> tuple[int, ...]:
        """After how many questions `two_looks` reads its answers."""
        half = (self.questions + 1) // 2
        return (half, self.questions) if half < self.questions else (self.questions,)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyVerdict:
    """What the answers so far say: certified (True), failed (False) or open (None), and after how many questions.

    `log_evidence` is that of the e-process; None under `two_looks`.
    """

    certified: bool | None
    asked: int
    broken: int
    mended: int
    mean_loss: float
    log_evidence: float | None = None


def judge_accuracy(losses_M: Floats, rule: StoppingRule, pictures_M: Sequence[object] | None = None) -> AccuracyVerdict:
    """Return the verdict on a configuration from its losses: the full configuration's accuracy minus its own, question by
    question in the sealed order.

    `pictures_M` names each question's picture; questions of one stand together. What lies beyond the rule's last question, or
    after the one that decided, is not looked at.
    """
    losses_M = np.asarray(losses_M, dtype=np.float64)[: rule.questions]
    if rule.kind == "two_looks":
        return _two_looks(losses_M, rule)
    return _any_time(losses_M, rule, pictures_M)


def _two_looks(losses_M: Floats, rule: StoppingRule) -> AccuracyVerdict:
    if not np.isin(losses_M, (-1, 0, 1)).all():
        raise InvalidValueError("stopping rule", rule.kind, "e_process: answers are graded, not right or wrong")
    shares = (FIRST_LOOK_SHARE, 1 - FIRST_LOOK_SHARE) if len(rule.looks) == 2 else (1.0,)
    for look, share in zip(rule.looks, shares, strict=True):
        if len(losses_M) < look:
            return _verdict(None, losses_M)
        seen_M = losses_M[:look]
        if certifies(int((seen_M > 0).sum()), int((seen_M < 0).sum()), look, rule.epsilon, rule.delta * share):
            return _verdict(True, seen_M)
    return _verdict(False, losses_M)


def _any_time(losses_M: Floats, rule: StoppingRule, pictures_M: Sequence[object] | None) -> AccuracyVerdict:
    ends_T, means_T, weights_T = _by_picture(losses_M, rule, pictures_M)
    crossing = first_crossing(means_T, rule.epsilon, rule.delta, weights_T)
    if crossing is not None:
        asked = int(ends_T[crossing - 1])
        evidence = log_evidence(means_T[:crossing], rule.epsilon, weights_T[:crossing])[-1]
        return _verdict(True, losses_M[:asked], float(evidence))
    evidence = float(log_evidence(means_T, rule.epsilon, weights_T)[-1]) if len(means_T) else 0.0
    return _verdict(False if len(losses_M) >= rule.questions else None, losses_M, evidence)


def _by_picture(
    losses_M: Floats, rule: StoppingRule, pictures_M: Sequence[object] | None
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Return where each whole picture ends, its mean loss and its number of questions over the largest."""
    if pictures_M is None or rule.most_shared == 1:
        return np.arange(1, len(losses_M) + 1), losses_M, np.ones(len(losses_M))
    names = list(pictures_M)[: len(losses_M)]
    ends = [place for place in range(1, len(names)) if names[place] != names[place - 1]]
    if len(losses_M) == rule.questions:
        ends.append(len(names))  # before that the last picture may not be whole
    ends_T = np.array(ends, dtype=np.int64)
    starts_T = np.concatenate([[0], ends_T[:-1]]).astype(np.int64) if ends else ends_T
    counts_T = ends_T - starts_T
    if len(counts_T) and counts_T.max() > rule.most_shared:
        raise InvalidValueError(
            "questions about one picture", int(counts_T.max()), f"at most {rule.most_shared}, as was fixed"
        )
    sums_T = np.add.reduceat(losses_M[: ends_T[-1]], starts_T) if ends else np.zeros(0)
    return ends_T, sums_T / np.maximum(counts_T, 1), counts_T / rule.most_shared


def _verdict(certified: bool | None, losses_M: Floats, evidence: float | None = None) -> AccuracyVerdict:
    return AccuracyVerdict(
        certified=certified,
        asked=len(losses_M),
        broken=int((losses_M > 0).sum()),
        mended=int((losses_M < 0).sum()),
        mean_loss=float(losses_M.mean()) if len(losses_M) else 0.0,
        log_evidence=evidence,
    )
