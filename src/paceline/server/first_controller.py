"""The controller of the embedded model: measured on this machine on first use, and kept in the user's cache.

A build that is killed goes on where it stood. What others see is a whole controller or none; the profile that it was learned
from stays beside it.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from paceline.control.estimated import DEFAULT_ALPHA
from paceline.datasets import DIGIT_SETS
from paceline.fit.conformal import split_for
from paceline.fit.estimator.artifact import train_artifact
from paceline.measure.profiling import ProfilePlan, run_profile
from paceline.measure.provenance import device_name
from paceline.models.loading import EMBEDDED, load_model
from paceline.profiles import read_profile
from paceline.profiles.atomic import make_directory
from paceline.profiles.locking import wait_for_lock

MODEL = "digits"
SAMPLES, MAX_NEW_TOKENS = 45, 8  # of each question set; four digits and the end token, with room
ESTIMATOR, PROFILE = "estimator", "profile"
Progress = Callable[[int, int], None]


def first_controller(
    *,
    cache: Path | None = None,
    samples: int = SAMPLES,
    on_begin: Callable[[Path], object] = lambda _kept: None,
    on_profile: Progress = lambda _done, _total: None,
    on_training: Progress = lambda _done, _total: None,
) -> Path:
    """Return the directory of the embedded model's estimator for this machine, measured first where there is none.

    It takes some minutes on two cores. Another process that builds it is waited for; `on_begin` is told where it will be kept
    before either. `cache` is the user's cache directory
    (XDG_CACHE_HOME, or ~/.cache) where it is None. Raises OutputPathError where that cannot be written.
    """
    home = _user_cache() if cache is None else cache
    kept = home / "paceline" / f"{MODEL}-{_circumstances(samples)}"
    if (kept / ESTIMATOR).is_dir():
        return kept / ESTIMATOR
    make_directory(kept)
    on_begin(kept)
    with wait_for_lock(kept / ".lock"):
        if not (kept / ESTIMATOR).is_dir():
            _build(kept, samples, on_profile, on_training)
    return kept / ESTIMATOR


def _build(kept: Path, samples: int, on_profile: Progress, on_training: Progress) -> None:
    plan = ProfilePlan(datasets=DIGIT_SETS, samples=samples, max_new_tokens=MAX_NEW_TOKENS)
    run_profile(load_model(MODEL, device="cpu"), plan, kept / PROFILE, on_progress=on_profile)
    split = split_for(samples * len(DIGIT_SETS), alpha=DEFAULT_ALPHA)
    train_artifact(read_profile(kept / PROFILE), kept / ESTIMATOR, split=split, on_progress=on_training)


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if named.startswith("/") else Path.home() / ".cache"


def _circumstances(samples: int) -> str:
    """Return a name for all that milliseconds depend on here: others are measured anew."""
    weights = hashlib.sha256((EMBEDDED[MODEL] / "model.safetensors").read_bytes()).hexdigest()
    facts = [
        weights,
        torch.__version__,
        transformers.__version__,
        device_name(torch.device("cpu")),
        torch.get_num_threads(),
    ]
    return hashlib.sha256(json.dumps([*facts, samples]).encode()).hexdigest()[:16]
