"""Load a model with its tokenizer and image processor, and check once that its image tokens are counted right."""

import copy
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging
from transformers.utils.hub import cached_file

from paceline.errors import InvalidValueError, ModelError, UnknownChoiceError
from paceline.json_document import parsed_json
from paceline.models.devices import torch_device
from paceline.models.families.choosing import family_of
from paceline.models.families.declared import FAMILIES
from paceline.models.families.plans import Vision
from paceline.models.features import project_tokens
from paceline.models.model_settings import SETTINGS_FILE, ModelSettings, read_model_settings
from paceline.models.molmo.crops import CropProcessor
from paceline.models.molmo.shims import with_shims
from paceline.models.placement import (
    DeviceMap,
    require_accelerate,
    require_device_map,
    require_quantiser,
    require_whole,
)
from paceline.models.probe import check_counts
from paceline.models.prompts import Prompts
from paceline.models.remote_code import RemoteCode, class_reference, pinned_code, require_none
from paceline.models.request_plans import PictureModel, RequestPlans
from paceline.models.structure import find_parts
from paceline.models.vision_language import PreparedRequest, VisionLanguageModel

PATCH_TOKEN = "<im_patch>"  # Molmo's configuration does not name its image token
EMBEDDED = {"digits": Path(__file__).parent / "digits"}
__all__ = ["EMBEDDED", "SETTINGS_FILE", "PreparedRequest", "VisionLanguageModel", "load_model"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    template_arguments: Mapping[str, object] | None = None,
    trust_remote_code: str | None = None,
    device_map: DeviceMap | None = None,
    offload_folder: Path | str | None = None,
) -> VisionLanguageModel:
    """Load an embedded model (`digits`), a local folder or a hub id with its tokenizer and image processor.

    `device` is auto (CUDA if there is one), cpu or cuda[:n]; `dtype` is auto (float32 on a CPU, bfloat16 on a GPU),
    float32, bfloat16 or float16. `template_arguments` go to the chat template of every prompt, for example `enable_thinking`.
    `trust_remote_code` is for the families whose code comes with the checkpoint (Molmo): the commit whose code may run, or the
    hash of a local folder's code. `device_map` spreads a model that is larger than one device, as accelerate does: auto, or a
    device (cpu and disk among them) by part; `device` stays auto then, and `offload_folder` is where weights that the
    checkpoint does not hold as they are needed lie on the disk. Quantised checkpoints are loaded by what transformers has for
    their kind. Raises ModelError when there is no such model or it cannot be steered, and InvalidValueError
    for an argument that its template does not read, and for a `device_map` that places no model.
    """
    source, where = str(EMBEDDED.get(name, name)), torch_device(device)
    torch_dtype = _dtype(dtype, where)
    settings = read_model_settings(Path(source))
    if device_map is not None:
        require_device_map(device_map, device)
        require_accelerate(name)
    described = _described(name, source, revision, trust_remote_code)
    family = family_of(described.config, f"the model {name!r}")
    placed = _placed(name, described.config, torch_dtype, device_map, where)
    readers = _readers(name, source, described)
    prompts = Prompts(
        tokenizer=readers.tokenizer,
        family=family,
        config=described.config,
        name=name,
        template_arguments=template_arguments,
    )
    if device_map is not None and not isinstance(device_map, str):
        _require_every_part(described, readers.model_class, device_map)
    with _told(name), _quiet_bars() if name in EMBEDDED else nullcontext():
        model = _weights(source, described, readers, torch_dtype, placed, offload_folder)
    loaded = _put_together(
        name, model if placed is not None else model.to(where), described, readers, prompts, settings
    )
    check_counts(loaded)
    return loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """What a checkpoint's configuration says; `code` is what comes with it, `raw` the configuration as it stands there."""

    code: RemoteCode | None
    raw: dict[str, Any]
    revision: str | None
    config: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Readers:
    """What reads texts and pictures for a model, and the class that its weights are read into."""

    tokenizer: Any
    image_processor: Any
    model_class: Any


def _put_together(
    name: str, model: Any, described: _Described, readers: _Readers, prompts: Prompts, settings: ModelSettings
) -> VisionLanguageModel:
    """Return a model whose weights were read, with what reads its requests and what its settings file says."""
    parts = find_parts(model.eval())
    return VisionLanguageModel(
        name=name,
        revision=described.revision or getattr(described.config, "_commit_hash", None),
        remote_code=None if described.code is None else described.code.pinned,
        parts=parts,
        tokenizer=readers.tokenizer,
        image_processor=readers.image_processor,
        prompts=prompts,
        token_projection_VP=project_tokens(parts.embeddings),
        tier_token_caps=settings.tier_token_caps or dict(prompts.family.caps),
        block_ranking=settings.block_ranking,
        default_top_ks=settings.default_top_ks,
        default_block_counts=settings.default_block_counts,
    )


