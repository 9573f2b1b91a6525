"""Which figures of benchmarks/results are watched, and what makes two measurements of one of them comparable.

A figure stands at a place in its results, alone or over that at another place. Two measurements are comparable where
everything in `same` is equal: flags of the command that the results name (`--questions`), or places in the results
(`("requests",)`). What is not named there changes nothing about what is measured: workers, folders, parts, repetitions.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

# a key, a place in a list, the entry of a list whose fields have these values, or EACH
Step = str | int | tuple[tuple[str, Any], ...]
Place = tuple[Step, ...]
EACH = "*"  # the mean over what the rest of the place finds in each entry


def entry(**fields: Any) -> tuple[tuple[str, Any], ...]:
    """Return the step to the entry of a list whose fields have these values."""
    return tuple(fields.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """One figure: its name, where it stands, in what words, which way is better, and how much worse is let pass.

    `worst_ratio` is of the newest to the best of the comparable measurements: wider where a figure is noisier.
    """

    name: str
    results: str
    place: Place
    over: Place = ()
    words: str
    better: Literal["higher", "lower"]
    worst_ratio: float
    same: tuple[str | Place, ...] = ()


def at(document: Any, place: Sequence[Step]) -> float:
    """Return the number at a place of a document; LookupError or TypeError where there is none."""
    if EACH in place:
        before = place.index(EACH)
        found = _what(document, place[:before])
        entries = list(found.values() if isinstance(found, Mapping) else found)
        if not entries:
            raise KeyError(f"{place} holds nothing")
        return sum(at(each, place[before + 1 :]) for each in entries) / len(entries)
    found = _what(document, place)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise TypeError(f"{place} holds {found!r}")
    return float(found)


def _what(document: Any, place: Sequence[Step]) -> Any:
    for step in place:
        document = _entry(document, dict(step)) if isinstance(step, tuple) else document[step]
    return document


def _entry(entries: Any, fields: Mapping[str, Any]) -> Any:
    for each in entries:
        if all(each[field] == value for field, value in fields.items()):
            return each
    raise KeyError("no entry has " + ", ".join(f"{field} {value}" for field, value in fields.items()))


def value_of(watched: Watched, document: Any) -> float:
    """Return the figure; LookupError, TypeError or ZeroDivisionError where the results have none."""
    return at(document, watched.place) / (at(document, watched.over) if watched.over else 1.0)


def way_of(watched: Watched, document: Any) -> tuple[str, ...]:
    """Return how the figure was measured: what `same` names, in words, None where the results do not say it."""
    command = document.get("command")
    found = [
        flags_of(command if isinstance(command, str) else "").get(each) if isinstance(each, str) else None
        for each in watched.same
    ]
    for place, each in enumerate(watched.same):
        if isinstance(each, tuple):
            try:
                found[place] = json.dumps(_what(document, each), sort_keys=True)
            except (LookupError, TypeError):
                found[place] = None
    return tuple(f"{_said(each)} {value}" for each, value in zip(watched.same, found, strict=True))


def _said(setting: str | Place) -> str:
    return (
        setting if isinstance(setting, str) else str(next(each for each in reversed(setting) if isinstance(each, str)))
    )


def flags_of(command: str) -> dict[str, str]:
    """Return the flags of a command with their values, of paths the last part alone."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in shlex.split(command):
        if word.startswith("--"):
            name, has_value, value = word.partition("=")
            values = found[name] = [PurePath(value).name] if has_value else []
        else:
            values.append(PurePath(word).name)
    return {name: " ".join(each) for name, each in found.items()}


AT_FULL_LOAD, AT_TWICE = ("loads", entry(share=1.0)), ("loads", entry(share=2.0))
LOAD = (("requests",), ("t0_seconds",), ("rate_at_100_percent",), ("assumed",))
SCREEN = (("requests",), ("configurations",), ("folds",), ("latency_kind",))
PRICES = ("models", "wide", "1.8", "prices")

