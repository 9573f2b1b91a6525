"""Profile the embedded model a little, build a table from it and answer one question under three budgets.

    python examples/within_budget.py

Takes about half a minute. Two questions a set are far too few for a table to trust: see `paceline demo` for a real one.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the model is small, and one thread waits for no other
from paceline import AdaptiveModel, ProfilePlan, build_lookup_table, load_model, read_profile, run_profile
from paceline.datasets import DIGIT_SETS, digit_questions

with tempfile.TemporaryDirectory() as folder:
    model = load_model("digits")
    plan = ProfilePlan(datasets=DIGIT_SETS, samples=2, strategy="boundary", max_new_tokens=8)
    run = run_profile(model, plan, Path(folder) / "profile")
    table = build_lookup_table(read_profile(run.out))

fastest_ms, slowest_ms = table.latency_range_ms
print(f"{run.samples_total} samples; prefill takes {fastest_ms:.1f} to {slowest_ms:.1f} ms")

adaptive = AdaptiveModel(model=model, controller=table, max_new_tokens=8)
question = digit_questions("digits_read", split="test", count=1)[0]
for budget_ms in (fastest_ms * 1.2, (fastest_ms + slowest_ms) / 2, slowest_ms * 1.2):
    answer = adaptive.generate(question.picture, question.prompt, latency_budget_ms=budget_ms)
    print(
        f"budget {budget_ms:5.1f} ms: {answer.config.key:>12}, promised {answer.predicted_ms:5.1f} ms, "
        f"measured {answer.measured_ms:5.1f} ms, answer {answer.text!r} (expected {question.references[0]!r})"
    )