def _described(name: str, source: str, revision: str | None, pinned: str | None) -> _Described:
    code, raw = _remote_code(name, source, revision, pinned)
    revision = code.pinned if code is not None and not Path(source).is_dir() else revision
    with _told(name):
        config_class: Any = AutoConfig if code is None else code.imported(class_reference(name, raw, "AutoConfig"))
        config = config_class.from_pretrained(source, revision=revision, trust_remote_code=False)
    return _Described(code=code, raw=raw, revision=revision, config=config)


def _readers(name: str, source: str, described: _Described) -> _Readers:
    tokenizer, code = _described_tokenizer(name, source, described), described.code
    model_class: Any = AutoModelForImageTextToText
    if code is not None:
        model_class = with_shims(code.imported(class_reference(name, described.raw, "AutoModelForCausalLM")))
    image_processor = _described_processor(name, source, described, tokenizer)
    return _Readers(tokenizer=tokenizer, image_processor=image_processor, model_class=model_class)


def _described_tokenizer(name: str, source: str, described: _Described) -> Any:
    config = {} if described.code is None else {"config": described.config}
    return _tokenizer(name, source, described.revision, **config)


def _described_processor(name: str, source: str, described: _Described, tokenizer: Any) -> Any:
    """Return the image processor; a configuration whose code comes with it learns its image token here."""
    if described.code is None:
        return _image_processor(name, source, described.revision)
    described.config.image_patch_id, described.config.use_cache = _patch_token(name, tokenizer), True
    return _crop_processor(name, source, described.revision)


def _weights(
    source: str,
    described: _Described,
    readers: _Readers,
    dtype: torch.dtype,
    placed: DeviceMap | None,
    offload_folder: Path | str | None,
) -> Any:
    placement: dict[str, object] = {}
    if placed is not None:
        placement["device_map"] = placed if isinstance(placed, str) else dict(placed)
        if offload_folder is not None:
            placement["offload_folder"] = str(offload_folder)
    return readers.model_class.from_pretrained(
        source,
        config=described.config,
        revision=described.revision,
        dtype=dtype,
        trust_remote_code=False,  # where nothing is said, transformers asks at the terminal, and a y runs what nobody pinned
        **placement,
    )


def _require_every_part(described: _Described, model_class: Any, device_map: Mapping[str, str | int]) -> None:
    """Build the model without weights, as reading them begins, to see that a device map names its parts."""
    config = copy.deepcopy(described.config)
    with torch.device("meta"):
        empty: Any = model_class.from_config(config) if described.code is None else model_class(config)
    require_whole(device_map, [name for name, _ in empty.named_parameters()])


def _placed(
    name: str, config: Any, dtype: torch.dtype, device_map: DeviceMap | None, where: torch.device
) -> DeviceMap | None:
    """Return where weights go while they are read, None for afterwards: quantised ones are made on their device."""
    if not require_quantiser(name, config, dtype, device_map):
        return device_map
    require_accelerate(name)
    return {"": str(where)} if device_map is None else device_map


def load_request_plans(name: str, *, revision: str | None = None, trust_remote_code: str | None = None) -> RequestPlans:
    """Load what tells a chat's tokens ahead, and no weights: a model's tokenizer and, where it sees pictures, image processor.

    `trust_remote_code` pins the code of a family that comes with its own, as for `load_model`; of it the configuration alone is
    imported. Raises ModelError when there is no such model, and for a family of pictures that cannot be steered.
    """
    source = str(EMBEDDED.get(name, name))
    settings = read_model_settings(Path(source))
    described = _described(name, source, revision, trust_remote_code)
    config, tokenizer = described.config, _described_tokenizer(name, source, described)
    if described.code is None and getattr(config, "vision_config", None) is None:
        return RequestPlans(tokenizer=tokenizer, pictures=None)
    family = family_of(config, f"the model {name!r}")
    processor = _described_processor(name, source, described, tokenizer)
    pictures = PictureModel(
        family=family,
        vision=Vision(processor=processor, config=config),
        prompts=Prompts(tokenizer=tokenizer, family=family, config=config, name=name),
        tier_token_caps=settings.tier_token_caps or dict(family.caps),
    )
    return RequestPlans(tokenizer=tokenizer, pictures=pictures)


