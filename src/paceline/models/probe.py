"""Once at load: are the image tokens told ahead, those in the prompt and the features of the encoder the same number?"""

import inspect
from typing import Any

import torch
from PIL import Image

from paceline.errors import ModelError
from paceline.models.critical_section import held
from paceline.models.vision_language import PreparedRequest, VisionLanguageModel

PROBE_SIZE = 320, 224  # neither square nor a whole number of tiles of most processors
PROBE_PROMPT = "What is this?"


def check_counts(model: VisionLanguageModel) -> None:
    """Raise ModelError when a probe picture's image tokens by the family's rule, its placeholders in the prompt and the
    features that the encoder returns for it are not the same number.

    Nothing that is measured or promised on such a model would be right, and some would run without an error.
    """
    picture = Image.effect_noise(PROBE_SIZE, 80).convert("RGB")
    request = model.prepare(picture, PROBE_PROMPT, model.tiers[0])
    ids_BL = request.inputs["input_ids"]
    placeholders = int((ids_BL == model.parts.image_token_id).sum())
    features = encoder_features(model, request)
    if not request.image_tokens == placeholders == features:
        width, height = PROBE_SIZE
        raise ModelError(
            f"a picture of {width}x{height} pixels is {request.image_tokens} image tokens by the rule of "
            f"{model.parts.model.config.model_type!r}, {placeholders} placeholders in the prompt of {model.name!r} and "
            f"{features} features of its image encoder; expected three equal numbers: the checkpoint's configuration, image "
            "processor and tokenizer do not belong together, or this version of transformers counts otherwise"
        )


@torch.no_grad()
def encoder_features(model: VisionLanguageModel, request: PreparedRequest) -> int:
    """Return how many image features the encoder gives for a request's picture: one is meant for each image token."""
    encode: Any = getattr(model.parts.image_encoder_owner, model.parts.image_encoder_name)
    taken = inspect.signature(encode).parameters
    with held(model.parts.model, "plain passes"):
        found = encode(**{name: value for name, value in request.inputs.items() if name in taken})
    places = request.inputs.get(model.parts.family.places or "")
    if places is not None:  # of several pooled patches that show the same, one is used
        features = _count(found[0])
        return int((places >= 0).sum()) if features == places.numel() else features
    # Granite 4 Vision hands its features to several blocks, the same number to each
    to_blocks = getattr(found, "deepstack_features", None) if getattr(found, "pooler_output", None) is None else None
    return _count(getattr(found, "pooler_output", found) if to_blocks is None else to_blocks[0][1])


def _count(found: Any) -> int:
    if isinstance(found, torch.Tensor):
        return found.shape[:-1].numel()
    return sum(_count(each) for each in found)
