"""Load a model with its tokenizer and image processor, and turn a picture and a prompt into its inputs."""

import threading
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from huggingface_hub.errors import HFValidationError
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging

from paceline.errors import InvalidValueError, ModelError, UnknownChoiceError
from paceline.json_document import parsed_json
from paceline.models.devices import torch_device
from paceline.models.families import FAMILIES, TIER_TOKEN_CAPS
from paceline.models.features import picture_features, project_tokens, prompt_embedding
from paceline.models.pictures import check_pixels, check_smallest, upright_rgb, upright_size
from paceline.models.structure import ModelParts, find_parts
from paceline.records import TIERS, RequestFeatures

EMBEDDED = {"digits": Path(__file__).parent / "digits"}
SETTINGS_FILE = "paceline.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRequest:
    """Model inputs of one request (batch 1, on the model's device) and their token counts."""

    inputs: dict[str, torch.Tensor]
    target_vision_tokens: int
    vision_tokens: int
    text_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionLanguageModel:
    """A loaded model with everything needed to ask it about a picture under any tier.

    `token_projection_VP` (vocabulary, 16) is what a prompt's embedding is made from, see `project_tokens`.
    """

    name: str
    revision: str | None
    parts: ModelParts
    tokenizer: Any
    image_processor: Any
    token_projection_VP: NDArray[np.float32]
    tier_token_caps: dict[str, int]
    block_ranking: tuple[int, ...] | None
    default_top_ks: tuple[int, ...] | None
    default_block_counts: tuple[int, ...] | None
    # a fast tokenizer refuses a second thread while one is in it ("Already borrowed")
    tokenizer_lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.parts.model.device

    @property
    def dtype_name(self) -> str:
        """The weights' type, for example `float32`."""
        return str(self.parts.model.dtype).removeprefix("torch.")

    def prepare(self, picture: Image.Image, prompt: str, tier: str) -> PreparedRequest:
        """Encode a picture at `tier` and a prompt into model inputs of batch 1.

        Raises PictureError when the picture is too small, too large or too long, and InvalidValueError when the prompt is
        empty or holds one of the model's special tokens.
        """
        if tier not in TIERS:
            raise UnknownChoiceError("tier", tier, TIERS)
        check_pixels(picture.width, picture.height)
        picture = upright_rgb(picture)
        family, cap = self.parts.family, self.tier_token_caps[tier]
        check_smallest(picture.width, picture.height, family.smallest_side(self.image_processor))
        tensors = family.encode_picture(self.image_processor, picture, cap)
        vision_tokens = family.count_tokens(self.image_processor, tensors)
        ids_BL = torch.tensor([self._token_ids(prompt, vision_tokens)])
        image_BL = ids_BL == self.parts.model.config.image_token_id
        inputs = {
            "input_ids": ids_BL,
            "attention_mask": torch.ones_like(ids_BL),
            **{name: value for name, value in tensors.items() if name in self.parts.accepted_inputs},
            **self.parts.token_type_ids(image_BL),
        }
        return PreparedRequest(
            inputs={name: value.to(self.device) for name, value in inputs.items()},
            target_vision_tokens=cap,
            vision_tokens=vision_tokens,
            text_tokens=ids_BL.shape[1] - vision_tokens,
        )

    def features(self, picture: Image.Image, prompt: str) -> RequestFeatures:
        """Return all that a controller may know of a request before the vision encoder runs: its token counts, a glance at
        the picture, and an embedding of the prompt's own tokens.

        Raises PictureError and InvalidValueError as `prepare` does.
        """
        check_pixels(picture.width, picture.height)
        picture = upright_rgb(picture)
        counts = self.token_features(picture, prompt)
        with self.tokenizer_lock:
            own_ids: list[int] = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return replace(
            counts,
            picture=picture_features(picture),
            prompt_embedding=prompt_embedding(self.token_projection_VP, own_ids),
        )

    def token_features(self, picture: Image.Image, prompt: str) -> RequestFeatures:
        """Return the part of a request's features that latency depends on: its text tokens, and the image tokens that each
        tier would give the picture; no pixel is read.

        Raises PictureError and InvalidValueError as `prepare` does.
        """
        family, processor = self.parts.family, self.image_processor
        check_pixels(picture.width, picture.height)
        check_smallest(picture.width, picture.height, family.smallest_side(processor))
        width, height = upright_size(picture)
        text_tokens = len(self._token_ids(prompt, 0))
        ahead: dict[str | None, int] = {
            tier: family.tokens_ahead(processor, width, height, cap) for tier, cap in self.tier_token_caps.items()
        }
        return RequestFeatures(text_tokens=text_tokens, vision_tokens=ahead)

    def decode(self, ids: torch.Tensor) -> str:
        """Turn output token ids (sequence) into text, special tokens left out."""
        with self.tokenizer_lock:
            return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _token_ids(self, prompt: str, vision_tokens: int) -> list[int]:
        if not prompt.strip():
            raise InvalidValueError("prompt", prompt, "a question about the picture")
        special = [token for token in self.tokenizer.all_special_tokens if token in prompt]
        if special:
            raise InvalidValueError("prompt", prompt, f"text without the model's special token {special[0]!r}")
        with self.tokenizer_lock:
            return self._chat_ids(prompt, vision_tokens)

    def _chat_ids(self, prompt: str, vision_tokens: int) -> list[int]:
        placeholder = self.tokenizer.convert_ids_to_tokens(self.parts.model.config.image_token_id)
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        text = text.replace(placeholder, placeholder * vision_tokens)
        return self.tokenizer(text, add_special_tokens=False).input_ids


