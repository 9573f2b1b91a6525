"""How far a latency estimator is off in vLLM, on a model whose kernels dominate a step.

    .venv-vllm/bin/python benchmarks/vllm_estimator.py --store FOLDER [--questions 30] [--new-tokens 4] [--repeats 4]

Writes benchmarks/results/vllm_estimator.json. A synthetic vision-language mixture of experts (`wide_vlm`: random weights) is
measured in one vLLM engine, request by request, on pictures of random sizes under 18 configurations; killed, the same command
goes on. One thread. Every request is measured by two clocks at once: the wall's, and the processor's, which leaves out the time
that other work on the machine took. Estimators are trained and judged on questions that they did not see, by either clock, over
several splits. Beside that stands the noise floor: how far two measurements of the same request are apart, each the least
disturbed of half of the repeats. Whoever knew what a request takes on average would be off by that, over the root of two.
Beside the estimator stands one of the network alone (`structured=False`), on the same splits. `--judge-only` starts no engine.
vLLM's Qwen-VL code needs torchvision; the tests' stand-in serves here too.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, cast

from vllm_in_process import ENGINE, prepare_process

prepare_process()

import polars as pl  # noqa: E402
from PIL import Image  # noqa: E402
from provenance import provenance  # noqa: E402
from vllm_estimator_noise import by_processor, noise_floor  # noqa: E402
from wide_vlm import write_wide_vlm  # noqa: E402

from paceline.datasets import VisualQuestion  # noqa: E402
from paceline.datasets.picture_source import DrawnPicture  # noqa: E402
from paceline.fit.estimator.evaluation import evaluate_estimator, evaluation_document  # noqa: E402
from paceline.fit.estimator.settings import FAST  # noqa: E402
from paceline.fit.estimator.training import train_estimator  # noqa: E402
from paceline.measure.engine_profile import engine_settings, opened_engine  # noqa: E402
from paceline.measure.hosts import EngineHost  # noqa: E402
from paceline.measure.one_pass import MeasuredAnswer  # noqa: E402
from paceline.measure.profiling import ProfilePlan, load_questions  # noqa: E402
from paceline.measure.provenance import provenance_of  # noqa: E402
from paceline.measure.sweep import SweepSettings, sweep  # noqa: E402
from paceline.models.loading import load_model  # noqa: E402
from paceline.profiles import ProfileStore, Split, read_profile, split_samples  # noqa: E402
from paceline.records import KnobConfig, KnobGrid  # noqa: E402
from paceline.vllm_plugin.measuring import VllmProfile  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "vllm_estimator.json"
SETS = ("digits_read", "digits_count", "digits_exist")
GRID = KnobGrid(tiers=("low", "medium", "high"), top_ks=(2, 4, 8), block_counts=(8, 16))
SIDES = (96, 288)  # of pictures, in pixels
SEEDS = (3407, *range(1, 12))  # splits
ASKED = {"prefill": 0.05, "decode": 0.10}
SEED = 3407


@dataclass(frozen=True, slots=True, kw_only=True)
class AloneHost(EngineHost):
    """The engine without batches, whose answers are not asked for here: those of random weights. Each request is measured some
    times, and the time that took the processor least is kept: the least disturbed. All of the processor's stay beside it."""

    repeats: int

    def answer_all(self, picture: Image.Image, prompt: str, configs: Sequence[KnobConfig]) -> Mapping[KnobConfig, str]:
        """Return none."""
        del picture, prompt, configs
        return {}

    def measure(self, picture: Image.Image, prompt: str, config: KnobConfig) -> MeasuredAnswer:
        """Measure a request some times and return the least disturbed."""
        measured = [EngineHost.measure(self, picture, prompt, config) for _ in range(self.repeats)]
        best = min(measured, key=lambda each: sum(_processor_ms(each)))
        every = [ms for each in measured for ms in _processor_ms(each)]
        return replace(best, kept={**best.kept, "processor_ms_of_all": every})


