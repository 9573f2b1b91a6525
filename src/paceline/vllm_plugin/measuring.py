"""vLLM as it is profiled: one engine in this process that answers all configurations at once, or one request alone, measured.

A request alone passes the marks of `stage_marks` and vLLM's own stamps (queued, scheduled, first and last token), all of one
monotonic clock:

    call | queued | scheduled | encoder start, end | decoder start | logits | first token | decode start ... last token | out
"""

import logging
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, cast

from paceline.errors import EngineError, ModelError
from paceline.models.loading import EMBEDDED
from paceline.models.vision_language import UnencodedRequest
from paceline.records import EngineAnswer, EngineMeasurement, KnobConfig, StageTimes
from paceline.schedule.step_log import StepRecord
from paceline.vllm_plugin import relied_on
from paceline.vllm_plugin.checkpoints import write_for_vllm
from paceline.vllm_plugin.compile_key import SECTION
from paceline.vllm_plugin.recording import EngineRecorder
from paceline.vllm_plugin.relied_on import SamplingParams, TokensPrompt
from paceline.vllm_plugin.relied_on_model import device_type
from paceline.vllm_plugin.replay import OfflineVllm, logs_to_standard_error
from paceline.vllm_plugin.request_knobs import ACTIVE_BLOCKS, TOP_K
from paceline.vllm_plugin.stage_marks import Moment, StepMoments

OURS = ("worker_cls", "worker_extension_cls", "scheduler_cls", "additional_config", "model", "dtype", "seed")
# one picture a request, nothing kept between requests, every step measured by itself; vLLM's own statistics hold its stamps
PROFILED: Mapping[str, Any] = {
    "limit_mm_per_prompt": {"image": 1, "video": 0},
    "enable_prefix_caching": False,
    "mm_processor_cache_gb": 0,
    "async_scheduling": False,
    "disable_log_stats": False,
    "skip_tokenizer_init": False,
}
STEP_LOAD_ANSWER, STEP_LOAD_PROMPT = 12, (4, 192)  # tokens
# steps from one request of the load to the next: alone, in each other's way, at once
STEP_LOAD = (*[STEP_LOAD_ANSWER] * 6, *[2] * 16, STEP_LOAD_ANSWER, *[0] * 11, STEP_LOAD_ANSWER, *[0] * 11) * 2
NOISY = "vllm.v1.worker.cpu_worker"  # warns of threads at every request that brings a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmProfile:
    """How vLLM is started for a profile; `arguments` are the engine's, beside Paceline's own."""

    arguments: Mapping[str, Any]
    name: str = "vllm"
    version: str = relied_on.VLLM_VERSION
    clock: str = "time.monotonic"

    def __post_init__(self) -> None:
        for name in self.arguments:
            if name in OURS:
                raise EngineError(
                    f"engine argument {name!r} is set by the profile itself; take it out of --engine-args, and use the flags "
                    "of `paceline profile` for the model, its dtype and the seed"
                )

    @property
    def device_type(self) -> str:
        """The kind of device that this vLLM computes on, as torch calls it."""
        return device_type()

    @contextmanager
    def open(
        self, model: str, *, revision: str | None, dtype: str, ranking: Sequence[int], seed: int, max_new_tokens: int
    ) -> Generator["MeasuringVllm"]:
        """Start the engine, and stop it when the block ends; raises EngineError for what vLLM or Paceline's worker refuses.

        `model` is an embedded model's name, a local folder or a hub id; an embedded one is first written as vLLM reads it.
        """
        arguments = {
            **PROFILED,
            **self.arguments,
            "dtype": dtype,
            "revision": revision,
            "seed": seed,
            "worker_cls": "paceline.vllm_plugin.worker",
            "worker_extension_cls": "paceline.vllm_plugin.stage_marks.StageMarks",
            "additional_config": {SECTION: {"block_ranking": list(ranking)}},
        }
        with logs_to_standard_error(), _quiet(), ExitStack() as stack:
            folder = model
            if model in EMBEDDED:
                place = Path(stack.enter_context(TemporaryDirectory(prefix="paceline-")))
                folder = str(write_for_vllm(EMBEDDED[model], place / model))
            host = stack.enter_context(OfflineVllm.open(folder, None, engine_args=arguments, seed=seed))
            host.engine.collective_rpc("paceline_mark_stages")
            yield MeasuringVllm(host.engine, max_new_tokens=max_new_tokens, on_cpu=self.device_type == "cpu")


