"""The records that both halves exchange: knobs, budgets, stage times, samples, decisions, provenance.

All times are milliseconds. A record that exists is valid: values are checked once, when it is built.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Literal, cast

from paceline.errors import InvalidValueError, UnknownChoiceError

TIERS = ("low", "medium", "high")
LATENCY_KINDS = ("ttft", "prefill", "total")
ENGINES = ("transformers", "vllm")
SCHEMA_VERSION = 1
DATASET_NAME = r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}"
DATASET_NAMES = "letters, digits, `_`, `-` and `.`, at most 100, the first of them no `.`"  # what file names can carry
LARGEST_COUNT = 2**31 - 1
TEMPLATE_ARGUMENTS = "template_arguments"  # in a profile's settings: what the chat template was given, as JSON
LARGEST_SEED = 2**32 - 1  # that of numpy's older generator, which engines still seed
SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 1e-3, 100.0  # below, a division overflows what float32 can hold
PROMPT_EMBEDDING_SIZE = 16
THUMBNAIL_PX = 64
LARGEST_MARK_COUNT = 64
PICTURE_RANGES = {
    "brightness": (0.0, 1.0),
    "contrast": (0.0, 0.5),
    "edge_density": (0.0, 1.0),
    "entropy_bits": (0.0, 5.0),
    "fine_detail": (0.0, 1.0),
    "medium_detail": (0.0, 1.0),
    "ink_share": (0.0, 1.0),
    "stroke_width": (0.0, 1.0),
    "mark_size": (0.0, 1.0),
    "mark_count": (0, LARGEST_MARK_COUNT),
}

LatencyKind = Literal["ttft", "prefill", "total"]
MetadataValue = str | int | float | bool | None | list[float] | list[str]


def is_dataset_name(value: object) -> bool:
    """Tell whether a value can name a dataset: whether files and directories can be called so everywhere."""
    return isinstance(value, str) and re.fullmatch(DATASET_NAME, value) is not None


def require_seed(seed: int) -> None:
    """Raise InvalidValueError for a number that some random generator here cannot be seeded with."""
    if not 0 <= seed <= LARGEST_SEED:
        raise InvalidValueError("seed", seed, f"a whole number from 0 to {LARGEST_SEED}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Decoding by chance: each token is drawn from the nucleus of `top_p` at a temperature; 1 and 1 are the model's own odds.

    The same seed gives the same answer; None draws a seed for each answer, which the answer then names.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not SMALLEST_TEMPERATURE <= self.temperature <= LARGEST_TEMPERATURE:
            possible = f"a number from {SMALLEST_TEMPERATURE:g} to {LARGEST_TEMPERATURE:g}"
            raise InvalidValueError("temperature", self.temperature, f"{possible}; without sampling decoding is greedy")
        if not 0 < self.top_p <= 1:
            raise InvalidValueError("top_p", self.top_p, "a number above 0, and 1 at most")
        if self.seed is not None:
            require_seed(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobConfig:
    """One value of each knob; None where the model has no such knob."""

    tier: str | None
    top_k: int | None
    num_active_blocks: int | None

    def __post_init__(self) -> None:
        if self.tier is not None and self.tier not in TIERS:
            raise UnknownChoiceError("tier", self.tier, TIERS)
        for name, value in (("top_k", self.top_k), ("num_active_blocks", self.num_active_blocks)):
            if value is not None and (isinstance(value, bool) or value < 1):
                raise InvalidValueError(name, value, "a whole number of at least 1, or None for a model without it")

    @property
    def key(self) -> str:
        """`<tier>_<top_k>_<blocks>`, as table files name a configuration; a missing knob reads `none`."""
        return "_".join("none" if v is None else str(v) for v in (self.tier, self.top_k, self.num_active_blocks))

    @property
    def step_key(self) -> str:
        """`<top_k>_<blocks>`: what the time of an engine's step depends on beside its tokens."""
        return self.key.split("_", 1)[1]

    @property
    def size(self) -> tuple[int, int, int]:
        """Order by how much of the model runs: tier index, blocks, experts; a missing knob counts 0."""
        tier = 0 if self.tier is None else TIERS.index(self.tier)
        return tier, self.num_active_blocks or 0, self.top_k or 0

    @staticmethod
    def from_key(key: str) -> "KnobConfig":
        """Read `<tier>_<top_k>_<blocks>` back; raises InvalidValueError when it is not that."""
        parts = key.split("_") if isinstance(key, str) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
        if len(parts) != 3:
            raise InvalidValueError("configuration key", key, "'<tier>_<top_k>_<blocks>', for example 'low_8_16'")
        tier, *numbers = (None if part == "none" else part for part in parts)
        try:
            top_k, blocks = (None if number is None else int(number) for number in numbers)
            found = KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks)
        except ValueError as error:
            raise InvalidValueError("configuration key", key, f"'<tier>_<top_k>_<blocks>' ({error})") from error
        if found.key != key:  # ` 8`, `+8` or `1_0` are not how a key is written
            raise InvalidValueError("configuration key", key, f"'<tier>_<top_k>_<blocks>', here {found.key!r}")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobGrid:
    """The values of each knob that a profile covers; (None,) for a knob the model lacks."""

    tiers: tuple[str | None, ...]
    top_ks: tuple[int | None, ...]
    block_counts: tuple[int | None, ...]

    def __post_init__(self) -> None:
        for name, values in (("tiers", self.tiers), ("top_ks", self.top_ks), ("block_counts", self.block_counts)):
            if not values or len(set(values)) != len(values):
                raise InvalidValueError(name, values, "at least one value and none twice")
        self.configurations()

    def configurations(self) -> list[KnobConfig]:
        """Return every combination, in the grid's own order."""
        combined = product(self.tiers, self.top_ks, self.block_counts)
        return [KnobConfig(tier=tier, top_k=top_k, num_active_blocks=blocks) for tier, top_k, blocks in combined]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyBudget:
    """The milliseconds promised to one request, of one latency kind."""

    ms: float
    kind: LatencyKind = "prefill"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ms) and self.ms > 0):
            raise InvalidValueError("latency budget", self.ms, "a number of milliseconds above 0, for example 200")
        if self.kind not in LATENCY_KINDS:
            raise UnknownChoiceError("latency kind", self.kind, LATENCY_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """One request, measured in one pass: every stage directly, and every gap between them.

    `ahead_ms` is all that passed from the caller's call to the start of the pass: preprocessing, and around it opening the
    picture, looking at the request, deciding and `waited_ms`, the wait for the model while another thread had it. None where
    nobody waits, as in a profile: then preprocessing stands for it. `engine_ttft_ms` is the time to first token by the own clock
    of an engine that serves, None elsewhere.
    """

    preprocess_ms: float
    before_vision_ms: float
    vision_ms: float
    vision_to_decoder_ms: float
    llm_prefill_ms: float
    first_token_to_decode_ms: float
    decode_ms: float
    after_last_step_ms: float
    total_ms: float
    output_tokens: int
    decode_step_ms: tuple[float, ...] = ()
    waited_ms: float = 0.0
    ahead_ms: float | None = None
    engine_ttft_ms: float | None = None

    @property
    def ttft_ms(self) -> float:
        """Time to first token: from the call, preprocessing included, to the end of the first forward pass, or to the first
        token by an engine's own clock."""
        if self.engine_ttft_ms is not None:
            return self.engine_ttft_ms
        ahead_ms = self.preprocess_ms if self.ahead_ms is None else self.ahead_ms
        return ahead_ms + self.before_vision_ms + self.vision_ms + self.vision_to_decoder_ms + self.llm_prefill_ms

    @property
    def prefill_ms(self) -> float:
        """Vision plus LLM prefill: the latency that a budget of kind `prefill` promises."""
        return self.vision_ms + self.llm_prefill_ms

    @property
    def other_ms(self) -> float:
        """The unattributed rest: the sum of the measured gaps, not a difference."""
        return (
            self.before_vision_ms + self.vision_to_decoder_ms + self.first_token_to_decode_ms + self.after_last_step_ms
        )

    @property
    def decode_steps(self) -> int:
        """Output tokens that came from decode; the first comes from prefill."""
        return self.output_tokens - 1

    @property
    def decode_per_token_ms(self) -> float | None:
        """Decode time a step; None, not 0, when the answer was one token long."""
        return self.decode_ms / self.decode_steps if self.decode_steps > 0 else None

    @property
    def closure(self) -> float:
        """|stages + gaps - total| / total: the marks against the host clock around the call."""
        return abs(self.prefill_ms + self.decode_ms + self.other_ms - self.total_ms) / self.total_ms

    def without_steps(self) -> "StageTimes":
        """Return the same times without those of single decode steps."""
        return replace(self, decode_step_ms=())

    def latency_ms(self, kind: LatencyKind) -> float:
        """Return the latency of one kind: `ttft`, `prefill` or `total`."""
        return {"ttft": self.ttft_ms, "prefill": self.prefill_ms, "total": self.total_ms}[kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAnswer:
    """What an engine that serves made of a request: the tokens of its prompt, and those that it answered."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMeasurement:
    """A request that an engine answered alone. `queue_ms` lies within `times.before_vision_ms`: from the queue to the first
    schedule. `processor_ms` are the processor's own milliseconds of vision, prefill and decode, None where a device computes.
    """

    answer: EngineAnswer
    times: StageTimes
    queue_ms: float
    processor_ms: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileSample:
    """One sample under one configuration, with the field names that profile files fix; times in milliseconds.

    `accuracy` is None where the metric is a figure of a whole set (CIDEr): it is computed when the set is complete.
    """

    dataset: str
    sample_id: str
    tier: str | None
    top_k: int | None
    num_active_blocks: int | None
    target_vision_tokens: int | None
    actual_vision_tokens: int
    actual_text_tokens: int
    output_tokens: int
    accuracy: float | None
    pred: str
    metadata: dict[str, MetadataValue] = field(default_factory=dict[str, "MetadataValue"])
    T_vision_total: float
    T_LLM_prefill: float
    T_LLM_decode: float
    T_decode_per_token: float | None
    T_total: float
    T_preprocess: float | None = None
    T_ttft: float | None = None
    T_other: float | None = None

    @property
    def config(self) -> KnobConfig:
        """The configuration that this sample ran under."""
        return KnobConfig(tier=self.tier, top_k=self.top_k, num_active_blocks=self.num_active_blocks)


def block_ranking(numbers: object, *, num_blocks: int | None = None) -> tuple[int, ...]:
    """Return decoder blocks, least important first: each once, none of them block 0, of `num_blocks` where it is known.

    Raises InvalidValueError: with a block twice, passing the first few through would leave more active than a configuration says.
    """
    last = "" if num_blocks is None else f" to {num_blocks - 1}"
    found = tuple(cast("Sequence[object]", numbers)) if isinstance(numbers, (list, tuple)) else ()
    whole = all(type(each) is int and 1 <= each < (num_blocks or math.inf) for each in found)
    if not isinstance(numbers, (list, tuple)) or not whole or len(set(found)) < len(found):
        raise InvalidValueError(
            "block_ranking", numbers, f"a list of decoder blocks from 1{last}, least important first, none twice"
        )
    return cast("tuple[int, ...]", found)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSource:
    """Where the questions of a public data set were read and how they were asked.

    `place` is `hub:<id>` or the name of a local folder or file; `revision` the hub's commit. `asked` of `available`
    questions of the split were taken; `left_out` counts the rows without a picture where those are not part of the set.
    """

    place: str
    revision: str | None
    split: str
    prompt_template: str
    available: int
    asked: int
    left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a profile's numbers come from; stays with them in every file.

    `datasets` holds the scorer's id by data set, `sources` where the questions of public ones were read. `engine` is what ran
    the model: milliseconds of one are none of another's.
    """

    model: str
    revision: str | None
    dtype: str
    device: str
    driver: str | None
    clock: str
    versions: dict[str, str]
    commit: str | None
    seed: int
    grid: KnobGrid
    block_ranking: tuple[int, ...]
    datasets: dict[str, str]
    created: str
    settings: dict[str, str | int | float | bool | None]
    sources: dict[str, QuestionSource] = field(default_factory=dict[str, QuestionSource])
    engine: str = ENGINES[0]  # what profiles older than the field ran on
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        for name in self.datasets:
            if not is_dataset_name(name):
                raise InvalidValueError("dataset", name, DATASET_NAMES)
        block_ranking(self.block_ranking)
        if self.engine not in ENGINES:
            raise UnknownChoiceError("engine", self.engine, ENGINES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFeatures:
    """What a glance at a picture tells: its size in pixels, and statistics of its grey levels on a square thumbnail of
    64 x 64 pixels.

    Statistics keep PICTURE_RANGES; lengths are shares of the thumbnail's side. Ink is what stands out from the background
    (the median level), and a mark is a patch of ink, touching corners included. A picture without ink has no marks: its ink
    share, stroke width, mark size and mark count are 0.

    - `brightness`, `contrast`: mean and standard deviation of the grey level, black 0 and white 1.
    - `edge_density`: share of neighbouring thumbnail pixels that differ by more than a tenth of the way from black to white.
    - `entropy_bits`: entropy of the grey levels in 32 classes.
    - `fine_detail`, `medium_detail`: share of the variance that is lost when the thumbnail is halved, and when it is halved
      again; 0 for a picture of one level.
    - `ink_share`: share of pixels that are ink; `stroke_width`: mean run of ink along rows and columns.
    - `mark_size`: square root of the median mark's area; `mark_count`: number of marks, of which 64 are counted.
    """

    width_px: int
    height_px: int
    brightness: float
    contrast: float
    edge_density: float
    entropy_bits: float
    fine_detail: float
    medium_detail: float
    ink_share: float
    stroke_width: float
    mark_size: float
    mark_count: int

    def __post_init__(self) -> None:
        for name, pixels in (("width_px", self.width_px), ("height_px", self.height_px)):
            if not pixels >= 1:
                raise InvalidValueError(name, pixels, "a whole number of pixels of at least 1")
        for name, (lowest, highest) in PICTURE_RANGES.items():
            value = getattr(self, name)
            if not lowest <= value <= highest:
                raise InvalidValueError(name, value, f"a number from {lowest:g} to {highest:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFeatures:
    """What is known of a request before the vision encoder runs.

    `vision_tokens` holds the image tokens that each tier would give the request's pictures, all of them together, by tier; the
    key is None for a model without tiers. `pictures` is how many there are: what is known of latency comes from requests with
    one, so nothing is promised for another number. `expected_output_tokens` matters to controllers of total latency only;
    `dataset` is None for live traffic. `picture` and `prompt_embedding` are what a learned controller looks at: the embedding
    is 16 numbers of length 1 together, None where the model's token embeddings are out of reach. `vector` holds the numbers
    of `request_vector` where they were computed before, as a profile stores them; they then stand for the picture and the
    prompt.
    """

    text_tokens: int
    vision_tokens: Mapping[str | None, int]
    dataset: str | None = None
    expected_output_tokens: float | None = None
    picture: PictureFeatures | None = None
    prompt_embedding: tuple[float, ...] | None = None
    vector: tuple[float, ...] | None = None
    pictures: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.pictures <= LARGEST_COUNT:
            raise InvalidValueError("pictures", self.pictures, f"a number from 0 to {LARGEST_COUNT}")
        for name, value in (("text_tokens", self.text_tokens), *self.vision_tokens.items()):
            if not 0 <= value <= LARGEST_COUNT:
                raise InvalidValueError(f"{name} tokens", value, f"a number from 0 to {LARGEST_COUNT}")
        if not self.vision_tokens:
            raise InvalidValueError("vision_tokens", {}, "the image tokens of at least one tier")
        expected = self.expected_output_tokens
        if expected is not None and not (math.isfinite(expected) and expected >= 1):
            raise InvalidValueError("expected_output_tokens", expected, "a number of at least 1, or None")
        embedding = self.prompt_embedding
        if embedding is not None and not _is_prompt_embedding(embedding):
            raise InvalidValueError(
                "prompt_embedding", embedding, f"{PROMPT_EMBEDDING_SIZE} numbers from -1 to 1, or None without a model"
            )


def _is_prompt_embedding(numbers: tuple[float, ...]) -> bool:
    return len(numbers) == PROMPT_EMBEDDING_SIZE and all(-1 <= number <= 1 for number in numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The configuration a controller takes and what it expects of it.

    The budget stays with the request: a table builds a decision once for every budget that leads to it, and hands it out
    again. `bound_ms` is what the latency stays under with the controller's promised probability, None from a controller
    that promises none. `outside` names the request's features that lie outside what the controller was measured on.
    `refused` marks a learned controller's choice that was not taken, for the request lies beyond its training or the choice
    no longer fits: the most accurate configuration that does was taken in its place.
    """

    config: KnobConfig
    accuracy: float
    latency_ms: float
    num_samples: int
    within_budget: bool
    bound_ms: float | None = None
    outside: tuple[str, ...] = ()
    refused: bool = False
