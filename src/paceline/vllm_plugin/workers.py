"""`--worker-cls paceline.vllm_plugin.worker`: vLLM's own worker, in which every request has its own experts and blocks.

A worker sees every step that is scheduled and owns the model, on each tensor-parallel rank alike.
"""

from typing import Any

from paceline.vllm_plugin.encoder_times import EncoderClock
from paceline.vllm_plugin.model_structure import decoder_layers, require_plain_layers
from paceline.vllm_plugin.ranking import engine_ranking
from paceline.vllm_plugin.relied_on_model import (
    NO_GRAPH,
    EngineWorker,
    attention_builders,
    device_type,
    forward_context,
    refuse_engine,
    require_runner,
    run_alone,
)
from paceline.vllm_plugin.request_subset import KNOWN_FIELDS, SubsetMetadata
from paceline.vllm_plugin.steering import Steering


class KnobWorker(EngineWorker):
    """vLLM's worker of this platform with knobs on the model that it loads.

    Raises EngineError at start for an engine or a model whose requests cannot have knobs of their own, and
    what `engine_ranking` raises for a `block_ranking` or a `controller` in Paceline's additional config.
    """

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model and put the knobs on it."""
        refuse_engine(self.vllm_config)
        super().load_model(*args, **kwargs)
        runner = self.model_runner
        layers = decoder_layers(runner.get_model())
        require_plain_layers(layers, lambda layer: run_alone(self.vllm_config, runner, layer))
        self.steering = Steering(layers, engine_ranking(self.vllm_config.additional_config, len(layers)))
        self.encoder_clock = EncoderClock()
        if require_runner(runner, eager=self.vllm_config.model_config.enforce_eager):
            self._follow_first_runner(runner)
        else:
            self._follow_second_runner(runner)

    def initialize_from_config(self, *args: Any, **kwargs: Any) -> None:
        """Make the key-value cache, and follow the builder of attention metadata that comes with it."""
        super().initialize_from_config(*args, **kwargs)
        self.steering.follow(SubsetMetadata(*attention_builders(self.model_runner, KNOWN_FIELDS)))

    def execute_model(self, scheduler_output: Any) -> Any:
        """Run a step, each request's rows under its own knobs."""
        self.steering.note(scheduler_output)
        try:
            return self.encoder_clock.tell(super().execute_model(scheduler_output))
        finally:
            self.steering.end()

    def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Return the output of a step that was run."""
        return self.encoder_clock.tell(super().sample_tokens(*args, **kwargs))

    def paceline_steps(self) -> dict[str, int]:
        """Return how many steps were native, of one other configuration, and mixed; for `collective_rpc`."""
        return dict(self.steering.steps)

    def _follow_first_runner(self, runner: Any) -> None:
        prepare, forward = runner._prepare_inputs, runner._model_forward

        def prepare_inputs(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            prepared = prepare(scheduler_output, *args, **kwargs)
            names = runner.input_batch.req_ids  # in their final order by now
            self.steering.begin(names, [scheduler_output.num_scheduled_tokens[each] for each in names])
            return prepared

        def model_forward(*args: Any, **kwargs: Any) -> Any:
            if not self.steering.native_step:
                context = forward_context()
                context.skip_compiled, context.cudagraph_runtime_mode = True, NO_GRAPH
            return forward(*args, **kwargs)

        runner._prepare_inputs, runner._model_forward = prepare_inputs, model_forward
        if device_type() == "cpu":  # elsewhere kernels are queued, and only waiting for them would tell
            self.encoder_clock.follow(runner)

    def _follow_second_runner(self, runner: Any) -> None:
        prepare = runner.prepare_inputs

        def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
            batch = prepare(*args, **kwargs)
            self.steering.begin(batch.req_ids, batch.num_scheduled_tokens.tolist())
            return batch

        runner.prepare_inputs = prepare_inputs


worker = KnobWorker  # as --worker-cls names it
