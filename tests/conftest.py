import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from paceline.datasets import VisualQuestion, digit_questions
from paceline.models.loading import PreparedRequest, VisionLanguageModel, load_model

# The same examples in every run, so that a change is judged by what it changes; `make explore` draws others. How long an
# example takes tells of the machine alone.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same examples", UNTIMED, derandomize=True)
settings.register_profile("other examples", UNTIMED, max_examples=500, print_blob=True)
settings.load_profile("other examples" if os.environ.get("PACELINE_EXPLORE") else "same examples")


@pytest.fixture(scope="session")
def digits() -> VisionLanguageModel:
    """The embedded model; tests leave it as they found it."""
    return load_model("digits", device="cpu")


@pytest.fixture(scope="session")
def questions() -> Sequence[VisualQuestion]:
    return digit_questions("digits_read", split="validation", count=4)


@pytest.fixture(scope="session")
def request_high(digits: VisionLanguageModel, questions: Sequence[VisualQuestion]) -> PreparedRequest:
    return digits.prepare(questions[0].picture, questions[0].prompt, "high")


@pytest.fixture
def picture_path(tmp_path: Path, questions: Sequence[VisualQuestion]) -> Path:
    path = tmp_path / "picture.png"
    questions[0].picture.save(path)
    return path


@pytest.fixture(scope="session")
def dense_folder(tmp_path_factory, digits) -> Path:
    """A tiny dense Qwen3-VL with random weights, saved as a user's local folder would be."""
    torch.manual_seed(0)
    own = digits.parts.model.config
    vision = {
        name: getattr(own.vision_config, name) for name in ("patch_size", "spatial_merge_size", "temporal_patch_size")
    }
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": 64,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
                "rope_theta": 1e4,
            },
            "eos_token_id": digits.tokenizer.eos_token_id,
            "pad_token_id": digits.tokenizer.pad_token_id,
        },
        vision_config={
            **vision,
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=own.image_token_id,
        video_token_id=own.video_token_id,
        vision_start_token_id=own.vision_start_token_id,
        vision_end_token_id=own.vision_end_token_id,
    )
    folder = tmp_path_factory.mktemp("dense")
    Qwen3VLForConditionalGeneration(config).save_pretrained(folder)
    digits.tokenizer.save_pretrained(folder)
    digits.image_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dense(dense_folder):
    return load_model(str(dense_folder), device="cpu")


@pytest.fixture(scope="session")
def request_dense(dense):
    question = digit_questions("digits_count", split="validation", count=1)[0]
    return dense.prepare(question.picture, question.prompt, "low")
