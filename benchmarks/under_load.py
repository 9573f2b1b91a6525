"""What quality is given up, and what time is kept, as the load rises: choices at arrival against everything fixed.

    python benchmarks/under_load.py --trace AzureLLMInferenceTrace_conv.csv [--seeds 20] [--requests 1000] [--workers 2]
        [--cells FOLDER] [--parts loads disturbances others]
    python benchmarks/under_load.py --trace ... --tune [--seeds 6]

Writes benchmarks/results/under_load.json and docs/under_load.svg; without --trace the arrivals are synthetic, and labelled so.
`load_scenes.py` says what is assumed. Load 100 % is the rate at which the whole model with the largest images, first come,
first served, has a P95 of TTFT of four times T0, its mean TTFT alone; that, and the price (`--tune`), are set on the first half
of the trace. Everything reported is served from the second half, and judged by questions that no table was made from.
Value is accuracy where the budget was kept and 0 where it was missed, per request with a budget. Intervals: 95 %, t over seeds
for means, Clopper and Pearson for shares of pooled requests.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from load_chart import write_chart
from load_limits import clairvoyant, hindsight, relaxation
from load_scenes import BLOCKS, EXPERTS, IMAGE_TOKENS, Integers, Scene, World
from provenance import provenance

from paceline.control.work_price import PriceSettings
from paceline.estimate.online_scores import budget_class
from paceline.schedule import LoadDecision, LoadSettings
from paceline.simulate import SimulatedRun
from paceline.slo import Proportion

HERE = Path(__file__).parent
RESULTS, CHART = HERE / "results" / "under_load.json", HERE.parent / "docs" / "under_load.svg"
FIRST = (1.0, 2.0, 4.0, 0.5, 3.0, 0.8, 1.5, 1.2)  # what says most comes first; loads that are in the results stay
OTHER_SEEDS, DISTURBED_SEEDS = 20, 20
MIXED, LOOSE, TIGHT = (0.5, 1.0, 2.0, 4.0, math.inf), (1.0, 2.0, 4.0, 8.0, math.inf), (0.5, 0.7, 1.0, math.inf)
PRICE = PriceSettings(per_arrival=0.25, step=1.0, share=0.5)
OURS, SELFISH, CONSTANT, QUEUED = "recommended", "edf, price 0", "edf, constant price", "fcfs, price 0"
CONTROLLERS: dict[str, tuple[str, LoadSettings]] = {
    OURS: ("edf", LoadSettings(price=PRICE)),
    CONSTANT: ("edf", LoadSettings(price=PriceSettings(floor=0.25))),  # the best one on the tuning half
    SELFISH: ("edf", LoadSettings()),
    QUEUED: ("fcfs", LoadSettings()),
}
BLIND_TABLE, BLIND_BOUND = "table, blind to load", "estimate, blind to load"
BLIND_MARGIN = 1.1  # of the estimate that is blind to load: steps vary
CHUNK = 512
P95_T0 = 4.0
SEARCHED = (1.0, 2.0)
SEARCH_SEEDS, SEARCH_ROUNDS = 10, 400
WORLD: dict[str, World] = {}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One stretch at one load."""

    seed: int
    share: float
    rate: float
    t0: float
    requests: int
    budgets: tuple[float, ...] = MIXED
    chunk_size: int = CHUNK
    is_whole: bool = True  # everything that is compared, not only ours and the fixed ones of the same order
    held_out: bool = True


def judged(world: World, scene: Scene, run: SimulatedRun, chosen: Integers) -> Row:
    """Return the figures of one run."""
    ttft = run.first_token_seconds - run.load.arrival_seconds
    limited, kept = np.isfinite(scene.budgets), ttft <= scene.budgets
    right = world.answers.right[scene.questions, chosen]
    in_time = right[limited & kept]
    best = world.answers.believed[scene.questions].max(axis=1)
    given_up = best - world.answers.believed[scene.questions, chosen]
    return {
        "attainment": float(kept[limited].mean()),
        "accuracy": float(in_time.mean()) if len(in_time) else None,
        "value": float((right * kept)[limited].mean()),
        "accuracy_without_budget": float(right[~limited].mean()) if not limited.all() else None,
        "accuracy_given_up": float(given_up.mean()),
        "ttft_seconds": [float(each) for each in np.percentile(ttft, [50, 95, 99])],
        "longest_without_budget_seconds": float(ttft[~limited].max()) if not limited.all() else None,
    }


