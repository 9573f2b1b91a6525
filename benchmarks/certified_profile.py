"""Choosing on few questions and certifying on others, resampled: what is asked of `paceline profile --certify`, and measured.

    python benchmarks/certified_profile.py [--runs 1000] [--slow-runs 30] [--workers 2]

Writes benchmarks/results/certified_profile.json. Two populations: the measured one of `certified_population.py` (the embedded
model, 27 configurations), and a modelled one of 20,000 questions, **synthetic**: for each set a dichotomised Gaussian with five
factors, fitted to the measured answers. Every run draws its questions with replacement, so that halves of a whole do not make
errors look rarer than they are. Regret: mean over ten equally spaced budgets of the accuracy (points) that a table's choices lack
against the table of the full profile, latencies known. Hypervolume: over the grid's lowest accuracy, of the configurations that a
table takes, over that of the full profile's. Peers: uniform (each configuration its own questions, or the same ones: paired
means), successive halving, successive rejects, and the low-rank fill-in of "On Speeding Up Language Model Evaluation"
(arXiv 2407.06172), whose next cells are where an ensemble of factorisations disagrees most about a configuration near the front.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from provenance import provenance
from scipy.stats import norm
from sklearn.isotonic import isotonic_regression

from paceline.certify.exact import most_broken
from paceline.certify.grid import largest, ordinal_places
from paceline.certify.procedure import (
    BOUND_REQUESTS,
    TIMED_REQUESTS,
    ChosenGrid,
    choosing_questions,
    chosen_grid,
    planned_sequence,
)
from paceline.certify.ratios import bound_kept, paired_latencies
from paceline.certify.sequence import Rule, StoppingRule, front_sequence, judge_accuracy
from paceline.certify.smoothing import grid_accuracies, smoothed_means
from paceline.records import KnobConfig
from paceline.slo import Proportion

Floats = NDArray[np.float64]
RESULTS = Path(__file__).parent / "results"
POPULATION, OUT = RESULTS / "certified_population.npz", RESULTS / "certified_profile.json"
MODELLED, FACTORS, BUDGETS, DELTA, SEED = 20_000, 5, 10, 0.1, 18
CELLS, SHUFFLED_CELLS = (675, 2430, 6075), (2430, 6075)
RULES: tuple[Rule, ...] = ("two_looks", "e_process")


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Answers (question, configuration), their sets, milliseconds of timed requests (request, configuration)."""

    name: str
    configs: tuple[KnobConfig, ...]
    answers_NC: NDArray[np.uint8]
    sets_N: NDArray[np.uint8]
    latencies_LC: Floats

    @property
    def true_C(self) -> Floats:  # noqa: N802  the suffix is the array's shape
        """The full profile's accuracies: the truth."""
        return self.answers_NC.mean(axis=0)

    @property
    def times_C(self) -> Floats:  # noqa: N802  the suffix is the array's shape
        """The full profile's latencies."""
        return paired_latencies(self.latencies_LC, self.full)

    @property
    def full(self) -> int:
        """The full configuration's place."""
        return largest(self.configs)

    def shuffled(self, random: Generator) -> "Population":
        """Return the population with the configurations' names exchanged: a grid without structure."""
        order = random.permutation(len(self.configs))
        return Population(
            name=self.name + ", shuffled",
            configs=tuple(self.configs[place] for place in order),
            answers_NC=self.answers_NC,
            sets_N=self.sets_N,
            latencies_LC=self.latencies_LC,
        )


def measured() -> tuple[Population, dict[str, Any]]:
    """Return the measured population and the note of the file."""
    held = np.load(POPULATION)
    note = json.loads(str(held["note"]))
    return (
        Population(
            name="measured",
            configs=tuple(KnobConfig.from_key(key) for key in note["configurations"]),
            answers_NC=held["accuracy"],
            sets_N=held["dataset"],
            latencies_LC=held["prefill_ms"].astype(np.float64),
        ),
        note,
    )


