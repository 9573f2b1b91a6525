"""Moments inside an engine's steps, for a profile: the image encoder's start and end, the decoder's start, its logits.

vLLM's `worker_extension_cls`: methods of a worker that `collective_rpc` reaches. Nothing is marked before
`paceline_mark_stages` is called, so an engine that serves pays nothing for it. Each moment is read from two clocks, the
monotonic one and the processor's: where the processor's time is less, something else had the machine.
"""

import time
from collections.abc import Callable
from typing import Any, cast

from paceline.errors import EngineError

MARKED = ("_execute_mm_encoder", "_model_forward")
Moment = tuple[float, float]  # seconds of time.monotonic and of time.process_time
StepMoments = dict[str, Moment | None]


class StageMarks:
    """A worker that notes when the stages of its steps begin and end."""

    def paceline_mark_stages(self) -> None:
        """Mark every step from now on; raises EngineError for a model runner whose stages cannot be told apart."""
        worker = cast("Any", self)
        runner = worker.model_runner
        missing = [name for name in MARKED if not hasattr(runner, name)]
        if missing:
            raise EngineError(
                f"this engine's model runner ({type(runner).__name__}) has no {', '.join(missing)}, where stages begin and end; "
                "expected vLLM's first runner: set VLLM_USE_V2_MODEL_RUNNER=0"
            )
        worker.paceline_steps_marked = marks = _Marks(worker.synchronize_device)
        marks.follow(runner)

    def paceline_marked(self) -> list[StepMoments]:
        """Return the moments of every step since the last call, in order."""
        return cast("Any", self).paceline_steps_marked.taken()


class _Marks:
    def __init__(self, wait_for_device: Callable[[], None]) -> None:
        self._wait = wait_for_device
        self._steps: list[StepMoments] = []
        self._encoder: tuple[Moment, Moment] | None = None

    def taken(self) -> list[StepMoments]:
        taken, self._steps, self._encoder = self._steps, [], None
        return taken

    def follow(self, runner: Any) -> None:
        model = runner.get_model()
        encode, forward, logits = runner._execute_mm_encoder, runner._model_forward, model.compute_logits

        def execute_mm_encoder(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            encoded = encode(*args, **kwargs)
            if encoded:
                self._encoder = start, self._now()
            return encoded

        def model_forward(*args: Any, **kwargs: Any) -> Any:
            encoder_start, encoder_end = self._encoder or (None, None)
            self._encoder = None
            self._steps.append(
                {
                    "encoder_start": encoder_start,
                    "encoder_end": encoder_end,
                    "decoder_start": self._now(),
                    "logits_end": None,
                }
            )
            return forward(*args, **kwargs)

        def compute_logits(*args: Any, **kwargs: Any) -> Any:
            computed = logits(*args, **kwargs)
            if self._steps:
                self._steps[-1]["logits_end"] = self._now()
            return computed

        runner._execute_mm_encoder, runner._model_forward = execute_mm_encoder, model_forward
        model.compute_logits = compute_logits

    def _now(self) -> Moment:
        # kernels are queued: of the first step the moments are those of the device, later ones are read as a whole
        if len(self._steps) <= 1:
            self._wait()
        return time.monotonic(), time.process_time()
