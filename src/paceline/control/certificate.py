"""The certificate of a table: which configurations are within ε of the full one and keep their bound, and how that was shown.

It stands in the table's file, sealed: what was edited by hand is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from paceline.certify.margin import require_margin
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.json_document import SEAL, sealed, stands_as_sealed
from paceline.records import LATENCY_KINDS, KnobConfig, LatencyKind

FORMAT = "paceline certificate"
VERDICTS = ("certified", "failed", "open")
KINDS: dict[str, type | tuple[type, ...]] = {
    "text": str,
    "a whole number": int,
    "a number": (int, float),
    "a list": list,
    "an object": dict,
}
FIELDS = {
    "epsilon": "a number",
    "delta": "a number",
    "rule": "text",
    "latency_kind": "text",
    "full": "text",
    "claims": "a list",
    "choosing_questions": "a whole number",
    "certifying_questions": "a whole number",
    "mix": "an object",
    "model": "text",
    "seed": "a whole number",
    "plan_sha256": "text",
    "stopped": "text",
}
CLAIM_FIELDS = {
    "config": "text",
    "verdict": "text",
    "asked": "a whole number",
    "broken": "a whole number",
    "mended": "a whole number",
    "mean_loss": "a number",
    "bound_ms": "a number",
    "requests": "a whole number",
    "exceeded": "a whole number",
    "needed": "a whole number",
}
ABSENT = ("stopped", "needed")  # null where there is nothing to say

Verdict = Literal["certified", "failed", "open"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedClaim:
    """One step of the sequence: the claim about a configuration, and the counts behind its verdict.

    The claim: it answers at most ε worse than the full configuration, and at most one in twenty of its requests takes longer
    than `bound_ms`. Of `asked` questions it broke `broken` answers and mended `mended`; of `requests` timed ones `exceeded`
    took longer. `needed` is how many questions were planned to be enough, None where none seemed to be.
    """

    config: KnobConfig
    verdict: Verdict
    asked: int
    broken: int
    mended: int
    mean_loss: float
    bound_ms: float
    requests: int
    exceeded: int
    needed: int | None = None

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise UnknownChoiceError("verdict", self.verdict, VERDICTS)
        counts = (self.asked, self.broken, self.mended, self.requests, self.exceeded)
        if min(counts) < 0 or self.broken + self.mended > self.asked or self.exceeded > self.requests:
            raise InvalidValueError("counts of a certificate", counts, "none below 0, and parts no larger than wholes")
        if not (math.isfinite(self.mean_loss) and math.isfinite(self.bound_ms)):
            figures = (self.mean_loss, self.bound_ms)
            raise InvalidValueError("mean_loss, bound_ms of a certificate", figures, "finite numbers")

    def __str__(self) -> str:
        loss = f"lost {100 * self.mean_loss:+.2f} points of {self.asked:,} ({self.broken} broken, {self.mended} mended)"
        late = f"{self.exceeded} of {self.requests} requests over {self.bound_ms:.1f} ms"
        return f"{self.config.key}: {self.verdict}; {loss}, {late}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What was certified, for which mix of questions and with which error, and what chose the sequence.

    With probability 1 − δ over the certifying questions every certified claim of the sequence is true. `mix` counts the
    certifying questions by set: the claims are about that mix. `latency_kind` is that of the bounds. `plan_sha256` names the
    sealed plan that was written before the first certifying answer.
    """

    epsilon: float
    delta: float
    rule: str
    latency_kind: LatencyKind
    full: KnobConfig
    claims: tuple[CertifiedClaim, ...]
    choosing_questions: int
    certifying_questions: int
    mix: Mapping[str, int]
    model: str
    seed: int
    plan_sha256: str
    stopped: str | None = None

    def __post_init__(self) -> None:
        require_margin(self.epsilon, self.delta)
        if self.latency_kind not in LATENCY_KINDS:
            raise UnknownChoiceError("latency kind", self.latency_kind, LATENCY_KINDS)
        seen_open = False
        for claim in self.claims:
            if claim.verdict == "certified" and seen_open:
                raise InvalidValueError("verdicts", claim.config.key, "nothing certified after the first that was not")
            seen_open = seen_open or claim.verdict != "certified"

    @property
    def certified(self) -> tuple[KnobConfig, ...]:
        """The configurations that may be taken in the certificate's name: the full one, and those that passed."""
        return (self.full, *(claim.config for claim in self.claims if claim.verdict == "certified"))

    @property
    def sentence(self) -> str:
        """What is certain and what is not, in words."""
        passed = [claim for claim in self.claims if claim.verdict == "certified"]
        failed = [claim.config.key for claim in self.claims if claim.verdict == "failed"]
        left = [claim.config.key for claim in self.claims if claim.verdict == "open"]
        named = ", ".join(f"{claim.config.key} (95 of 100 requests within {claim.bound_ms:.1f} ms)" for claim in passed)
        told = [
            f"within {100 * self.epsilon:g} points of {self.full.key} with probability {1 - self.delta:g}: "
            + (named or "nothing is certified")
        ]
        if failed:
            told.append(f"not shown: {', '.join(failed)}")
        if left:
            told.append(f"not decided: {', '.join(left)}")
        return "; ".join(told)

    def document(self) -> dict[str, Any]:
        """Return the certificate as the sealed JSON object of a table's file."""
        own = {
            each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("full", "claims", "mix")
        }
        return sealed(
            {
                "format": FORMAT,
                **own,
                "mix": dict(self.mix),
                "full": self.full.key,
                "claims": [
                    {
                        each.name: claim.config.key if each.name == "config" else getattr(claim, each.name)
                        for each in fields(claim)
                    }
                    for claim in self.claims
                ],
            }
        )