def _remote_code(
    name: str, source: str, revision: str | None, pinned: str | None
) -> tuple[RemoteCode | None, dict[str, Any]]:
    """Return the code that comes with a checkpoint where its family has none in transformers, and its raw configuration."""
    raw = _beside(name, source, pinned or revision, "config.json")
    family = FAMILIES.get(str(raw.get("model_type")))
    if family is not None and family.remote_code:
        return pinned_code(name, source, pinned, revision), raw
    if "auto_map" in raw and raw.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(
            f"the model {name!r} is of the family {raw.get('model_type')!r}, whose code comes with the checkpoint and cannot be "
            f"steered; expected a family of transformers, or one of "
            f"{', '.join(each for each, family in FAMILIES.items() if family.remote_code)}"
        )
    require_none(name, pinned)
    return None, raw


def _beside(name: str, source: str, revision: str | None, file: str) -> dict[str, Any]:
    """Return a JSON file of a checkpoint; an empty one where there is none, which transformers will say."""
    with _told(name):
        path = cached_file(source, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        found: Any = parsed_json(Path(path).read_text(encoding="utf-8")) if path is not None else {}
    return found if isinstance(found, dict) else {}


def _crop_processor(name: str, source: str, revision: str | None) -> CropProcessor:
    settings = _beside(name, source, revision, "preprocessor_config.json")
    try:
        return CropProcessor.from_settings(settings)
    except (InvalidValueError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"the model {name!r} has a preprocessor_config.json that makes no crops ({error}); copy it from the checkpoint "
            "that it was made from"
        ) from error


def _patch_token(name: str, tokenizer: Any) -> int:
    found: int | None = tokenizer.convert_tokens_to_ids(PATCH_TOKEN)
    if found is None or found == tokenizer.unk_token_id:
        raise ModelError(
            f"the tokenizer of {name!r} has no token {PATCH_TOKEN!r}; expected the one of the checkpoint that it was made from"
        )
    return found


@contextmanager
def _told(name: str) -> Generator[None]:
    """Turn what transformers raises about a model that it cannot load into one sentence."""
    try:
        yield
    except (OSError, HFValidationError, ValueError, KeyError) as error:
        raise ModelError(
            f"cannot load the model {name!r}: {_first_line(error)}; expected one of {', '.join(EMBEDDED)}, a local folder, "
            "or a hub id that this machine can reach"
        ) from error


def _tokenizer(name: str, source: str, revision: str | None, **config: Any) -> Any:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False, **config)
    except Exception as error:  # a tokenizer's file may be wrong in any way, and its backend may be missing
        raise ModelError(
            f"the model {name!r} has no tokenizer that can be loaded ({_first_line(error)}); expected tokenizer.json and "
            "tokenizer_config.json beside its weights: copy them from the checkpoint that it was made from"
        ) from error
    if not tokenizer.chat_template:
        with _told(name):
            tokenizer.chat_template = _template_beside(source, revision)
    return tokenizer


def _template_beside(source: str, revision: str | None) -> str | None:
    """Return the chat template that older checkpoints keep with their processor and not with their tokenizer."""
    for file in ("chat_template.json", "processor_config.json"):
        path = cached_file(source, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        kept: Any = parsed_json(Path(path).read_text()) if path is not None else None
        template: Any = kept.get("chat_template") if isinstance(kept, dict) else None  # pyright: ignore[reportUnknownMemberType]
        if isinstance(template, str):
            return template
    return None


def _image_processor(name: str, source: str, revision: str | None) -> Any:
    try:
        # the PIL backend: the default one needs torchvision, which has no CPU build
        found: Any = AutoImageProcessor.from_pretrained(
            source, revision=revision, trust_remote_code=False, backend="pil"
        )
    except Exception as error:
        raise ModelError(
            f"the model {name!r} has no image processor that can be loaded ({_first_line(error)}); expected "
            "preprocessor_config.json beside its weights, naming one that reads pictures with Pillow: copy it from the "
            "checkpoint that it was made from"
        ) from error
    if getattr(found, "backend", "pil") != "pil":
        raise ModelError(
            f"the model {name!r} has an image processor, {type(found).__name__}, that needs torchvision; expected one that reads "
            "pictures with Pillow: name its `Pil` class as image_processor_type in preprocessor_config.json"
        )
    return found


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


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise UnknownChoiceError("dtype", name, ("auto", *DTYPES))
    return DTYPES[name]


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
