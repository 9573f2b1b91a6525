"""Profiling a model in an engine that serves it: the same sweep and store, and a step log for each setting of the decoder.

Accuracies are of answers to all configurations of a question at once; milliseconds of requests that had the engine to
themselves. A step log lies in `steps/<top_k>_<num_active_blocks>/steps.jsonl`, one for each pair of the two knobs that a step's
time depends on, as `paceline tune step-time` reads it.
"""

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paceline.datasets.question import VisualQuestion
from paceline.errors import InvalidValueError, ModelError
from paceline.measure.hosts import EngineHost, MeasuringEngine, ServingEngine
from paceline.models.knobs import skipped_blocks
from paceline.models.loading import VisionLanguageModel
from paceline.profiles.atomic import make_directory, write_atomically
from paceline.records import KnobConfig, KnobGrid

STEPS, STEP_LOG = "steps", "steps.jsonl"


def require_servable(model: VisionLanguageModel, grid: KnobGrid, ranking: Sequence[int], engine: ServingEngine) -> None:
    """Raise InvalidValueError or ModelError for a grid that the engine cannot run, or a model that is elsewhere."""
    if model.device.type != engine.device_type:
        raise InvalidValueError(
            "device",
            model.device.type,
            f"{engine.device_type}, which this {engine.name} computes on; or leave --device out",
        )
    native = model.parts.native_top_k
    for config in grid.configurations():
        if config.top_k is not None and native is not None and config.top_k > native:
            raise InvalidValueError(
                "top_k",
                config.top_k,
                f"1 to {native}, the experts a token that this model was made for: {engine.name} has no room for more",
            )
        skipped_blocks(len(model.parts.blocks), config.num_active_blocks, ranking)


def engine_settings(engine: ServingEngine) -> dict[str, str | int | float | bool | None]:
    """Return what the provenance says of an engine's start beside its name and version."""
    return {"engine_args": json.dumps(dict(engine.arguments), sort_keys=True)}


@contextmanager
def opened_engine(
    model: VisionLanguageModel,
    engine: ServingEngine,
    *,
    ranking: Sequence[int],
    seed: int,
    max_new_tokens: int,
    per_step: bool,
) -> Generator[EngineHost]:
    """Start an engine that serves `model`, whose own weights are let go of: the device has room for one copy."""
    dtype = model.dtype_name
    weights: Any = model.parts.model
    weights.to("meta")
    with engine.open(
        model.name, revision=model.revision, dtype=dtype, ranking=ranking, seed=seed, max_new_tokens=max_new_tokens
    ) as started:
        yield EngineHost(engine=started, model=model, per_step=per_step)


def write_step_logs(
    engine: MeasuringEngine,
    model: VisionLanguageModel,
    questions: Sequence[VisualQuestion],
    configurations: Sequence[KnobConfig],
    out: Path,
    *,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> None:
    """Write the step log of each pair of top_k and block count that has none yet; the prompts are words of the questions."""
    tokens = _text_tokens(model, questions)
    pairs = list(dict.fromkeys((each.top_k, each.num_active_blocks) for each in configurations))
    for number, (top_k, blocks) in enumerate(pairs):
        config = KnobConfig(tier=None, top_k=top_k, num_active_blocks=blocks)
        folder = out / STEPS / config.step_key
        if not (folder / STEP_LOG).exists():
            lines = engine.step_lines(config, tokens, seed=seed)
            make_directory(folder)
            write_atomically(folder / STEP_LOG, "".join(f"{line}\n" for line in lines).encode())
        on_progress(number + 1, len(pairs))


def _text_tokens(model: VisionLanguageModel, questions: Sequence[VisualQuestion]) -> list[int]:
    prompts = {question.prompt for question in questions}
    found = {token for prompt in prompts for token in model.tokenizer(prompt, add_special_tokens=False).input_ids}
    plain = sorted(found - {*model.parts.media_token_ids, *model.tokenizer.all_special_ids})
    if not plain:
        raise ModelError("the questions' prompts have no token of text; expected words to make a synthetic load of")
    return plain