class MeasuringVllm:
    """An engine that answers requests about one picture each, together or alone."""

    def __init__(self, engine: Any, *, max_new_tokens: int, on_cpu: bool) -> None:
        self._engine, self._max_new_tokens, self._on_cpu = engine, max_new_tokens, on_cpu
        self._numbers = count()

    def answer_all(self, requests: Sequence[tuple[UnencodedRequest, KnobConfig]]) -> list[EngineAnswer]:
        """Answer requests together, each under its own configuration; the answers are in their order."""
        self._record(None)
        names = [self._add(*each) for each in requests]
        answers: dict[str, EngineAnswer] = {}
        while len(answers) < len(names):
            answers |= {output.request_id: _answer(output) for output in self._engine.step() if output.finished}
        return [_as_expected(answers[name], request) for name, (request, _) in zip(names, requests, strict=True)]

    def measure(self, request: UnencodedRequest, config: KnobConfig) -> EngineMeasurement:
        """Answer one request with the engine to itself, nothing of it known before, and measure it.

        Raises ModelError when it did not take one step a token: then its stages cannot be told apart.
        """
        self._record(None)
        self._engine.reset_prefix_cache()
        self._engine.reset_encoder_cache()
        self._engine.collective_rpc("paceline_marked")
        called = time.monotonic()
        name = self._add(request, config)
        handed_over = time.perf_counter()
        finished: Any = None
        while finished is None:
            finished = next((each for each in self._engine.step() if each.request_id == name and each.finished), None)
        total_ms = (time.perf_counter() - handed_over) * 1e3
        handed_out = time.monotonic()
        steps: list[StepMoments] = self._engine.collective_rpc("paceline_marked")[0]
        answer = _as_expected(_answer(finished), request)
        _require_a_step_a_token(steps, answer, pictures=request.vision_tokens > 0)
        stamps = finished.metrics
        return EngineMeasurement(
            answer=answer,
            times=_stage_times(called, stamps, steps, handed_out, total_ms),
            queue_ms=(stamps.scheduled_ts - stamps.queued_ts) * 1e3,
            processor_ms=_processor_ms(steps) if self._on_cpu else None,
        )

    def step_lines(self, config: KnobConfig, tokens: Sequence[int], *, seed: int) -> list[str]:
        """Serve a synthetic load of text under one configuration and return its step log, a JSON line each.

        Prompts are drawn from `tokens` and of many lengths. Some requests come alone, some every other step, some at once, so
        that steps hold few and many decodes, by themselves and beside chunks.
        """
        random = Random(f"{seed} {config.top_k} {config.num_active_blocks}")
        longest = min(STEP_LOAD_PROMPT[1], self._engine.model_config.max_model_len - STEP_LOAD_ANSWER)
        steps: list[StepRecord] = []
        self._record(EngineRecorder(on_step=steps.append, run=config.key))
        for steps_until_next in STEP_LOAD:
            length = random.randint(STEP_LOAD_PROMPT[0], longest)
            prompt = TokensPrompt(prompt_token_ids=random.choices(tokens, k=length))
            parameters = _sampling(config, STEP_LOAD_ANSWER, ignore_eos=True)
            self._engine.add_request(str(next(self._numbers)), prompt, parameters)
            for _ in range(steps_until_next):
                self._engine.step()
        while self._engine.has_unfinished_requests():
            self._engine.step()
        self._record(None)
        return [step.line() for step in steps]

    def _add(self, request: UnencodedRequest, config: KnobConfig) -> str:
        name = str(next(self._numbers))
        prompt: dict[str, Any] = {"prompt": request.text, "multi_modal_data": {"image": request.picture}}
        if request.arguments:
            prompt["mm_processor_kwargs"] = dict(request.arguments)
        self._engine.add_request(name, prompt, _sampling(config, self._max_new_tokens))
        return name

    def _record(self, recorder: EngineRecorder | None) -> None:
        self._engine.engine_core.engine_core.scheduler.recorder = recorder


