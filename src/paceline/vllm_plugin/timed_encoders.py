"""A scheduler that hands on how long the image encoder took for each request with knobs or a budget."""

from typing import Any

from paceline.vllm_plugin.encoder_times import OUTPUT_SECONDS, with_encoder_ms
from paceline.vllm_plugin.relied_on import SchedulerMixin
from paceline.vllm_plugin.request_knobs import is_steered


class TimedEncoders(SchedulerMixin):
    """Mixin before one of vLLM's schedulers: what a step's encoder took goes to the requests whose pictures it encoded.

    Pictures of one step are encoded together, and each of their requests waits for all.
    """

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Update requests from a step's output, and note in them what its encoder took."""
        seconds: float | None = getattr(model_runner_output, OUTPUT_SECONDS, None)
        if seconds is not None:
            for request_id in scheduler_output.scheduled_encoder_inputs:
                request = self.requests.get(request_id)
                if request is not None and is_steered(request.sampling_params):
                    request.trace_headers = with_encoder_ms(request.trace_headers, 1e3 * seconds)
        return super().update_from_output(scheduler_output, model_runner_output)
