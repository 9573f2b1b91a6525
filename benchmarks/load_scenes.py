"""What `under_load.py` serves: conversation arrivals with image requests, budgets, and the configurations that answer them.

Assumed, not measured: the engine's step times (a linear model fitted on what Vidur's tables predict for Llama 3 8B on an A100),
image tokens of the tiers as a large model has them, and the share of a prefill's time that is left with fewer experts or
blocks. Measured: the arrivals and lengths of the Azure conversation trace, and whether the embedded model answers each
question right under each configuration: 450 questions that are judged by (benchmarks/results/digit_answers.json), and 561 others
that tables are made from (benchmarks/results/certified_population.npz).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from simulated_scheduling import assumed_step_time, stretched
from simulator import CAP, conversation

from paceline.records import KnobConfig
from paceline.schedule import LinearStepTime, LoadController, LoadDecision, LoadSettings, PlannerSettings, PolicyWeights
from paceline.simulate import (
    Candidate,
    Choices,
    LinearCost,
    LoadChooser,
    RequestColumns,
    SimulatedEngine,
    SimulatedRun,
    VaryingCost,
    simulate,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
ANSWERS = Path(__file__).parent / "results" / "digit_answers.json"
TABLES = Path(__file__).parent / "results" / "certified_population.npz"
TRACE_REQUESTS = 19_000
LONGEST_TEXT = 1_792
IMAGE_TOKENS = {"low": 576, "medium": 1296, "high": 2304}
EXPERTS = {8: 1.0, 4: 0.77, 1: 0.58}
BLOCKS = {16: 1.0, 12: 0.76, 8: 0.51}
KEY_VALUE_BLOCKS = 60_000  # memory never runs out
NO_BUDGET_T0 = 20.0
NOISE = 0.05  # of a step's time, lognormal
STEPS_DRAWN = 200_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """Whether each judged question is answered right under each configuration, and what tables say of questions like it.

    `right`, `believed` and `expected` have a row a question and a column a configuration; `believed` are means by question set
    over other questions, `expected` over the judged ones.
    """

    configs: tuple[KnobConfig, ...]
    right: Floats
    believed: Floats
    expected: Floats

    @property
    def factors(self) -> Floats:
        """What a configuration's prefill takes in shares of the whole model's."""
        return np.array([EXPERTS[c.top_k or 0] * BLOCKS[c.num_active_blocks or 0] for c in self.configs])

    @property
    def image_tokens(self) -> Integers:
        """The image tokens of each configuration."""
        return np.array([IMAGE_TOKENS[c.tier or ""] for c in self.configs], dtype=np.int64)


def read_answers(path: Path = ANSWERS, tables: Path = TABLES) -> Answers:
    """Return the answers that are judged by, and tables of other questions: means of each set over those of `tables`."""
    sets: dict[str, dict[str, str]] = json.loads(path.read_text())["answers"]
    keys = list(next(iter(sets.values())))
    others = np.load(tables, allow_pickle=False)
    note = json.loads(str(others["note"]))
    columns = [note["configurations"].index(key) for key in keys]
    right: list[Floats] = []
    believed: list[Floats] = []
    expected: list[Floats] = []
    for name, by_config in sets.items():
        judged = np.array([[int(mark) for mark in by_config[key]] for key in keys], dtype=np.float64).T
        table = others["accuracy"][others["dataset"] == note["datasets"].index(name)][:, columns]
        right.append(judged)
        believed.append(np.tile(table.mean(axis=0), (len(judged), 1)))
        expected.append(np.tile(judged.mean(axis=0), (len(judged), 1)))
    return Answers(
        configs=tuple(KnobConfig.from_key(key) for key in keys),
        right=np.concatenate(right),
        believed=np.concatenate(believed),
        expected=np.concatenate(expected),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """Requests to be served: arrivals with text and output lengths, the question of each, its budget, and noise of steps."""

    arrivals: RequestColumns
    questions: Integers
    budgets: Floats
    noise: Floats

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def text_tokens(self) -> Integers:
        """The prompt without its image."""
        return np.minimum(self.arrivals.prompt_tokens, LONGEST_TEXT)

    def load(self, answers: Answers, chosen: Integers) -> RequestColumns:
        """Return the load with one configuration chosen for each request."""
        return replace(
            self.arrivals,
            prompt_tokens=self.text_tokens + answers.image_tokens[chosen],
            prefill_factor=answers.factors[chosen],
            ttft_budget_seconds=self.budgets,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """The trace, the step-time model and the answers that all scenes are drawn from."""

    whole: RequestColumns
    model: LinearStepTime
    answers: Answers

    @staticmethod
    def load(trace: Path | None) -> "World":
        """Read the trace, or draw a synthetic one; fit the assumed step times on its first part."""
        whole = conversation(trace, TRACE_REQUESTS)
        return World(
            whole=whole,
            model=assumed_step_time(whole.part(np.arange(800))).model,
            answers=read_answers(),
        )

    def scene(
        self, seed: int, *, requests: int, rate: float, budgets: tuple[float, ...], t0: float, held_out: bool = True
    ) -> Scene:
        """Return a stretch of the trace's second half, or of its first where nothing is held out, at a rate a second."""
        random = np.random.default_rng([seed, held_out])
        half = len(self.whole) // 2
        first = int(random.integers(0, half - requests)) + (half if held_out else 0)
        part = stretched(self.whole.part(np.arange(first, first + requests)), rate)
        return Scene(
            arrivals=part,
            questions=random.integers(0, len(self.answers.right), requests),
            budgets=random.choice(np.array(budgets) * t0, requests),
            noise=random.lognormal(0, NOISE, STEPS_DRAWN),
        )

    def engine(self, policy: str, *, chunk_size: int, t0: float) -> SimulatedEngine:
        """Return the engine under an order."""
        weights = PolicyWeights(no_budget_seconds=NO_BUDGET_T0 * t0)
        return SimulatedEngine(
            rules="paceline",
            planner=PlannerSettings(chunk_size=chunk_size, policy=policy, weights=weights),
            max_num_seqs=CAP,
            num_blocks=KEY_VALUE_BLOCKS,
            target_model=self.model,
        )

    def cost(self, scene: Scene) -> VaryingCost:
        """Return the scene's step times."""
        return VaryingCost(LinearCost(self.model), scene.noise)

    def serve(
        self, scene: Scene, engine: SimulatedEngine, chosen: Integers, *, with_steps: bool = False
    ) -> SimulatedRun:
        """Serve the requests under the configurations chosen for them beforehand."""
        return simulate(scene.load(self.answers, chosen), engine, self.cost(scene), with_steps=with_steps)

    def control(
        self, scene: Scene, engine: SimulatedEngine, settings: LoadSettings
    ) -> tuple[SimulatedRun, list[LoadDecision]]:
        """Serve the requests under a controller that chooses at each arrival."""
        controller = LoadController(settings, engine.planner, self.model)
        chooser = LoadChooser(controller, self.answers.believed[scene.questions])
        pairs = list(zip(self.answers.image_tokens.tolist(), self.answers.factors.tolist(), strict=True))
        candidates = [
            [Candidate(prompt_tokens=text + image, prefill_factor=factor) for image, factor in pairs]
            for text in scene.text_tokens.tolist()
        ]
        load = replace(scene.arrivals, ttft_budget_seconds=scene.budgets)
        choices = Choices(candidates=candidates, choose=chooser)
        run = simulate(load, engine, self.cost(scene), choices=choices)
        return run, chooser.decisions

    def alone_seconds(self, scene: Scene, *, chunk_size: int) -> Floats:
        """Return what each request takes under each configuration on an idle engine, [requests, configurations]."""
        prompts = scene.text_tokens[:, None] + self.answers.image_tokens
        steps = -(-prompts // chunk_size)
        model = self.model
        ms = model.base_ms * steps + prompts * (
            model.per_prefill_token_ms + model.per_prefill_attention_token_ms * prompts / 2
        )
        return ms * self.answers.factors / 1e3