@contextmanager
def _quiet() -> Generator[None]:
    """Leave out what vLLM and transformers would say anew at every request."""
    logger = logging.getLogger(NOISY)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        logger.setLevel(level)


def _sampling(config: KnobConfig, max_tokens: int, *, ignore_eos: bool = False) -> Any:
    asked = {TOP_K: config.top_k, ACTIVE_BLOCKS: config.num_active_blocks}
    return SamplingParams(
        temperature=0.0,
        max_tokens=max_tokens,
        ignore_eos=ignore_eos,
        detokenize=False,
        extra_args={name: value for name, value in asked.items() if value is not None},
    )


def _answer(output: Any) -> EngineAnswer:
    return EngineAnswer(prompt_ids=tuple(output.prompt_token_ids), token_ids=tuple(output.outputs[0].token_ids))


def _as_expected(answer: EngineAnswer, request: UnencodedRequest) -> EngineAnswer:
    if answer.prompt_ids != request.ids:
        raise ModelError(
            f"vLLM made {len(answer.prompt_ids)} tokens of a prompt that has {len(request.ids)} in transformers, or other ones; "
            "expected the same: this family's tiers were not brought to vLLM; profile it without --engine"
        )
    return answer


def _require_a_step_a_token(steps: Sequence[StepMoments], answer: EngineAnswer, *, pictures: bool) -> None:
    encoded = sum(step["encoder_end"] is not None for step in steps)
    if len(steps) != len(answer.token_ids) or any(step["logits_end"] is None for step in steps):
        raise ModelError(
            f"{len(steps)} steps gave {len(answer.token_ids)} tokens; expected one a token, or stages cannot be told apart: give "
            "--engine-args a max_num_batched_tokens above the longest prompt, and no speculation"
        )
    if encoded != int(pictures):
        raise ModelError(
            f"the image encoder ran in {encoded} steps of one request; expected one for a request with a picture"
        )


def _stage_times(
    called: float, stamps: Any, steps: Sequence[StepMoments], handed_out: float, total_ms: float
) -> StageTimes:
    first = steps[0]
    start, logits_end = _seconds(first["decoder_start"]), _seconds(first["logits_end"])
    seen = (
        (start, start)
        if first["encoder_start"] is None
        else (_seconds(first["encoder_start"]), _seconds(first["encoder_end"]))
    )
    decode_starts = [_seconds(step["decoder_start"]) for step in steps[1:]]
    decode = decode_starts[0] if decode_starts else stamps.last_token_ts
    return StageTimes(
        preprocess_ms=(stamps.queued_ts - called) * 1e3,
        before_vision_ms=(seen[0] - stamps.queued_ts) * 1e3,
        vision_ms=(seen[1] - seen[0]) * 1e3,
        vision_to_decoder_ms=(start - seen[1]) * 1e3,
        llm_prefill_ms=(logits_end - start) * 1e3,
        first_token_to_decode_ms=(decode - logits_end) * 1e3,
        decode_ms=(stamps.last_token_ts - decode) * 1e3,
        after_last_step_ms=(handed_out - stamps.last_token_ts) * 1e3,
        total_ms=total_ms,
        output_tokens=len(steps),
        decode_step_ms=tuple(
            (b - a) * 1e3 for a, b in pairwise([*decode_starts, stamps.last_token_ts] if decode_starts else [])
        ),
        engine_ttft_ms=(stamps.first_token_ts - called) * 1e3,
    )


def _processor_ms(steps: Sequence[StepMoments]) -> tuple[float, float, float]:
    first, last = steps[0], steps[-1]
    vision = 0.0
    if first["encoder_start"] is not None:
        vision = _processor(first["encoder_end"]) - _processor(first["encoder_start"])
    prefill = _processor(first["logits_end"]) - _processor(first["decoder_start"])
    decode = _processor(last["logits_end"]) - _processor(steps[1]["decoder_start"]) if len(steps) > 1 else 0.0
    return vision * 1e3, prefill * 1e3, decode * 1e3


def _seconds(moment: Moment | None) -> float:
    return cast("Moment", moment)[0]


def _processor(moment: Moment | None) -> float:
    return cast("Moment", moment)[1]
