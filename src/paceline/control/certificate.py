"""The certificate of a table: which configurations are within ε of the full one and keep their bound, and how that was shown.

It stands in the table's file, sealed: what was edited by hand is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast

from paceline.certify.margin import require_margin
from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.json_document import sealed, stands_as_sealed
from paceline.records import LATENCY_KINDS, KnobConfig, LatencyKind

FORMAT = "paceline certificate"
VERDICTS = ("certified", "failed", "open")

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
    known = {each.name for each in fields(Certificate)}
    values: dict[str, Any] = {name: value for name, value in held.items() if name in known}
    try:
        values["claims"] = tuple(_claim(claim) for claim in held["claims"])
        values["full"] = KnobConfig.from_key(held["full"])
        return Certificate(**values)
    except (TypeError, KeyError) as error:
        raise InvalidValueError("certificate", f"without a field ({error})", expected) from error


def _claim(cells: Mapping[str, Any]) -> CertifiedClaim:
    values: dict[str, Any] = {**cells, "config": KnobConfig.from_key(cells["config"])}
    return CertifiedClaim(**values)
