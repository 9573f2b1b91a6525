"""Turn each knob of the embedded model down, see what it does to one answer, and find the model restored.

python examples/knobs.py
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the model is small, and one thread waits for no other
import torch

from paceline import KnobConfig, applied, load_model
from paceline.datasets import digit_questions

model = load_model("digits")
question = digit_questions("digits_read", split="test", count=5)[4]
print(f"{question.prompt} (expected: {question.references[0]})")


def logits(tier: str) -> torch.Tensor:
    """Return the logits after the prompt, shape (vocabulary,)."""
    with torch.no_grad():
        return model.parts.model(**model.prepare(question.picture, question.prompt, tier).inputs).logits[0, -1]


before = logits("high")
for config in (
    KnobConfig(tier="high", top_k=8, num_active_blocks=16),
    KnobConfig(tier="low", top_k=8, num_active_blocks=16),
    KnobConfig(tier="high", top_k=2, num_active_blocks=16),
    KnobConfig(tier="high", top_k=8, num_active_blocks=8),
):
    request = model.prepare(question.picture, question.prompt, config.tier)
    with applied(model.parts, config, model.block_ranking or ()):
        ids = model.parts.model.generate(**request.inputs, max_new_tokens=8)  # pyright: ignore[reportCallIssue]
    text = model.decode(ids[0, request.inputs["input_ids"].shape[1] :])
    print(f"{config.key:>10}: {request.vision_tokens:3} image tokens, answer {text!r}")

print("restored bit for bit:", torch.equal(before, logits("high")))
