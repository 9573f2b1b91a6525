"""Families spread over a CPU and its disk by accelerate: the same logits and knobs, and nothing left behind."""

import pytest
import torch
from PIL import Image
from tiny_models import trusted

from paceline.models.knobs import applied
from paceline.models.loading import load_model
from paceline.records import KnobConfig

pytest.importorskip("accelerate")
RANKING, PROMPT = (5, 4, 1), "Read the digits."


def every_other_block_on_disk(parts):
    """Return a device map of a model: its blocks one by one, and all modules beside them and beside what holds them."""
    names = {module: name for name, module in parts.model.named_modules()}
    blocks = {names[block]: "disk" if index % 2 else "cpu" for index, block in enumerate(parts.blocks)}
    holding = {""} | {".".join(name.split(".")[:depth]) for name in blocks for depth in range(1, name.count(".") + 1)}
    others = [name for name in names.values() if name.rpartition(".")[0] in holding and name not in holding]
    return dict.fromkeys(others, "cpu") | blocks


@pytest.mark.parametrize("name", ["gemma3", "idefics3", "internvl", "qwen3_5_moe", "qwen3_vl_moe"])
@torch.no_grad()
def test_logits_knobs_and_restoration_are_those_of_one_device(name, tiny_folder, tmp_path):
    folder = tiny_folder(name)
    plain = load_model(str(folder), device="cpu", trust_remote_code=trusted(folder))
    spread = load_model(
        str(folder), device_map=every_other_block_on_disk(plain.parts), dtype="float32", offload_folder=tmp_path
    )
    assert {weight.device.type for weight in spread.parts.model.parameters()} == {"cpu", "meta"}
    assert spread.device == torch.device("cpu")
    inputs = plain.prepare(Image.effect_noise((160, 120), 80).convert("RGB"), PROMPT, plain.tiers[0]).inputs
    top_k = 1 if plain.parts.routers else None
    low = KnobConfig(tier=plain.tiers[0], top_k=top_k, num_active_blocks=4)

    def logits(model, config=None):
        if config is None:
            return model.parts.model(**inputs).logits
        with applied(model.parts, config, RANKING):
            return model.parts.model(**inputs).logits

    before = logits(spread)
    assert torch.allclose(before, logits(plain), atol=1e-4)
    assert torch.allclose(logits(spread, low), logits(plain, low), atol=1e-4)
    assert torch.equal(logits(spread), before) and not torch.equal(logits(spread, low), before)