def _processor_ms(measured: MeasuredAnswer) -> list[float]:
    return cast("list[float]", measured.kept["processor_ms"])


def questions_of(count: int) -> list[VisualQuestion]:
    """Return digit questions with their pictures scaled to random sizes: the same for the same count."""
    random = Random(SEED)
    found: list[VisualQuestion] = []
    for question in load_questions(ProfilePlan(datasets=SETS, samples=-(-count // len(SETS))))[:count]:
        size = random.randint(*SIDES), random.randint(*SIDES)
        found.append(replace(question, pictures=(DrawnPicture(image=question.picture.resize(size)),)))
    return found


def measure(store: Path, *, questions: int, new_tokens: int, repeats: int) -> list[float]:
    """Measure what the store lacks and return the machine's load at the start and the end."""
    folder = store.with_name(f"{store.name}-model")
    if not (folder / "config.json").exists():
        write_wide_vlm(folder)
    model = replace(load_model(str(folder), device="cpu", dtype="float32"), name=str(folder))
    engine = VllmProfile(arguments=ENGINE)
    ranking = model.block_ranking or ()
    asked = questions_of(questions)
    provenance = provenance_of(
        replace(model, name="synthetic: wide_vlm"),
        grid=GRID,
        ranking=ranking,
        scorers=dict.fromkeys(SETS, "none"),
        seed=SEED,
        settings={**engine_settings(engine), "new_tokens": new_tokens, "repeats": repeats},
        sources={},
        engine=engine,
    )
    loads = [os.getloadavg()[0]]
    with (
        ProfileStore.open_or_create(store, provenance) as kept,
        opened_engine(model, engine, ranking=ranking, seed=SEED, max_new_tokens=new_tokens, per_step=False) as host,
    ):
        alone = AloneHost(engine=host.engine, model=host.model, repeats=repeats)
        sweep(
            alone,
            asked,
            GRID.configurations(),
            kept,
            SweepSettings(seed=SEED, warmup_runs=1, sentinel_every=20),
            lambda done, total: print(f"\r{done} of {total}", end="", file=sys.stderr, flush=True),
        )
        kept.compact()
    return [*loads, os.getloadavg()[0]]


def judged(samples: pl.DataFrame, seed: int) -> dict[str, Any]:
    """Train on one split, with and without what work costs, and return the evaluation on its test part."""
    split = Split(seed=seed)
    parts = split_samples(samples, split)
    trained = train_estimator(parts.fit, split=split)
    alone = train_estimator(parts.fit, split=split, settings=replace(FAST, structured=False))
    without = evaluation_document(evaluate_estimator(alone.network, parts, baselines=()))
    return {
        **evaluation_document(evaluate_estimator(trained.network, parts)),
        "epochs": trained.epochs,
        "network_alone": {head: without[head]["relative_error"] for head in ASKED},
    }


def spread_of(errors: Sequence[float]) -> dict[str, float]:
    """Return the mean of some splits' errors with their range."""
    return {"mean": statistics.fmean(errors), "min": min(errors), "max": max(errors)}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the relative errors of each head over splits, by configuration, and of the baselines."""
    found: dict[str, Any] = {}
    for head, asked in ASKED.items():
        overall = [run[head]["relative_error"] for run in runs]
        configs = sorted(runs[0]["by_config"])
        own = {
            config: statistics.fmean(run["by_config"][config][head]["relative_error"] for run in runs)
            for config in configs
        }
        baselines = {
            name: statistics.fmean(run["baselines"][name][head]["relative_error"] for run in runs)
            for name in runs[0]["baselines"]
        }
        alone = [run["network_alone"][head] for run in runs]
        gains = [before - after for before, after in zip(alone, overall, strict=True)]
        found[head] = {
            "asked_below": asked,
            "relative_error": spread_of(overall),
            "splits_met": sum(error < asked for error in overall),
            "splits_by_work_alone": sum(not run["epochs"] for run in runs),
            "network_alone": {
                **spread_of(alone),
                "minus_estimator": statistics.fmean(gains),
                "standard_error": statistics.stdev(gains) / math.sqrt(len(gains)),
                "splits_better": sum(gain > 0 for gain in gains),
            },
            "median_relative_error": statistics.fmean(run[head]["median_relative_error"] for run in runs),
            "mae_ms": statistics.fmean(run[head]["mae_ms"] for run in runs),
            "by_config": own,
            "configs_met": sum(error < asked for error in own.values()),
            "configs": len(own),
            "baselines": baselines,
        }
    return found


def repeats(store: Path, samples: pl.DataFrame) -> dict[str, Any]:
    """Return how one request under one configuration spreads when it is measured again and again (wall), and what share of
    the wall's time the processor worked."""
    lines = [json.loads(line) for line in (store / "sentinels-rank0.jsonl").read_text().splitlines()]
    prefills = [line["prefill_ms"] for line in lines]
    own = by_processor(samples)
    wall, processor = (frame["T_vision_total"] + frame["T_LLM_prefill"] for frame in (samples, own))
    shares = (processor / wall).to_list()
    return {
        "sentinels": len(prefills),
        "sentinel_prefill_ms": {"median": statistics.median(prefills), "min": min(prefills), "max": max(prefills)},
        "processor_share_of_prefill": {
            "median": statistics.median(shares),
            "p10": sorted(shares)[len(shares) // 10],
            "p90": sorted(shares)[-1 - len(shares) // 10],
        },
    }


def show(document: Mapping[str, Any]) -> None:
    """Print the figures."""
    for clock, heads in document["clocks"].items():
        for head, each in heads.items():
            spread, configs = each["relative_error"], each["by_config"]
            print(
                f"{clock:9} {head:7} {spread['mean']:.1%} ({spread['min']:.1%} to {spread['max']:.1%} over splits), median error "
                f"{each['median_relative_error']:.1%}, by configuration {min(configs.values()):.1%} to "
                f"{max(configs.values()):.1%}; below {each['asked_below']:.0%}: {each['configs_met']} of {each['configs']} and "
                f"{each['splits_met']} splits of {document['splits']}"
            )
            alone = each["network_alone"]
            print(
                f"{'':17} the network alone {alone['mean']:.1%} ({alone['min']:.1%} to {alone['max']:.1%}), paired "
                f"{100 * alone['minus_estimator']:+.2f} points (standard error {100 * alone['standard_error']:.2f}), worse in "
                f"{alone['splits_better']}; baselines "
                + ", ".join(f"{name} {error:.1%}" for name, error in each["baselines"].items())
            )
    print(json.dumps({name: document[name] for name in ("repeats", "noise_floor")}, indent=2))


def main() -> None:
    """Measure, judge, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--judge-only", action="store_true", help="of a store that is complete")
    given = parser.parse_args()
    if given.judge_only:
        loads = [None, None]
    else:
        loads = measure(given.store, questions=given.questions, new_tokens=given.new_tokens, repeats=given.repeats)
    samples = read_profile(given.store).samples
    clocks = {"wall": samples, "processor": by_processor(samples)}
    document = {
        **provenance("vllm_estimator.py"),
        "model": "synthetic: wide_vlm, random weights, 16 blocks of 512, 32 experts of 192, 8 a token",
        "threads": 1,
        "load_average": {"start": loads[0], "end": loads[1]},
        "engine": ENGINE,
        "samples": samples.height,
        "splits": len(SEEDS),
        "prefill_ms": {
            name: frame.select(pl.col("T_vision_total") + pl.col("T_LLM_prefill")).to_series().median()
            for name, frame in clocks.items()
        },
        "repeats": repeats(given.store, samples),
        "noise_floor": noise_floor(samples),
        "clocks": {name: summary([judged(frame, seed) for seed in SEEDS]) for name, frame in clocks.items()},
    }
    show(document)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