def modelled(source: Population, count: int, random: Generator) -> Population:
    """Return a synthetic population: of each set a dichotomised Gaussian with FACTORS factors and the set's own rates."""
    parts: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    for label in np.unique(source.sets_N):
        answers_NC = source.answers_NC[source.sets_N == label]
        share = round(count * len(answers_NC) / len(source.answers_NC))
        rates_C = (answers_NC.sum(axis=0) + 0.5) / (len(answers_NC) + 1)
        loadings_CF = factors(latent_correlations(answers_NC, rates_C))
        own_C = np.sqrt(np.maximum(1 - (loadings_CF**2).sum(axis=1), 0))
        latent = random.normal(size=(share, loadings_CF.shape[1])) @ loadings_CF.T
        latent += random.normal(size=latent.shape) * own_C
        parts.append((latent < norm.ppf(rates_C)).astype(np.uint8))
        labels.append(np.full(share, label, dtype=np.uint8))
    return Population(
        name="modelled (synthetic)",
        configs=source.configs,
        answers_NC=np.concatenate(parts),
        sets_N=np.concatenate(labels),
        latencies_LC=source.latencies_LC,
    )


def latent_correlations(answers_NC: NDArray[np.uint8], rates_C: Floats) -> Floats:
    """Return the tetrachoric correlations: those at which two Gaussians below their thresholds coincide as often."""
    h_C = norm.ppf(rates_C)
    both_CC = answers_NC.T.astype(float) @ answers_NC / len(answers_NC)
    grid = np.linspace(-0.5, 0.99, 300)
    h, k = np.meshgrid(h_C, h_C, indexing="ij")
    density = np.stack(
        [np.exp(-(h**2 - 2 * r * h * k + k**2) / (2 * (1 - r**2))) / (2 * np.pi * np.sqrt(1 - r**2)) for r in grid]
    )
    steps = (density[1:] + density[:-1]) / 2 * np.diff(grid)[:, None, None]
    rising = np.concatenate([np.zeros_like(density[:1]), np.cumsum(steps, axis=0)])
    rising -= rising[np.searchsorted(grid, 0.0)]
    joint = np.multiply.outer(rates_C, rates_C) + rising
    return grid[np.abs(joint - both_CC).argmin(axis=0)]


def factors(correlation_CC: Floats, rounds: int = 30) -> Floats:
    """Return loadings (configuration, factor) by principal factors, communalities iterated."""
    communality_C = np.full(len(correlation_CC), 0.8)
    loadings = np.zeros((len(correlation_CC), FACTORS))
    for _ in range(rounds):
        reduced = correlation_CC.copy()
        np.fill_diagonal(reduced, communality_C)
        values, vectors = np.linalg.eigh(reduced)
        loadings = vectors[:, -FACTORS:] * np.sqrt(np.maximum(values[-FACTORS:], 0))
        communality_C = np.minimum((loadings**2).sum(axis=1), 0.995)
    return loadings


# ---- judging a table


def taken(estimate_C: Floats, latency_C: Floats, budgets: Floats) -> list[int]:
    """Return the place that a table of these estimates takes at each budget; ties go to the faster."""
    order = np.argsort(latency_C, kind="stable")
    best = [int(order[: k + 1][np.argmax(estimate_C[order[: k + 1]])]) for k in range(len(order))]
    counts = np.searchsorted(latency_C[order], budgets * (1 + 1e-12), side="right")
    return [best[max(0, count - 1)] for count in counts.tolist()]


def regret(population: Population, estimate_C: Floats) -> float:
    """Return the points that an estimate's choices lack over ten budgets."""
    latency_C, true_C = population.times_C, population.true_C
    budgets = np.linspace(latency_C.min(), latency_C.max(), BUDGETS)
    lacking = true_C[taken(true_C, latency_C, budgets)] - true_C[taken(estimate_C, latency_C, budgets)]
    return float(100 * lacking.mean())