def load_model(
    name: str, *, device: str = "auto", dtype: str = "auto", revision: str | None = None
) -> VisionLanguageModel:
    """Load an embedded model (`digits`), a local folder or a hub id with its tokenizer and image processor.

    `device` is auto (CUDA if there is one), cpu or cuda[:n]; `dtype` is auto (float32 on a CPU, bfloat16 on a GPU),
    float32, bfloat16 or float16. Raises ModelError when there is no such model or it cannot be steered.
    """
    folder = EMBEDDED.get(name)
    source = str(folder) if folder else name
    where = torch_device(device)
    torch_dtype = _dtype(dtype, where)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        _refuse_unsupported(name, config)
        with _quiet_bars() if folder else nullcontext():
            model: Any = AutoModelForImageTextToText.from_pretrained(source, revision=revision, dtype=torch_dtype)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        # the PIL backend: the default one needs torchvision, which has no CPU build
        image_processor = AutoImageProcessor.from_pretrained(source, revision=revision, backend="pil")
    except (OSError, HFValidationError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot load the model {name!r}: {_first_line(error)}; expected one of {', '.join(EMBEDDED)}, a local folder, "
            "or a hub id that this machine can reach"
        ) from error
    settings = _settings(Path(source))
    parts = find_parts(model.to(where).eval())
    return VisionLanguageModel(
        name=name,
        revision=revision or getattr(config, "_commit_hash", None),
        parts=parts,
        tokenizer=tokenizer,
        image_processor=image_processor,
        token_projection_VP=project_tokens(_input_embeddings(parts)),
        tier_token_caps=settings.get("tier_token_caps", TIER_TOKEN_CAPS),
        block_ranking=_numbers(settings, "block_ranking"),
        default_top_ks=_numbers(settings, "default_top_ks"),
        default_block_counts=_numbers(settings, "default_block_counts"),
    )


@contextmanager
def _quiet_bars() -> Generator[None]:
    """Show no loading bar: the embedded model loads in a tenth of a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _refuse_unsupported(name: str, config: Any) -> None:
    """Refuse before the weights are read: they may be many gigabytes."""
    if getattr(config, "vision_config", None) is None:
        raise ModelError(
            f"the model {name!r} ({config.model_type}) has no vision tower; expected a vision-language model of one of "
            f"the families {', '.join(sorted(FAMILIES))}"
        )
    if config.model_type not in FAMILIES:
        raise ModelError(
            f"the model {name!r} is of the family {config.model_type!r}, which is not supported yet; expected one of "
            f"{', '.join(sorted(FAMILIES))}"
        )


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise UnknownChoiceError("dtype", name, ("auto", *DTYPES))
    return DTYPES[name]


def _input_embeddings(parts: ModelParts) -> torch.Tensor:
    weight: Any = parts.model.get_input_embeddings().weight
    return weight


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    return cast("dict[str, Any]", parsed_json(path.read_text())) if path.is_file() else {}


def _numbers(settings: dict[str, Any], name: str) -> tuple[int, ...] | None:
    return tuple(settings[name]) if name in settings else None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