def parse_certificate(document: object) -> Certificate:
    """Return the certificate of a table's file; raises InvalidValueError for one that was changed or is none."""
    expected = "the object that `paceline profile --certify` wrote, unchanged"
    held = cast("Mapping[str, Any]", document)
    if not isinstance(document, dict) or held.get("format") != FORMAT or not stands_as_sealed(held):
        raise InvalidValueError("certificate", "changed after it was written, or none", expected)
    values: dict[str, Any] = {name: value for name, value in held.items() if name not in ("format", SEAL)}
    _refuse_unfit(values, FIELDS, "")
    _refuse_unfit(values.get("mix", {}), dict.fromkeys(values.get("mix", {}), "a whole number"), "mix.")
    try:
        values["claims"] = tuple(_claim(claim) for claim in held["claims"])
        values["full"] = KnobConfig.from_key(held["full"])
        return Certificate(**values)
    except (TypeError, KeyError) as error:
        raise InvalidValueError("certificate", f"without a field ({error})", expected) from error


def _refuse_unfit(values: Mapping[str, Any], kinds: Mapping[str, str], prefix: str) -> None:
    """Raise InvalidValueError for a field that a certificate has not, or one of another kind, whoever sealed it."""
    if not isinstance(values, dict):
        raise InvalidValueError("certificate", f"with {values!r:.60} for a claim", "an object for each claim")
    unknown = next((name for name in values if name not in kinds), None)
    if unknown is not None:
        raise InvalidValueError(
            "certificate", f"with a field {prefix}{unknown:.60}", f"no other than {', '.join(kinds)}"
        )
    for name, value in values.items():
        # bool is an int to Python, but `true` is no count
        fits = isinstance(value, KINDS[kinds[name]]) and not isinstance(value, bool)
        if not fits and not (name in ABSENT and value is None):
            raise InvalidValueError(f"certificate.{prefix}{name}", value, kinds[name])


def _claim(cells: Mapping[str, Any]) -> CertifiedClaim:
    _refuse_unfit(cells, CLAIM_FIELDS, "claims.")
    values: dict[str, Any] = {**cells, "config": KnobConfig.from_key(cells["config"])}
    return CertifiedClaim(**values)