def hypervolume(population: Population, estimate_C: Floats) -> float:
    """Return the share of the full profile's hypervolume, over the grid's lowest accuracy, that a table's choices reach."""
    latency_C, true_C = population.times_C, population.true_C
    ends = np.sort(latency_C)
    widths = np.diff(ends)
    low = true_C.min()
    own = true_C[taken(estimate_C, latency_C, ends[:-1])] - low
    best = true_C[taken(true_C, latency_C, ends[:-1])] - low
    return float((np.maximum.accumulate(own) * widths).sum() / (best * widths).sum())


# ---- ways to spend cells on choosing


def drawn(population: Population, count: int, random: Generator) -> Floats:
    """Return the answers of questions drawn with replacement, of each set its share."""
    return population.answers_NC[drawn_rows(population, count, random)].astype(float)


def drawn_rows(population: Population, count: int, random: Generator) -> NDArray[np.int64]:
    """Return rows drawn with replacement, of each set its share, in random order."""
    labels, held = np.unique(population.sets_N, return_counts=True)
    shares = np.diff(np.round(np.cumsum([0, *held]) * count / held.sum()).astype(int))
    rows = [
        random.choice(np.flatnonzero(population.sets_N == label), share)
        for label, share in zip(labels, shares.tolist(), strict=True)
    ]
    return random.permutation(np.concatenate(rows))