def promises(scene: Scene, run: SimulatedRun, decisions: Sequence[LoadDecision]) -> Row:
    """Return counts of promises kept and of bounds that held, in all and by class of budget."""
    ttft = run.first_token_seconds - run.load.arrival_seconds
    found: dict[str, list[int]] = {}
    for seconds, budget, decision in zip(ttft.tolist(), scene.budgets.tolist(), decisions, strict=True):
        kind = "relegated" if decision.unpromised == "relegated" else class_name(budget)
        for name in ("all", kind):
            counts = found.setdefault(name, [0, 0, 0, 0])
            if decision.promised:
                counts[0] += seconds <= budget
                counts[1] += 1
            if decision.bound_seconds is not None:
                counts[2] += seconds <= decision.bound_seconds
                counts[3] += 1
    return {name: {"kept": c[0], "promised": c[1], "covered": c[2], "bounded": c[3]} for name, c in found.items()}


def class_name(budget: float) -> str:
    """Return the name of a budget's class."""
    return "none" if math.isinf(budget) else f"2^{budget_class(budget)} s"


def constant(scene: Scene, place: int) -> Integers:
    """Return one configuration for all requests."""
    return np.full(len(scene), place, dtype=np.int64)


def blind(world: World, scene: Scene, *, chunk_size: int, by_request: bool) -> Integers:
    """Return the most accurate configuration that keeps the budget on an idle engine: by a table's means, or each its own."""
    alone = world.alone_seconds(scene, chunk_size=chunk_size)
    alone = BLIND_MARGIN * alone if by_request else np.tile(alone.mean(axis=0), (len(scene), 1))
    believed = world.answers.believed[scene.questions]
    fits = alone <= scene.budgets[:, None]
    choice = np.where(fits, believed - 1e-6 * alone, -np.inf).argmax(axis=1)
    return np.where(fits.any(axis=1), choice, alone.argmin(axis=1)).astype(np.int64)


def served(job: Job) -> Row:
    """Serve one stretch in every way, and return all figures."""
    world = WORLD["it"]
    scene = world.scene(
        job.seed, requests=job.requests, rate=job.rate, budgets=job.budgets, t0=job.t0, held_out=job.held_out
    )
    engine = partial(world.engine, chunk_size=job.chunk_size, t0=job.t0)
    found: Row = {"share": job.share, "seed": job.seed, "rows": {}}
    names = CONTROLLERS if job.is_whole else {OURS: CONTROLLERS[OURS]}
    for name, (policy, settings) in names.items():
        run, decisions = world.control(scene, engine(policy), settings)
        assert run.chosen is not None and run.steps is not None
        found["rows"][name] = judged(world, scene, run, run.chosen) | {"promises": promises(scene, run, decisions)}
        if name == OURS:
            found["busy"] = float(
                run.steps.seconds.sum() / (run.completion_seconds.max() - run.load.arrival_seconds[0])
            )
            prefilling = run.steps.prefill_tokens > 0
            found["prefilling"] = float(run.steps.seconds[prefilling].sum() / run.steps.seconds.sum())
            found["price"] = float(np.mean([each.price_per_second for each in decisions]))
            if job.is_whole:
                found |= limits(world, scene, run.chosen, job)
    for policy in ("edf", "fcfs") if job.is_whole else ("edf",):
        for place, config in enumerate(world.answers.configs):
            chosen = constant(scene, place)
            run = world.serve(scene, engine(policy), chosen)
            found["rows"][f"{policy} {config.key}"] = judged(world, scene, run, chosen)
        if job.is_whole:
            for name, by_request in ((BLIND_TABLE, False), (BLIND_BOUND, True)):
                chosen = blind(world, scene, chunk_size=job.chunk_size, by_request=by_request)
                run = world.serve(scene, engine(policy), chosen)
                found["rows"][f"{policy}, {name}"] = judged(world, scene, run, chosen)
    return found


def limits(world: World, scene: Scene, chosen: Integers, job: Job) -> Row:
    """Return both relaxations, and the search in hindsight where it is made."""
    values = {"relaxation": world.answers.expected[scene.questions], "clairvoyant": clairvoyant(world.answers, scene)}
    found: Row = {name: relaxation(world, scene, each, chunk_size=job.chunk_size) for name, each in values.items()}
    if job.seed < SEARCH_SEEDS and job.share in SEARCHED:
        engine = world.engine("edf", chunk_size=job.chunk_size, t0=job.t0)
        before, after = hindsight(
            world, scene, engine, chosen, world.answers.believed[scene.questions], rounds=SEARCH_ROUNDS, seed=job.seed
        )
        found["hindsight"] = {"start": before, "found": after}
    return found


