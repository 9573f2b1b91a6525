"""What could have been had at best: a relaxation that knows everything, and a search in hindsight over real steps."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from load_scenes import Answers, Floats, Integers, Scene, World
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, vstack

from paceline.simulate import SimulatedEngine

APART_SECONDS = 10.0  # between two changes that are tried in one run
NEAR = 10  # requests, between two that are changed together


def relaxation(world: World, scene: Scene, values: Floats, *, chunk_size: int, bin_seconds: float = 0.13) -> float:
    """Return an upper bound of the mean value of the requests with budgets; `values` is [requests, configurations].

    A linear program that knows all arrivals: requests may be served in parts, under several configurations at once, in any
    order and without steps; those without a budget, and all decodes, cost nothing; a token costs what one of a full step
    does. What a bin of time can hold is its length.
    """
    work = world.alone_seconds(scene, chunk_size=1 << 30) - world.model.base_ms * world.answers.factors / 1e3
    prompts = scene.text_tokens[:, None] + world.answers.image_tokens
    work = work + world.model.base_ms / 1e3 * prompts / chunk_size * world.answers.factors
    limited = np.flatnonzero(np.isfinite(scene.budgets))
    arrival = scene.arrivals.arrival_seconds
    first = np.floor(arrival / bin_seconds).astype(np.int64)
    last = np.floor((arrival + np.where(np.isfinite(scene.budgets), scene.budgets, 0.0)) / bin_seconds).astype(np.int64)
    columns: list[float] = []  # the value of each variable, negated
    rows_of: list[tuple[int, int, float]] = []  # of the equalities: work taken is work done
    bins: list[tuple[int, int, float]] = []
    one: list[tuple[int, int, float]] = []
    for row, index in enumerate(limited.tolist()):
        for config in hull(work[index], values[index]):
            rows_of.append((row, len(columns), float(work[index, config])))
            one.append((row, len(columns), 1.0))
            columns.append(-float(values[index, config]))
        for place in range(int(first[index]), int(last[index]) + 1):
            rows_of.append((row, len(columns), -1.0))
            bins.append((place, len(columns), 1.0))
            columns.append(0.0)
    size = len(columns)
    upper_one, upper_bins = _matrix(one, len(limited), size), _matrix(bins, int(last.max()) + 1, size)
    solved = linprog(
        columns,
        A_ub=vstack([upper_one, upper_bins]),
        b_ub=np.concatenate([np.ones(len(limited)), np.full(int(last.max()) + 1, bin_seconds)]),
        A_eq=_matrix(rows_of, len(limited), size),
        b_eq=np.zeros(len(limited)),
        method="highs",
    )
    return float(-solved.fun / len(limited))


def hull(work: Floats, values: Floats) -> list[int]:
    """Return the configurations on the concave front of value over work, from nothing on."""
    front: list[int] = []
    at_work = at_value = 0.0
    remaining = [place for place in range(len(work)) if values[place] > 0]
    while remaining:
        gain = {place: (values[place] - at_value) / (work[place] - at_work) for place in remaining}
        best = max(remaining, key=lambda place: (gain[place], values[place]))
        if gain[best] <= 0:
            break
        front.append(best)
        at_work, at_value = float(work[best]), float(values[best])
        remaining = [place for place in remaining if work[place] > at_work and values[place] > at_value]
    return front


def hindsight(
    world: World, scene: Scene, engine: SimulatedEngine, chosen: Integers, values: Floats, *, rounds: int, seed: int
) -> tuple[float, float]:
    """Return the mean value of the requests with budgets, before and after a search over their configurations.

    Every round makes some changes, far apart in time, and serves everything anew; each is kept if the requests around it gain
    together. A change is of one request, or of two that arrive near each other, so that one may give what another takes. Any
    configuration on a request's front may be tried, so may those of requests without a budget.
    """
    random = np.random.default_rng(seed)
    arrival = scene.arrivals.arrival_seconds
    limited = np.isfinite(scene.budgets)
    work = world.alone_seconds(scene, chunk_size=engine.planner.chunk_size)
    options = [hull(work[index], values[index]) or [int(work[index].argmin())] for index in range(len(scene))]

    def worth(choice: Integers) -> Floats:
        run = world.serve(scene, engine, choice)
        kept = run.first_token_seconds - run.load.arrival_seconds <= scene.budgets
        return np.where(limited & kept, values[np.arange(len(scene)), choice], 0.0)

    current, best = chosen.copy(), worth(chosen)
    before = float(best[limited].mean())
    for _ in range(rounds):
        tried, places = _changed(random, arrival, current, options)
        found = worth(tried)
        current, best = _kept(worth, current, tried, best, found, places)
    return before, float(best[limited].mean())


def _changed(
    random: np.random.Generator, arrival: Floats, current: Integers, options: list[list[int]]
) -> tuple[Integers, list[int]]:
    tried, places = current.copy(), []
    place = int(random.integers(0, max(1, len(arrival) // 20)))
    while place < len(arrival):
        near = place + int(random.integers(0, NEAR + 1))
        for each in {place, min(near, len(arrival) - 1)} if random.random() < 0.5 else {place}:
            tried[each] = random.choice(options[each])
        places.append(place)
        later = arrival[place] + APART_SECONDS * random.uniform(1, 1.5)
        place = int(np.searchsorted(arrival, later))
    return tried, places


def _kept(
    worth: Callable[[Integers], Floats],
    current: Integers,
    tried: Integers,
    best: Floats,
    found: Floats,
    places: list[int],
) -> tuple[Integers, Floats]:
    edges = [0, *((one + other) // 2 for one, other in pairwise(places)), len(current)]
    merged = current.copy()
    for low, high in pairwise(edges):
        if found[low:high].sum() > best[low:high].sum():
            merged[low:high] = tried[low:high]
    after = worth(merged)
    return (merged, after) if after.sum() >= best.sum() else (current, best)


def _matrix(entries: list[tuple[int, int, float]], rows: int, columns: int) -> coo_matrix:
    places = np.array([(row, column) for row, column, _ in entries], dtype=np.int64)
    return coo_matrix(([value for *_, value in entries], (places[:, 0], places[:, 1])), shape=(rows, columns))


def clairvoyant(answers: Answers, scene: Scene) -> Floats:
    """Return whether each answer is right, as if it were known before it is given, [requests, configurations]."""
    return answers.right[scene.questions]
