"""The engine that is simulated: whose rules it follows, how much it serves at once, and its key-value cache."""

from dataclasses import dataclass

from paceline.errors import InvalidValueError, UnknownChoiceError
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_time import LinearStepTime

VIDUR, VLLM, PACELINE = "vidur", "vllm", "paceline"
RULES = (VIDUR, VLLM, PACELINE)
DEFAULT_WATERMARK = {VIDUR: 0.01, VLLM: 0.0, PACELINE: 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedEngine:
    """One engine.

    - `rules`: `vidur` (its sarathi scheduler), `vllm` (the stock scheduler of 0.32) or `paceline` (ours in vLLM 0.32).
    - `planner`: chunk_size is the token budget of a step for all rules; the rest is for `paceline`, the others come
      first, serve first.
    - `max_num_seqs`: requests that hold key-value blocks at most.
    - `num_blocks`, `block_size`: the key-value cache, and the tokens of a block. vLLM never uses one of the blocks.
    - `watermark`: the share of blocks that an admission leaves free; None for the rules' own: 1 % in Vidur, always kept;
      0 in vLLM, where it is kept only while something runs.
    - `target_model`: predicts steps for the planner's time target.
    """

    rules: str
    planner: PlannerSettings
    max_num_seqs: int
    num_blocks: int
    block_size: int = 16
    watermark: float | None = None
    target_model: LinearStepTime | None = None

    def __post_init__(self) -> None:
        if self.rules not in RULES:
            raise UnknownChoiceError("rules", self.rules, RULES)
        for name in ("max_num_seqs", "num_blocks", "block_size"):
            if getattr(self, name) < 1:
                raise InvalidValueError(name, getattr(self, name), "a whole number of at least 1")
        if self.planner.chunk_size < self.max_num_seqs:
            expected = f"at least {self.max_num_seqs}, a token for every running request; or lower max_num_seqs"
            raise InvalidValueError("chunk_size", self.planner.chunk_size, expected)
        if self.watermark is not None and not 0 <= self.watermark < 1:
            raise InvalidValueError("watermark", self.watermark, "a share of at least 0 and below 1")
        if self.rules == PACELINE:
            self.planner.require_model(self.target_model)
        elif self.planner != PlannerSettings(chunk_size=self.planner.chunk_size):
            expected = (
                f"policy fcfs and no chunk rules with rules {self.rules!r}: these are settings of rules 'paceline'"
            )
            raise InvalidValueError("planner settings", self.planner, expected)

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self.num_blocks if self.rules == VIDUR else self.num_blocks - 1

    @property
    def watermark_blocks(self) -> int:
        """Blocks that an admission leaves free."""
        share = DEFAULT_WATERMARK[self.rules] if self.watermark is None else self.watermark
        return int(share * self.num_blocks)