def t_interval(values: Sequence[float]) -> dict[str, float]:
    """Return mean and half width."""
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return {"mean": float(np.mean(values)), "half": half}


def pooled(results: Sequence[Row]) -> Row:
    """Return the figures of one load over its seeds, ours against the best of the fixed ones."""
    names = list(results[0]["rows"])
    figures: Row = {}
    for name in names:
        rows = [each["rows"][name] for each in results]
        figures[name] = {
            key: t_interval([row[key] for row in rows if row[key] is not None])
            for key in ("attainment", "accuracy", "value", "accuracy_without_budget", "accuracy_given_up")
            if sum(row[key] is not None for row in rows) > 1
        }
        figures[name]["ttft_seconds"] = np.mean([row["ttft_seconds"] for row in rows], axis=0).tolist()
    fixed = [name for name in names if name.startswith("edf ")]
    best = max(fixed, key=lambda name: figures[name]["value"]["mean"])
    gains = [each["rows"][OURS]["value"] - each["rows"][best]["value"] for each in results]
    found: Row = {
        "share": results[0]["share"],
        "seeds": len(results),
        "figures": figures,
        "best_fixed": best,
        "gain_over_best_fixed": t_interval(gains),
        "pairs": pairs(figures, [name for name in names if name.startswith(("edf ", "fcfs "))]),
        "promises": {
            name: counted([each["rows"][name]["promises"] for each in results]) for name in names if name in CONTROLLERS
        },
    }
    for key in ("busy", "prefilling", "price", "relaxation", "clairvoyant"):
        if key in results[0]:
            found[key] = t_interval([each[key] for each in results])
    for key in ("relaxation", "clairvoyant"):
        if key in results[0]:
            found[f"of_{key}"] = t_interval([each["rows"][OURS]["value"] / each[key] for each in results])
    searched = [each["hindsight"] for each in results if "hindsight" in each]
    if searched:
        found["of_hindsight"] = t_interval([each["start"] / each["found"] for each in searched])
        found["hindsight_gain"] = t_interval([each["found"] - each["start"] for each in searched])
    return found


def pairs(figures: Mapping[str, Row], fixed: Sequence[str]) -> Row:
    """Return SuperServe's two ratios, each with the fixed configuration it is taken against."""
    ours = {key: figures[OURS][key]["mean"] for key in ("attainment", "accuracy")}
    found: Row = {}
    for key, other in (("accuracy", "attainment"), ("attainment", "accuracy")):
        able = [
            name
            for name in fixed
            if "accuracy" in figures[name] and figures[name][other]["mean"] >= ours[other] - 0.005
        ]
        if able:
            best = max(able, key=lambda name: figures[name][key]["mean"])
            theirs = {name: figures[best][name]["mean"] for name in ("attainment", "accuracy")}
            ratio = ours[key] / theirs[key] if theirs[key] else None
            found[f"{key}_at_equal_{other}"] = {"ratio": ratio, "against": best, "ours": ours, "theirs": theirs}
    return found


def counted(each: Sequence[Mapping[str, Mapping[str, int]]]) -> Row:
    """Return shares of promises kept and bounds that held, with their intervals, by class."""
    found: Row = {}
    for name in sorted({name for one in each for name in one}):
        sums = {
            key: sum(one[name][key] for one in each if name in one)
            for key in ("kept", "promised", "covered", "bounded")
        }
        found[name] = {
            label: share(sums[hits], sums[count])
            for label, hits, count in (("kept", "kept", "promised"), ("coverage", "covered", "bounded"))
        }
    return found


def share(hits: int, count: int) -> Row | None:
    """Return a share with its interval; None of nothing."""
    if not count:
        return None
    interval = Proportion(successes=hits, count=count).interval()
    return {"share": hits / count, "low": interval.low, "high": interval.high, "count": count}


def rate_at_p95(world: World, t0: float, *, chunk_size: int) -> float:
    """Return the requests a second at which the largest configuration keeps a P95 of `P95_T0`, on the first half."""
    largest = max(range(len(world.answers.configs)), key=lambda place: world.answers.configs[place].size)
    engine = world.engine("fcfs", chunk_size=chunk_size, t0=t0)

    def p95(rate: float) -> float:
        found: list[float] = []
        for seed in range(4):
            scene = world.scene(seed, requests=4000, rate=rate, budgets=MIXED, t0=t0, held_out=False)
            run = world.serve(scene, engine, constant(scene, largest))
            found.append(float(np.percentile(run.first_token_seconds - run.load.arrival_seconds, 95)))
        return float(np.mean(found)) / t0

    low, high = 0.5, 4.0
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if p95(middle) < P95_T0 else (low, middle)
    return (low + high) / 2