def uniform(population: Population, cells: int, random: Generator) -> Floats:
    """Each configuration answers its own questions."""
    width = len(population.configs)
    return np.array(
        [population.answers_NC[drawn_rows(population, cells // width, random), place].mean() for place in range(width)]
    )


def paired(population: Population, cells: int, random: Generator) -> Floats:
    """All configurations answer the same questions; plain means."""
    return drawn(population, cells // len(population.configs), random).mean(axis=0)


def smooth(population: Population, cells: int, random: Generator) -> Floats:
    """The same, smoothed over the grid, with the guard: what `--certify` does."""
    answers = drawn(population, cells // len(population.configs), random)
    return grid_accuracies(answers, population.configs, random).accuracy_C


def unguarded(population: Population, cells: int, random: Generator) -> Floats:
    """The same without the guard."""
    return smoothed_means(drawn(population, cells // len(population.configs), random), population.configs)


def isotonic(population: Population, cells: int, random: Generator) -> Floats:
    """Paired means made monotone in every knob by taking turns along the knobs."""

    found = paired(population, cells, random)
    places = ordinal_places(population.configs).astype(int)
    for _ in range(20):
        for knob in range(places.shape[1]):
            others = np.delete(places, knob, axis=1)
            for line in np.unique(others, axis=0):
                on = np.flatnonzero((others == line).all(axis=1))
                on = on[np.argsort(places[on, knob])]
                found[on] = isotonic_regression(found[on])
    return found


def halving(population: Population, cells: int, random: Generator, keep: int = 7) -> Floats:
    """Successive halving by means on the same questions, down to `keep`; what fell out is never taken."""
    alive = np.arange(len(population.configs))
    rounds = int(np.ceil(np.log2(len(alive) / keep)))
    answers: list[Floats] = []
    sums, counts = np.zeros(len(population.configs)), np.zeros(len(population.configs))
    for turn in range(rounds + 1):
        new = drawn(population, max(1, cells // (rounds + 1) // len(alive)), random)
        answers.append(new)
        sums[alive] += new[:, alive].sum(axis=0)
        counts[alive] += len(new)
        if turn < rounds:
            survivors = max(keep, len(alive) // 2)
            alive = alive[np.argsort(-(sums[alive] / counts[alive]))[:survivors]]
    return _only(sums / counts, alive, population)


def rejects(population: Population, cells: int, random: Generator, keep: int = 8) -> Floats:
    """Successive rejects on the same questions: in each phase the configuration falls out whose accuracy lies furthest below
    a faster one's, until `keep` are left (Audibert and Bubeck's schedule, gaps to the front for means)."""
    width, latency_C = len(population.configs), population.times_C
    alive = list(range(width))
    phases = width - keep
    weights = 0.5 + sum(1 / i for i in range(2, width + 1))
    sums, counts, total = np.zeros(width), np.zeros(width), 0
    for phase in range(1, phases + 2):
        until = int(np.ceil((cells - width) / weights / (width + 1 - phase)))
        new = drawn(population, max(1, until - total), random)
        total = max(until, total + 1)
        sums[alive] += new[:, alive].sum(axis=0)
        counts[alive] += len(new)
        if phase > phases:
            break
        means = sums / np.maximum(counts, 1)
        fastest = min(alive, key=lambda place: latency_C[place])
        gap = {
            place: max(means[other] for other in alive if latency_C[other] <= latency_C[place] and other != place)
            - means[place]
            for place in alive
            if place not in (fastest, population.full)
        }
        alive.remove(max(gap, key=lambda place: gap[place]))
    return _only(sums / np.maximum(counts, 1), np.array(alive), population)


def low_rank(population: Population, cells: int, random: Generator, rank: int = 2, rounds: int = 8) -> Floats:
    """Adaptive low-rank fill-in: an ensemble of factorisations of the cells seen so far; the next cells are those of the
    configurations nearest to the front by its upper bounds, at the questions where it disagrees most."""
    width = len(population.configs)
    answers = drawn(population, min(3000, 4 * cells // width), random)
    seen = random.random(answers.shape) < min(1.0, 0.3 * cells / answers.size)
    for turn in range(rounds):
        filled = np.stack([_factorised(answers, seen, rank, random) for _ in range(4)])
        mean = np.where(seen, answers, filled.mean(axis=0))
        left = cells - int(seen.sum())
        if left <= 0:
            break
        upper_C = mean.mean(axis=0) + 2 * filled.mean(axis=1).std(axis=0) + 1 / np.sqrt(seen.sum(axis=0) + 1)
        best_C = _best_faster(mean.mean(axis=0), population.times_C)
        weight_C = np.where(upper_C >= best_C, 1.0, 0.1)
        doubt = (filled.std(axis=0) + 1e-3 * random.random(answers.shape)) * weight_C * ~seen
        take = left if turn == rounds - 1 else max(1, left // (rounds - turn))
        chosen = np.argpartition(-doubt.ravel(), min(take, doubt.size - 1))[:take]
        seen.ravel()[chosen] = True
    filled = np.mean([_factorised(answers, seen, rank, random) for _ in range(4)], axis=0)
    correction_C = np.array(
        [(answers[seen[:, c], c] - filled[seen[:, c], c]).mean() if seen[:, c].any() else 0.0 for c in range(width)]
    )
    return filled.mean(axis=0) + correction_C


def _factorised(answers: Floats, seen: NDArray[np.bool_], rank: int, random: Generator) -> Floats:
    """Return a filled-in matrix of a bootstrap of the seen cells, by alternating ridge regressions."""
    weights = seen * random.poisson(1.0, seen.shape)
    level = (weights * answers).sum(axis=0) / np.maximum(weights.sum(axis=0), 1)
    residual = weights * (answers - level)
    right = random.normal(0, 0.3, (answers.shape[1], rank))
    left = np.zeros((answers.shape[0], rank))
    ridge = 1.0 * np.eye(rank)
    for _ in range(6):
        gram = np.einsum("nc,cr,cs->nrs", weights, right, right, optimize=True) + ridge
        left = np.linalg.solve(gram, (residual @ right)[:, :, None])[:, :, 0]
        gram = np.einsum("nc,nr,ns->crs", weights, left, left, optimize=True) + ridge
        right = np.linalg.solve(gram, (residual.T @ left)[:, :, None])[:, :, 0]
    return np.clip(level + left @ right.T, 0, 1)


def _best_faster(estimate_C: Floats, latency_C: Floats) -> Floats:
    order = np.argsort(latency_C)
    best = np.empty_like(estimate_C)
    best[order] = np.concatenate([[-np.inf], np.maximum.accumulate(estimate_C[order])[:-1]])
    return best


def _only(estimate_C: Floats, alive: NDArray[np.int64], population: Population) -> Floats:
    kept = np.full(len(estimate_C), -np.inf)
    kept[alive] = estimate_C[alive]
    fastest = int(population.times_C.argmin())
    kept[fastest] = max(kept[fastest], estimate_C[fastest])  # a table has something for its smallest budget
    return kept


METHODS: dict[str, Callable[[Population, int, Generator], Floats]] = {
    "uniform": uniform,
    "paired means": paired,
    "successive halving": halving,
    "successive rejects": rejects,
    "isotonic": isotonic,
    "adaptive low rank": low_rank,
    "smooth, no guard": unguarded,
    "smooth (Paceline)": smooth,
}
SLOW, OURS = ("adaptive low rank",), "smooth (Paceline)"


def choosing_runs(population: Population, method: str, cells: int, seed: int, runs: int) -> dict[str, Any]:
    """Return regret and hypervolume of a way to choose, over runs."""
    found = []
    for run in range(runs):
        random = np.random.default_rng([SEED, seed, run])
        whole = population.shuffled(random) if seed >= 1000 else population
        estimate = METHODS[method](whole, cells, random)
        found.append((regret(whole, estimate), hypervolume(whole, estimate)))
    regrets, volumes = np.array(found).T
    return {
        "population": population.name + (", shuffled" if seed >= 1000 else ""),
        "method": method,
        "cells": cells,
        "runs": runs,
        "regret": float(regrets.mean()),
        "regret_error": float(regrets.std() / np.sqrt(runs)),
        "regret_p95": float(np.quantile(regrets, 0.95)),
        "hypervolume": float(volumes.mean()),
    }


# ---- the whole procedure


def one_procedure(
    population: Population, questions: int, epsilons: tuple[float, ...], random: Generator
) -> list[dict[str, Any]]:
    """Choose once, and certify under both rules and at each ε from the same choosing part."""
    q = choosing_questions(questions)
    choosing = drawn_rows(population, q, random)
    rest = drawn_rows(population, questions - q, random)
    names = [str(label) for label in population.sets_N[choosing]]
    timed = population.latencies_LC[random.integers(len(population.latencies_LC), size=TIMED_REQUESTS)]
    chosen = chosen_grid(population.answers_NC[choosing].astype(float), timed, population.configs, random, sets_M=names)
    table = {
        "regret": regret(population, chosen.accuracies.accuracy_C),
        "hypervolume": hypervolume(population, chosen.accuracies.accuracy_C),
        "trust": chosen.accuracies.trust,
        "own_latency_regret": _regret_with(population, chosen),
    }
    return [
        table | _certified(population, chosen, rest, q, epsilon, kind, random) for kind in RULES for epsilon in epsilons
    ]


def _certified(
    population: Population,
    chosen: ChosenGrid,
    rest: NDArray[np.int64],
    q: int,
    epsilon: float,
    kind: Rule,
    random: Generator,
) -> dict[str, Any]:
    true_C = population.true_C
    planned = planned_sequence(chosen, epsilon=epsilon, delta=DELTA, available=len(rest), kind=kind)
    full_M = population.answers_NC[rest, chosen.full].astype(float)
    asked, most, timed, certified = 0, 0, 0, []
    for test in planned:
        verdict = judge_accuracy(full_M - population.answers_NC[rest, test.place], test.rule)
        asked, most = asked + verdict.asked, max(most, verdict.asked)
        if not verdict.certified:
            break
        requests = min(len(rest), BOUND_REQUESTS)
        rows = random.integers(len(population.latencies_LC), size=requests)
        timed += requests
        exceeded = int((population.latencies_LC[rows, test.place] > test.bound_ms).sum())
        if not bound_kept(exceeded, requests, DELTA):
            break
        late = float((population.latencies_LC[:, test.place] > test.bound_ms).mean())
        certified.append((test.place, late))
    cells = q * len(population.configs) + most + asked + timed
    return {
        "epsilon": epsilon,
        "rule": kind,
        "certified": [place for place, _ in certified],
        "false": any(true_C[chosen.full] - true_C[place] >= epsilon - 1e-12 for place, _ in certified),
        "late": any(late > 0.05 for _, late in certified),
        "cells": cells / (len(population.configs) * (q + len(rest))),
        "seconds": _seconds(population, q, most, asked, planned) / _full_seconds(population, q + len(rest)),
    }


def _seconds(population: Population, q: int, most: int, asked: int, planned: Any) -> float:
    """Return the share of the full profile's time that the same cells take, by the full profile's latencies."""
    latency_C = population.times_C
    spent = q * latency_C.sum() + most * latency_C[population.full]
    spent += asked / max(1, len(planned)) * sum(latency_C[test.place] for test in planned) if planned else 0
    return float(spent)


def _full_seconds(population: Population, questions: int) -> float:
    return float(questions * population.times_C.sum())


def _regret_with(population: Population, chosen: ChosenGrid) -> float:
    """Return the regret where the table's latencies are the choosing part's own: choices over budget count as the fastest."""
    latency_C, true_C = population.times_C, population.true_C
    budgets = np.linspace(latency_C.min(), latency_C.max(), BUDGETS)
    best = true_C[taken(true_C, latency_C, budgets)]
    scale = (
        latency_C[population.full] / chosen.latency_ms_C[population.full]
    )  # its level known, ratios are the table's own
    own = taken(chosen.accuracies.accuracy_C, chosen.latency_ms_C * scale, budgets)
    return float(100 * (best - true_C[own]).mean())


def procedure_runs(
    population: Population, questions: int, epsilons: tuple[float, ...], first: int, runs: int
) -> list[list[dict[str, Any]]]:
    """Return the outcomes of runs, one for each rule and ε."""
    return [
        one_procedure(population, questions, epsilons, np.random.default_rng([SEED, 7, questions, first + run]))
        for run in range(runs)
    ]


def summary(outcomes: list[dict[str, Any]], population: Population, questions: int) -> dict[str, Any]:
    """Return the figures of one rule and ε."""
    epsilon = outcomes[0]["epsilon"]
    true_C = population.true_C
    front = front_sequence(true_C, population.times_C, population.full)
    runs, false = len(outcomes), sum(each["false"] for each in outcomes)
    regrets = np.array([each["regret"] for each in outcomes])
    some = Proportion(successes=sum(bool(each["certified"]) for each in outcomes), count=runs)
    wrong = Proportion(successes=false, count=runs)
    return {
        "population": population.name,
        "questions": questions,
        "rule": outcomes[0]["rule"],
        "epsilon": epsilon,
        "runs": runs,
        "certifiable": sum(bool(true_C[population.full] - true_C[place] < epsilon) for place in front),
        "certified": float(np.mean([len(each["certified"]) for each in outcomes])),
        "certified_something": some.share,
        "certified_something_interval": [some.interval().low, some.interval().high],
        "cells": float(np.mean([each["cells"] for each in outcomes])),
        "seconds": float(np.mean([each["seconds"] for each in outcomes])),
        "cells_p95": float(np.quantile([each["cells"] for each in outcomes], 0.95)),
        "false": wrong.share,
        "false_interval": [wrong.interval().low, wrong.interval().high],
        "late": float(np.mean([each["late"] for each in outcomes])),
        "regret": float(regrets.mean()),
        "regret_p95": float(np.quantile(regrets, 0.95)),
        "hypervolume": float(np.mean([each["hypervolume"] for each in outcomes])),
        "own_latency_regret": float(np.mean([each["own_latency_regret"] for each in outcomes])),
        "trust": float(np.mean([each["trust"] for each in outcomes])),
    }


def sizes(draws: int) -> list[dict[str, Any]]:
    """Return how often each rule certifies a loss of exactly ε, over independent draws."""
    random = np.random.default_rng(SEED)
    found: list[dict[str, Any]] = []
    for questions, epsilon, mended in ((225, 0.05, 0.01), (225, 0.05, 0.1), (1500, 0.02, 0.008), (10_000, 0.01, 0.01)):
        rates = [mended + epsilon, mended, 1 - 2 * mended - epsilon]
        counts = random.multinomial(questions, rates, size=draws)
        region = most_broken(questions, epsilon, DELTA)
        one_look = float((counts[:, 0] <= region[counts[:, 1]]).mean())
        own = min(draws, max(400, 4_000_000 // questions // 4))
        losses = random.choice([1.0, -1.0, 0.0], p=rates, size=(own, questions))
        rules: dict[str, float] = {}
        for kind in ("two_looks", "e_process"):
            rule = StoppingRule(kind=kind, epsilon=epsilon, delta=DELTA, questions=questions)
            rules[kind] = float(np.mean([judge_accuracy(row, rule).certified is True for row in losses]))
        found.append(
            {
                "questions": questions,
                "epsilon": epsilon,
                "mended": mended,
                "exact": one_look,
                "exact_draws": draws,
                **rules,
                "rule_draws": own,
            }
        )
    return found


def main() -> None:
    """Run all of it and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--slow-runs", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    told = parser.parse_args()
    started = time.perf_counter()
    known, note = measured()
    synthetic = modelled(known, MODELLED, np.random.default_rng(SEED))
    document: dict[str, Any] = {
        **provenance("certified_profile.py"),
        "delta": DELTA,
        "population": note | {"questions": len(known.answers_NC), "modelled_questions": len(synthetic.answers_NC)},
        "front": _front(known),
        "modelled_front": _front(synthetic),
    }
    with ProcessPoolExecutor(told.workers) as pool:
        document["certifying"] = _certifying(pool, known, synthetic, told)
        document["choosing"] = _choosing(pool, synthetic, told)
        document["sizes"] = next(iter(pool.map(sizes, [100_000])))
    document["seconds"] = time.perf_counter() - started
    told.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({name: value for name, value in document.items() if name != "population"}, indent=1))


def _front(population: Population) -> list[dict[str, Any]]:
    true_C = population.true_C
    return [
        {
            "config": population.configs[place].key,
            "loss": float(100 * (true_C[population.full] - true_C[place])),
            "latency_ms": float(population.times_C[place]),
        }
        for place in front_sequence(true_C, population.times_C, population.full)
    ]


def _choosing(pool: ProcessPoolExecutor, population: Population, told: argparse.Namespace) -> list[dict[str, Any]]:
    jobs = [(name, cells, 0) for cells in CELLS for name in METHODS]
    jobs += [(name, cells, 1000) for cells in SHUFFLED_CELLS for name in ("paired means", "smooth, no guard", OURS)]
    runs = [told.slow_runs if name in SLOW else told.runs for name, _, _ in jobs]
    names, cells, seeds = zip(*jobs, strict=True)
    return list(pool.map(partial(choosing_runs, population), names, cells, seeds, runs))


def _certifying(
    pool: ProcessPoolExecutor, known: Population, synthetic: Population, told: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return the outcomes at the margins asked for, and at the boundary: at true losses of configurations of the front."""
    cases: list[tuple[Population, int, tuple[float, ...]]] = [
        (known, 450, (0.03, 0.05)),
        (known, 3000, (0.01, 0.03, 0.05)),
        (synthetic, 20_000, (0.01, 0.02, 0.03)),
    ]
    found: list[dict[str, Any]] = []
    for population, questions, epsilons in cases:
        boundary = _front_losses(population)[:3]
        found += _outcomes(pool, population, questions, (*epsilons, *boundary), told.runs)
        for each in found:
            each.setdefault("boundary", each["epsilon"] in boundary)
    return found


def _front_losses(population: Population) -> list[float]:
    true_C = population.true_C
    front = front_sequence(true_C, population.times_C, population.full)
    losses = [float(true_C[population.full] - true_C[place]) for place in front]
    return [loss for loss in losses if loss >= 0.005]


def _outcomes(
    pool: ProcessPoolExecutor, population: Population, questions: int, epsilons: tuple[float, ...], runs: int
) -> list[dict[str, Any]]:
    step = max(1, runs // 8)
    parts = pool.map(
        partial(procedure_runs, population, questions, epsilons),
        range(0, runs, step),
        [min(step, runs - first) for first in range(0, runs, step)],
    )
    outcomes = [each for part in parts for each in part]
    return [summary([each[place] for each in outcomes], population, questions) for place in range(len(outcomes[0]))]


if __name__ == "__main__":
    main()