WATCHED = (
    Watched(
        name="first_screen",
        results="first_screen",
        place=("rows", "paceline", EACH, "mean"),
        over=("rows", "best fixed", EACH, "mean"),
        words="answers right and in time, of those of the best fixed setting in hindsight",
        better="higher",
        worst_ratio=0.97,
        same=SCREEN,
    ),
    Watched(
        name="first_screen_table",
        results="first_screen",
        place=("rows", "paceline", EACH, "mean"),
        over=("rows", "table", EACH, "mean"),
        words="answers right and in time, of those by a table of means",
        better="higher",
        worst_ratio=0.95,
        same=SCREEN,
    ),
    Watched(
        name="first_screen_promises",
        results="first_screen",
        place=("promises_kept", EACH),
        over=("promised", EACH),
        words="promises kept by the first screen's bounds",
        better="higher",
        worst_ratio=0.98,
        same=SCREEN,
    ),
    Watched(
        name="under_load_gain",
        results="under_load",
        place=(*AT_FULL_LOAD, "gain_over_best_fixed", "mean"),
        words="accuracy in time at a load of 100 %, ours less the best fixed setting (simulated)",
        better="higher",
        worst_ratio=0.9,
        same=(*LOAD, (*AT_FULL_LOAD, "seeds")),
    ),
    Watched(
        name="under_load_gain_twice",
        results="under_load",
        place=(*AT_TWICE, "gain_over_best_fixed", "mean"),
        words="accuracy in time at a load of 200 %, ours less the best fixed setting (simulated)",
        better="higher",
        worst_ratio=0.9,
        same=(*LOAD, (*AT_TWICE, "seeds")),
    ),
    Watched(
        name="under_load_relaxation",
        results="under_load",
        place=(*AT_FULL_LOAD, "of_relaxation", "mean"),
        words="accuracy in time at a load of 100 %, of that of a relaxation that knows all arrivals (simulated)",
        better="higher",
        worst_ratio=0.98,
        same=(*LOAD, (*AT_FULL_LOAD, "seeds")),
    ),
    Watched(
        name="under_load_promises",
        results="under_load",
        place=(*AT_FULL_LOAD, "promises", "recommended", "all", "kept", "share"),
        words="promises kept at a load of 100 % (simulated)",
        better="higher",
        worst_ratio=0.99,
        same=(*LOAD, (*AT_FULL_LOAD, "seeds")),
    ),
    Watched(
        name="arrival_price",
        results="arrival_price",
        place=(*PRICES, entry(price="arrivals", of=0.25), "value"),
        over=(*PRICES, entry(price="arrivals", of=0.0), "value"),
        words="value at a load of 180 % with the price of arrivals, of that without one (simulated)",
        better="higher",
        worst_ratio=0.98,
        same=("--trace",),
    ),
    Watched(
        name="counted_promises",
        results="kept_promises",
        place=("machines", "twice the time from the middle on", "promises counted", "worst_window"),
        words="promises kept in the worst 1,000 in a row on a machine that becomes twice as slow (synthetic)",
        better="higher",
        worst_ratio=0.99,
        same=(("requests",), ("window",), ("alpha",)),
    ),
    Watched(
        name="vllm_first_token",
        results="vllm_budgets",
        place=("overhead", "ttft", "ratio"),
        words="first token of a request in vLLM with budgets, times that of vLLM as it is",
        better="lower",
        worst_ratio=1.05,
    ),
    Watched(
        name="vllm_promises",
        results="vllm_budgets",
        place=("adherence", "budgets", EACH, "promises_kept", "share"),
        words="promises kept in vLLM, mean over budgets",
        better="higher",
        worst_ratio=0.99,
        same=(("adherence", "alpha"), ("adherence", "controller")),
    ),
    Watched(
        name="vllm_throughput",
        results="vllm_overhead",
        place=("throughput", "paceline fcfs", "ratio"),
        words="tokens a second of a burst in vLLM under the policy fcfs, of vLLM's own",
        better="higher",
        worst_ratio=0.93,
        same=(("load",), ("engine",)),
    ),
    Watched(
        name="vllm_estimator",
        results="vllm_estimator",
        place=("clocks", "processor", "prefill", "relative_error", "mean"),
        words="relative error of the estimator's prefill times in vLLM, by the processor's clock",
        better="lower",
        worst_ratio=1.3,
        same=("--questions", ("model",), ("engine",)),
    ),
    Watched(
        name="served_promises",
        results="server",
        place=("coverage", "all", "promises_kept", "share"),
        words="promises kept over HTTP by the client's clock",
        better="higher",
        worst_ratio=0.98,
        same=(("coverage", "all", "asked"),),
    ),
    Watched(
        name="busy_machine",
        results="busy_machine",
        place=("times_as_long",),
        words="demonstration beside a load of two cores, times as long as alone",
        better="lower",
        worst_ratio=1.25,
        same=(("samples",), ("requests",), ("busy_processes",)),
    ),
    Watched(
        name="embedded_model",
        results="embedded_model",
        place=("full", "sets", "digits_read", "accuracy"),
        words="embedded model, digits read right under the whole model",
        better="higher",
        worst_ratio=0.98,
        same=(("questions_per_set",),),
    ),
    Watched(
        name="guarantee",
        results="guarantee",
        place=("models", "linear", "controllers", "bound", "adherence", "mean"),
        words="budgets kept by the bound, mean over seeds",
        better="higher",
        worst_ratio=0.99,
        same=(("requests",), ("latency_kind",), ("alpha",)),
    ),
    Watched(
        name="learned_controller",
        results="learned_controller",
        place=("seeds", EACH, "summary", "supervised", "table_equal_adherence to oracle", "share"),
        words="what a learned controller wins of what the oracle has over the table, mean over splits",
        better="higher",
        worst_ratio=0.85,
        same=(("profile", "model"), ("profile", "samples")),
    ),
    Watched(
        name="estimator_noise",
        results="estimator_training",
        place=("kinds", "crops", "fast", "prefill", "mae_ms"),
        over=("kinds", "crops", "truth", "prefill", "mae_ms"),
        words="error of the estimator's prefill times, of that of the noise-free truth (synthetic)",
        better="lower",
        worst_ratio=1.02,
        same=(("samples",), ("data",)),
    ),
    Watched(
        name="certified_answers",
        results="certified_profile",
        place=("certifying", entry(population="measured", questions=3000, rule="two_looks", epsilon=0.03), "cells"),
        words="answers that a certificate of 3 points takes, of those of a full profile, 3,000 questions",
        better="lower",
        worst_ratio=1.1,
        same=(("delta",), ("population", "questions_in_batches")),
    ),
    Watched(
        name="capacity",
        results="capacity",
        place=("check", "cells", entry(controller="choices", accuracy_floor=0.9), "engines"),
        over=("check", "cells", entry(controller="fixed", accuracy_floor=0.9), "engines"),
        words="engines planned for choices, of those for one configuration (simulated)",
        better="lower",
        worst_ratio=1.1,
        same=(("check", "stretches"),),
    ),
    Watched(
        name="routers",
        results="routers",
        place=("rows", entry(load=0.95, router="least_predicted_ttft"), "kept"),
        over=("rows", entry(load=0.95, router="round_robin"), "kept"),
        words="budgets kept at a load of 95 % by the router that predicts, of those by turns (simulated)",
        better="higher",
        worst_ratio=0.98,
        same=(("engines",), ("requests",), ("seeds",), ("policy",)),
    ),
    Watched(
        name="planted_faults",
        results="simtest_mutants",
        place=("found",),
        over=("mutants",),
        words="planted faults that simulated worlds find",
        better="higher",
        worst_ratio=0.98,
        same=(("seeds",),),
    ),
)