def alone_t0(world: World) -> float:
    """Return the mean TTFT of the largest configuration on an idle engine."""
    scene = world.scene(0, requests=2000, rate=1.0, budgets=MIXED, t0=1.0, held_out=False)
    return float(world.alone_seconds(scene, chunk_size=CHUNK).max(axis=1).mean())


def disturbed(job: Job, *, kind: str) -> dict[str, list[Row]]:
    """Return what became of each request with a budget or a bound when something changes at the middle of a stretch."""
    world = WORLD["it"]
    scene = world.scene(job.seed, requests=job.requests, rate=job.rate, budgets=job.budgets, t0=job.t0)
    middle = job.requests // 2
    arrival = scene.arrivals.arrival_seconds.copy()
    if kind == "load doubles":
        arrival[middle:] = arrival[middle] + (arrival[middle:] - arrival[middle]) / 2
    elif kind == "idle for ten minutes":
        arrival[middle:] += 600.0
    elif kind == "mix changes":
        random = np.random.default_rng(job.seed)
        budgets, questions = scene.budgets.copy(), scene.questions.copy()
        budgets[:middle] = random.choice(np.array([2.0, 4.0, math.inf]) * job.t0, middle)
        budgets[middle:] = random.choice(np.array([0.5, 1.0, 2.0]) * job.t0, job.requests - middle)
        third = len(world.answers.right) // 3
        questions[:middle] = random.integers(0, third, middle)
        questions[middle:] = random.integers(third, 3 * third, job.requests - middle)
        scene = replace(scene, budgets=budgets, questions=questions)
    scene = replace(scene, arrivals=replace(scene.arrivals, arrival_seconds=arrival))
    policy, settings = CONTROLLERS[OURS]
    engine = world.engine(policy, chunk_size=job.chunk_size, t0=job.t0)
    run, decisions = world.control(scene, engine, settings)
    if kind == "20 % slower":
        assert run.steps is not None
        noise = scene.noise.copy()
        noise[int(np.searchsorted(run.steps.started_seconds, arrival[middle])) :] *= 1.2
        scene = replace(scene, noise=noise)
        run, decisions = world.control(scene, engine, settings)
    ttft = run.first_token_seconds - run.load.arrival_seconds
    rows = [
        {
            "index": index,
            "class": class_name(budget) if each.unpromised != "relegated" else "relegated",
            "kept": bool(seconds <= budget) if each.promised else None,
            "covered": bool(seconds <= each.bound_seconds) if each.bound_seconds is not None else None,
            "in_time": bool(seconds <= budget) if math.isfinite(budget) else None,
        }
        for index, (seconds, budget, each) in enumerate(
            zip(ttft.tolist(), scene.budgets.tolist(), decisions, strict=True)
        )
    ]
    return {"rows": rows}


