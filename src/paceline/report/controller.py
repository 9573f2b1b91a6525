"""The page of a table, an estimator or a learned controller: which configuration each budget leads to, and what it rests on."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from paceline.control.choosing import choose, configurations, needed_ms
from paceline.control.estimated import BoundController
from paceline.control.learned.artifact import is_chooser_directory, read_chooser
from paceline.control.learned.controller import LearnedController
from paceline.control.loading import load_controller
from paceline.control.table import LookupTable
from paceline.errors import UnknownChoiceError
from paceline.estimate.description import DESCRIPTION_FILE
from paceline.estimate.network import NetworkEstimator
from paceline.estimate.request import typical_request
from paceline.records import Decision, KnobConfig, RequestFeatures
from paceline.report.parts import Head, filled, framed, origin_list, plain_facts, table

KINDS: dict[type, str] = {
    LookupTable: "lookup table",
    BoundController: "latency estimator",
    LearnedController: "learned controller",
}
COLUMNS = ("configuration", "accuracy", "expected ms", "needs a budget of ms")


def is_controller(path: Path) -> bool:
    """Tell whether a path is a table file, or the directory of an estimator or of a learned controller."""
    if path.is_dir():
        return (path / DESCRIPTION_FILE).is_file() or is_chooser_directory(path)
    return path.suffix == ".json"


def controller_page(path: Path) -> str:
    """Return the page's HTML; raises what `load_controller` raises for a file that cannot be trusted."""
    loaded = load_controller(path)
    controller = loaded.bound if isinstance(loaded, LearnedController) else loaded
    if not isinstance(controller, LookupTable | BoundController):
        raise UnknownChoiceError("controller", type(loaded).__name__, tuple(kind.__name__ for kind in KINDS))
    request = _typical(path, loaded)
    decisions = _each(controller, request)
    cells = {
        "note": escape(_note(loaded, request)),
        "steps": _steps(controller, decisions, request),
        "configurations": table(COLUMNS, [_row(each) for each in sorted(decisions.values(), key=needed_ms)]),
        "provenance": _provenance(controller),
    }
    head = Head(
        kind=f"Paceline: {KINDS[type(loaded)]}",
        heading=path.resolve().name,
        about="what budgets buy",
        summary=plain_facts(_facts(controller, decisions), mark=_mark(controller)),
        skip_words="the figures",
    )
    return framed(head, filled("controller.html", cells))


def _typical(path: Path, loaded: object) -> RequestFeatures:
    if isinstance(loaded, LookupTable):
        return RequestFeatures(text_tokens=1, vision_tokens={None: 1})  # a table does not look at the request
    network = read_chooser(path).estimator if isinstance(loaded, LearnedController) else NetworkEstimator.load(path)
    return typical_request(network.description)


def _each(controller: LookupTable | BoundController, request: RequestFeatures) -> dict[KnobConfig, Decision]:
    if isinstance(controller, BoundController):
        times, ranked = controller.times(request), controller.ranked
        return {config: ranked.decision(place, times) for place, config in enumerate(ranked.configs)}
    return {
        entry.config: Decision(
            config=entry.config,
            accuracy=entry.accuracy,
            latency_ms=entry.latency_ms,
            num_samples=entry.num_samples,
            within_budget=True,
        )
        for entry in controller.entries
    }


def _facts(controller: LookupTable | BoundController, decisions: Mapping[KnobConfig, Decision]) -> dict[str, str]:
    facts = {"configurations": str(len(decisions)), "latency kind": str(controller.latency_kind)}
    if isinstance(controller, BoundController):
        facts["promises"] = f"{100 * (1 - controller.alpha):g} of 100"
    facts["smallest budget"] = f"{min(map(needed_ms, decisions.values())):.1f} ms"
    facts["samples a configuration"] = f"{min(each.num_samples for each in decisions.values()):,} or more"
    return facts


def _note(loaded: object, request: RequestFeatures) -> str:
    if isinstance(loaded, LookupTable):
        return "By the means of the profile, without a tolerance: near a setting's own latency a budget holds half the time."
    tiers = ", ".join(f"{tier or 'no tier'} {tokens}" for tier, tokens in request.vision_tokens.items())
    said = f"For a request like the median of the profile: {request.text_tokens} text tokens; image tokens {tiers}."
    if isinstance(loaded, LearnedController):
        return f"{said} These are its bounds; among what they allow it prefers by each request's picture and prompt."
    return said


def _steps(
    controller: LookupTable | BoundController, decisions: Mapping[KnobConfig, Decision], request: RequestFeatures
) -> str:
    """Return the budgets at which another configuration is taken, smallest first."""
    as_they_are = {config.tier: float for config in configurations(controller)}
    rows: list[Sequence[str]] = []
    last: KnobConfig | None = None
    for budget_ms in sorted(map(needed_ms, decisions.values())):
        taken = choose(controller, max(budget_ms, 1e-6), request, as_they_are).taken
        if taken.within_budget and taken.config != last:
            last = taken.config
            rows.append(
                (f"from {budget_ms:.1f} ms", taken.config.key, f"{taken.accuracy:.3f}", f"{taken.latency_ms:.1f}")
            )
    return table(("budget", "configuration", "accuracy", "expected ms"), rows)


def _row(decision: Decision) -> Sequence[str]:
    numbers = (f"{decision.accuracy:.3f}", f"{decision.latency_ms:.2f}", f"{needed_ms(decision):.2f}")
    return (decision.config.key, *numbers)


def _mark(controller: LookupTable | BoundController) -> str | None:
    synthetic = "synthetic" in str(controller.provenance).lower()
    if isinstance(controller, LookupTable):
        synthetic |= "synthetic" in str(controller.metadata.datasets).lower()
    return "Synthetic data: generated, not measured" if synthetic else None


def _provenance(controller: LookupTable | BoundController) -> str:
    if not controller.provenance:
        return "<p>It carries no provenance: model, device and versions are not known.</p>"
    return "".join(origin_list({name: str(value) for name, value in run.items()}) for run in controller.provenance)
