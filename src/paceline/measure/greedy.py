"""Greedy decoding that means the same on every model: nothing of the model's own generation settings enters unseen.

transformers fills every field that a caller leaves open from the model's `generation_config`, and a field cannot be closed by
setting it to None. Beams, penalties, suppressed tokens, time limits, another cache: each changes what is measured, and the
answer with it. So the model's own settings are put aside for the length of a call, all of them, those of a later version of
transformers included; only its end, padding and first tokens are kept. What was put aside is told.
"""

import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from paceline.errors import InvalidValueError
from paceline.models.critical_section import replaced

MOST_TOKENS = 1_000_000
KEPT = ("eos_token_id", "pad_token_id", "bos_token_id")
# what chooses among tokens at random, or shapes that choice: greedy decoding has no use for it
SAMPLING = frozenset(
    {"do_sample", "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
)
NO_SETTINGS = frozenset({"max_length", "max_new_tokens", "transformers_version", "_from_model_config", *KEPT})


def greedy(model: PreTrainedModel, max_new_tokens: int, *, to_the_last: bool = False) -> GenerationConfig:
    """Return greedy decoding up to `max_new_tokens`, with the model's own end and padding tokens; `to_the_last` none ends it
    before."""
    if (
        type(max_new_tokens) is not int or not 1 <= max_new_tokens <= MOST_TOKENS
    ):  # neither True nor 2.5 is a number of tokens
        raise InvalidValueError("max_new_tokens", max_new_tokens, f"a whole number from 1 to {MOST_TOKENS:,}")
    least = {"min_new_tokens": max_new_tokens} if to_the_last else {}
    return GenerationConfig(
        **least,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        **_kept(model.generation_config),
    )


@contextmanager
def own_settings_aside(model: PreTrainedModel) -> Generator[None]:
    """Let the model's generation settings be empty, but for its end, padding and first tokens, inside the block."""
    with replaced(model, "generation_config", GenerationConfig(**_kept(model.generation_config))):
        if model.device.type != "meta":
            yield
            return
        with warnings.catch_warnings():  # weights that lie elsewhere are brought to the inputs: it is no mistake
            warnings.filterwarnings("ignore", message="You are calling .generate", category=UserWarning)
            yield


def settings_put_aside(model: PreTrainedModel) -> dict[str, str]:
    """Return what the model's own generation settings ask for beyond greedy decoding, as text by name.

    Sampling settings are left out: without sampling they do nothing.
    """
    own: Any = model.generation_config  # None for a model that cannot generate
    if own is None:
        return {}
    neutral: dict[str, Any] = own._get_default_generation_params()  # pyright: ignore[reportPrivateUsage]
    asked: Mapping[str, Any] = own.to_dict()
    return {
        name: repr(value)
        for name, value in sorted(asked.items())
        if value is not None and name not in NO_SETTINGS | SAMPLING and value != neutral.get(name, False)
    }


def _kept(own: GenerationConfig | None) -> dict[str, Any]:
    kept: dict[str, Any] = {name: getattr(own, name, None) for name in KEPT}
    if kept["pad_token_id"] is None:
        end = kept["eos_token_id"]
        kept["pad_token_id"] = end[0] if isinstance(end, list) else end
    return kept