def windows(rows: Sequence[Row], *, requests: int, width: int) -> list[Row]:
    """Return promises kept and coverage in windows of requests, pooled over seeds; by class too."""
    found: list[Row] = []
    for first in range(0, requests - width + 1, width // 2):
        inside = [row for row in rows if first <= row["index"] < first + width]
        by_class: Row = {}
        for name in ["all", *sorted({row["class"] for row in inside})]:
            own = inside if name == "all" else [row for row in inside if row["class"] == name]
            by_class[name] = {
                key: share(
                    sum(row[key] for row in own if row[key] is not None), sum(row[key] is not None for row in own)
                )
                for key in ("kept", "covered", "in_time")
            }
        found.append({"first": first, "last": first + width, "shares": by_class})
    return found


def tune(campaign: "Campaign", document: Row) -> None:
    """Print the value of prices on the first half of the trace."""
    rows: list[Row] = []
    for per_arrival in (0.0, 0.12, 0.25, 0.5):
        for step in (0.0, 0.3, 1.0):
            settings = LoadSettings(price=replace(PRICE, per_arrival=per_arrival, step=step))
            jobs = campaign.jobs((0.5, 1.0, 2.0, 4.0), held_out=False)
            found = campaign.map(partial(valued, settings=settings), jobs)
            by_load: dict[float, list[float]] = {}
            for share_of_load, value in found:
                by_load.setdefault(share_of_load, []).append(value)
            values = {str(key): float(np.mean(each)) for key, each in by_load.items()}
            rows.append({"per_arrival": per_arrival, "step": step, "values": values})
            rounded = {key: round(each, 4) for key, each in values.items()}
            print(f"{per_arrival} an arrival, step {step}/s²:", rounded, flush=True)
    document["tuning"] = rows


def valued(job: Job, *, settings: LoadSettings) -> tuple[float, float]:
    """Return the value of a price on one stretch."""
    world = WORLD["it"]
    scene = world.scene(
        job.seed, requests=job.requests, rate=job.rate, budgets=job.budgets, t0=job.t0, held_out=job.held_out
    )
    run, _ = world.control(scene, world.engine("edf", chunk_size=job.chunk_size, t0=job.t0), settings)
    assert run.chosen is not None
    return job.share, judged(world, scene, run, run.chosen)["value"]


def show(row: Row, t0: float) -> None:
    """Print one load."""
    ours = row["figures"][OURS]
    kept = row["promises"][OURS]["all"]["kept"]
    busy = f"busy {row['busy']['mean']:.0%}, {row['prefilling']['mean']:.0%} of it prefilling"
    times = "/".join(f"{each / t0:.1f}" for each in ours["ttft_seconds"])
    print(
        f"{row['share']:.0%}: {busy}; attainment {ours['attainment']['mean']:.3f} ± {ours['attainment']['half']:.3f}, "
        f"accuracy {ours['accuracy']['mean']:.3f}, value {ours['value']['mean']:.3f} ± {ours['value']['half']:.3f}, "
        f"promises kept {kept['share']:.4f} ({kept['low']:.4f} to {kept['high']:.4f}), TTFT × T0 {times}"
    )
    gain, best = row["gain_over_best_fixed"], row["best_fixed"]
    value = row["figures"][best]["value"]["mean"]
    print(f"    {best}: value {value:.3f}; ours {gain['mean']:+.3f} ± {gain['half']:.3f}")
    for name in row["figures"]:
        if not name.startswith(("edf ", "fcfs ")) and name != OURS:
            each = row["figures"][name]
            print(f"    {name}: {each['attainment']['mean']:.3f}, value {each['value']['mean']:.3f}")
    for name in ("of_relaxation", "of_clairvoyant", "of_hindsight", "hindsight_gain"):
        if name in row:
            print(f"    {name}: {row[name]['mean']:.3f} ± {row[name]['half']:.3f}")
    for name, each in row["pairs"].items():
        print(f"    {name}: {each['ratio']:.2f} against {each['against']} {each['theirs']}")


def read_cells(path: Path) -> dict[str, Any]:
    """Return what a file of cells has by job; a line that a killed call left unfinished is not there."""
    found: dict[str, Any] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            cell = json.loads(line)
        except ValueError:
            continue
        found[cell["job"]] = cell["found"]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is served: seeds, requests of a stretch, and the rate at which the load is 100 %."""

    seeds: int
    requests: int
    t0: float
    rate: float
    map: Callable[..., Any]  # of a function over jobs, results as they come, in order
    cells: Path | None = None
    results: Path = RESULTS

    def run(self, function: Callable[[Job], Any], jobs: Sequence[Job], *, named: str) -> list[Any]:
        """Return what a function makes of each job, those that the folder of cells has read instead of made again."""
        path = None if self.cells is None else self.cells / f"{named.replace(' ', '_').replace('%', 'percent')}.jsonl"
        there = {} if path is None else read_cells(path)
        left = [job for job in jobs if repr(job) not in there]
        for job, found in zip(left, self.map(function, left), strict=True):
            there[repr(job)] = found
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("a") as file:
                    file.write("\n" + json.dumps({"job": repr(job), "found": found}))
        return [there[repr(job)] for job in jobs]

    def write(self, document: Row) -> None:
        """Write what is there."""
        self.results.write_text(json.dumps(document, indent=1) + "\n")

    def jobs(self, shares: Sequence[float] = (0.5, 1.0, 2.0, 3.0), **more: Any) -> list[Job]:
        """Return a job for each load and seed."""
        seeds, rate = more.pop("seeds", self.seeds), more.pop("rate", self.rate)
        own: dict[str, Any] = {"requests": self.requests} | more
        return [
            Job(seed=seed, share=each, rate=each * rate, t0=self.t0, **own) for each in shares for seed in range(seeds)
        ]


def compare(campaign: Campaign, document: Row) -> None:
    """Compare everything at every load."""
    document.setdefault("loads", [])
    there = {row["share"] for row in document["loads"]}
    for each in (share for share in FIRST if share not in there):
        found = campaign.run(served, campaign.jobs([each]), named="loads")
        document["loads"].append(pooled(found))
        show(document["loads"][-1], campaign.t0)
        campaign.write(document)
    document["loads"] = sorted(document["loads"], key=share_of)
    write_chart(document["loads"], OURS, CHART)


def share_of(row: Row) -> float:
    """Return the load of a row."""
    return row["share"]


def disturb(campaign: Campaign, document: Row) -> None:
    """Follow promises and bounds through four changes."""
    document["disturbances"] = {}
    document.pop("disturbances_made_with", None)  # of an earlier rule
    for kind in ("load doubles", "20 % slower", "idle for ten minutes", "mix changes"):
        jobs = campaign.jobs([1.0], seeds=DISTURBED_SEEDS, requests=4000)
        rows = [row for one in campaign.run(partial(disturbed, kind=kind), jobs, named=kind) for row in one["rows"]]
        document["disturbances"][kind] = windows(rows, requests=4000, width=1000)
        for each in document["disturbances"][kind]:
            shown = {key: cell and round(cell["share"], 3) for key, cell in each["shares"]["all"].items()}
            print(kind, each["first"], shown, flush=True)
        campaign.write(document)


def vary(campaign: Campaign, document: Row, world: World) -> None:
    """Compare ours with the best fixed configuration under other budgets, and with longer steps."""
    rate = rate_at_p95(world, campaign.t0, chunk_size=2048)
    document["others"] = {}
    ways: dict[str, Row] = {
        "loose budgets": {"budgets": LOOSE},
        "tight budgets": {"budgets": TIGHT},
        "chunk size 2048": {"chunk_size": 2048, "rate": rate},
    }
    for name, more in ways.items():
        document["others"][name] = []
        for each in (0.5, 1.0, 2.0):
            jobs = campaign.jobs([each], is_whole=False, seeds=OTHER_SEEDS, **more)
            found = pooled(campaign.run(served, jobs, named=name))
            document["others"][name].append(found)
            print(name)
            show(found, campaign.t0)
        campaign.write(document)


def described(arguments: argparse.Namespace, world: World, t0: float, rate: float) -> Row:
    """Return what the results say of how they were made, beside earlier parts of them."""
    document: Row = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    return document | {
        **provenance("under_load.py"),
        "simulated": True,
        "synthetic": arguments.trace is None,
        "assumed": {
            "step_time": world.model.document(),
            "image_tokens": IMAGE_TOKENS,
            "share_of_prefill_by_experts": EXPERTS,
            "share_of_prefill_by_blocks": BLOCKS,
        },
        "t0_seconds": t0,
        "rate_at_100_percent": rate,
        "price": asdict(PRICE),
        "requests": arguments.requests,
    }


def main() -> None:
    """Serve everything, print a load at a time, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tune", action="store_true", help="find the price on the first half of the trace, and stop")
    parser.add_argument("--results", type=Path, default=RESULTS, help="gone on with: loads that are there stay")
    parser.add_argument("--cells", type=Path, help="folder that keeps every stretch: a killed call goes on")
    parser.add_argument("--parts", nargs="*", default=["loads", "disturbances", "others"])
    arguments = parser.parse_args()
    world = WORLD["it"] = World.load(arguments.trace)
    t0 = alone_t0(world)
    rate = rate_at_p95(world, t0, chunk_size=CHUNK)
    print(f"T0 {t0:.3f} s; 100 % is {rate:.2f} requests a second", flush=True)
    document = described(arguments, world, t0, rate)
    with get_context("fork").Pool(arguments.workers) as pool:
        campaign = Campaign(
            seeds=arguments.seeds,
            requests=arguments.requests,
            t0=t0,
            rate=rate,
            map=pool.imap,
            cells=arguments.cells,
            results=arguments.results,
        )
        if arguments.tune:
            tune(campaign, document)
        elif "loads" in arguments.parts:
            compare(campaign, document)
        if "disturbances" in arguments.parts and not arguments.tune:
            disturb(campaign, document)
        if "others" in arguments.parts and not arguments.tune:
            vary(campaign, document, world)
        campaign.write(document)


if __name__ == "__main__":
    main()
