"""How steps are filled: settings that cannot work are refused when they are built."""

import math
from dataclasses import dataclass, field

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.schedule.policies import POLICIES, PolicyWeights
from paceline.schedule.step_time import StepLoad, StepTimeModel, useful_chunk, with_chunk

# S10: the threshold stays below 30 % of chunk_size; as whole numbers, so that the edge is exact
THRESHOLD_PERCENT = 30
# benchmarks/target_curve.py: with more, a tight target multiplies the wait for a first token; with less it cuts little
DEFAULT_BASE_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerSettings:
    """The step planner's settings; a step that would otherwise be empty makes progress whatever they say.

    - `chunk_size`: the token budget of a step, decodes included.
    - `min_chunk_threshold`: when the budget left in a step is below it, no further prefill chunk is added. What is left
      is tokens, or, where the time target is reached first, the largest chunk within the target.
    - `min_chunk_tokens`: a smaller chunk is not given unless it finishes its prompt. A tail smaller than it is computed
      at once where the budget allows, else the chunk is shortened to leave that much, or not given.
    - `target_time_ms`: where requests decode, chunks are cut so that the predicted step time stays within it, or within
      the time of the decodes with one useful chunk where that is more; where none decodes nothing is cut. Needs a
      step-time model.
    - `target_base_share`: a chunk is useful from where the fixed cost of a step, by the model, is at most this share of
      a step with that chunk alone; never below min_chunk_threshold or min_chunk_tokens.
    - `max_partial_prefills`: no request is started that would leave more than these partly prefilled.
    - `max_chunk_tokens`: what one request gets in a step at most, a tail below min_chunk_tokens aside.
    - `indivisible_tokens`: the size of the largest image that must not be split; a chunk must be able to hold it.
    """

    chunk_size: int
    policy: str = "fcfs"
    weights: PolicyWeights = field(default_factory=PolicyWeights)
    min_chunk_threshold: int = 0
    min_chunk_tokens: int = 0
    target_time_ms: float | None = None
    target_base_share: float = DEFAULT_BASE_SHARE
    max_partial_prefills: int | None = None
    max_chunk_tokens: int | None = None
    indivisible_tokens: int = 0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UnknownChoiceError("policy", self.policy, tuple(POLICIES))
        _require_at_least(1, chunk_size=self.chunk_size)
        _require_at_least(1, max_partial_prefills=self.max_partial_prefills, max_chunk_tokens=self.max_chunk_tokens)
        _require_at_least(0, min_chunk_threshold=self.min_chunk_threshold, min_chunk_tokens=self.min_chunk_tokens)
        _require_at_least(0, indivisible_tokens=self.indivisible_tokens)
        if self.target_time_ms is not None and not (math.isfinite(self.target_time_ms) and self.target_time_ms > 0):
            raise InvalidValueError("target_time_ms", self.target_time_ms, "a number of ms above 0, or None for none")
        if not 0 < self.target_base_share <= 1:
            raise InvalidValueError("target_base_share", self.target_base_share, "a share above 0 and at most 1")
        self._require_room_for_chunks()

    def useful_chunk(self, model: StepTimeModel) -> int:
        """Return the tokens that a step with decodes may always prefill, whatever the time target says."""
        useful = useful_chunk(model, base_share=self.target_base_share, most_tokens=self.chunk_size)
        return max(useful, self.min_chunk_threshold, self.min_chunk_tokens)

    def require_model(self, model: StepTimeModel | None) -> None:
        """Raise InvalidValueError when the time target has no step-time model, or the model says that no step keeps it.

        The step asked about computes one useful chunk and nothing else: the target would be exceeded by every step in
        which somebody decodes and somebody is prefilled.
        """
        if self.target_time_ms is None:
            return
        if model is None:
            expected = "none without a step-time model; fit one with `paceline tune step-time`"
            raise InvalidValueError("target_time_ms", self.target_time_ms, expected)
        smallest = self.useful_chunk(model)
        fastest_ms = model.predict_ms(with_chunk(StepLoad(), chunk_tokens=smallest, context_tokens=0))
        if fastest_ms > self.target_time_ms:
            expected = (
                f"at least {fastest_ms:.3g} ms, the predicted time of a step with one useful chunk, of {smallest} tokens; "
                "a larger target_base_share calls smaller chunks useful"
            )
            raise InvalidValueError("target_time_ms", self.target_time_ms, expected)

    def _require_room_for_chunks(self) -> None:
        if self.min_chunk_threshold * 100 >= self.chunk_size * THRESHOLD_PERCENT:
            expected = f"below {THRESHOLD_PERCENT} % of chunk_size, {self.chunk_size}"
            raise InvalidValueError("min_chunk_threshold", self.min_chunk_threshold, expected)
        largest = min(self.chunk_size, self.max_chunk_tokens or self.chunk_size)
        if self.min_chunk_tokens > largest:
            expected = f"at most {largest}, the largest chunk that chunk_size and max_chunk_tokens allow"
            raise InvalidValueError("min_chunk_tokens", self.min_chunk_tokens, expected)
        if self.indivisible_tokens > largest:
            expected = (
                f"at least {self.indivisible_tokens}: this model must not split an image, and its largest has as many; "
                "raise it, or cap the images' size"
            )
            name = "chunk_size" if self.chunk_size < self.indivisible_tokens else "max_chunk_tokens"
            raise InvalidValueError(name, largest, expected)


def _require_at_least(least: int, **values: object) -> None:
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise InvalidValueError(name, value, f"a whole number of at least {least}")
