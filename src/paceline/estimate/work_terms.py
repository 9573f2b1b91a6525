"""What a step's time is made of: a latency that is linear, and never negative, in the work that kernels do.

Matrix products cost by tokens × blocks, experts by tokens × experts × blocks, attention by tokens² × blocks, the vision encoder
by image tokens and their square, and every call something of its own (Kaplan et al., Scaling Laws for Neural Language Models,
2020, section 2.1; Williams, Waterman and Patterson, Roofline, 2009). Few measurements determine so few numbers, and beyond
the sizes that were measured they still say what more work costs.

A term is a part that follows from the configuration times a part that follows from the request.
Legend of array suffixes: N rows, C configurations, F features in FEATURES' order, T terms, A knob parts, P request parts,
K heads (prefill, decode).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.estimate.features import knob_features
from paceline.records import KnobConfig

KNOB_PARTS = ("one", "top_k", "blocks", "top_k·blocks", "above low", "above medium")
REQUEST_PARTS = ("one", "vision", "vision²", "tokens", "tokens²")
TERMS = (
    ("one", "one"),
    ("one", "vision"),
    ("one", "vision²"),
    ("one", "tokens"),
    ("one", "tokens²"),
    ("top_k", "one"),
    ("top_k", "tokens"),
    ("blocks", "one"),
    ("blocks", "tokens"),
    ("blocks", "tokens²"),
    ("top_k·blocks", "one"),
    ("top_k·blocks", "tokens"),
    ("above low", "one"),
    ("above medium", "one"),
)
KNOB_PART_OF_T = [KNOB_PARTS.index(knob) for knob, _ in TERMS]
REQUEST_PART_OF_T = [REQUEST_PARTS.index(request) for _, request in TERMS]
TERM_NAMES = tuple(f"{knob} × {request}" for knob, request in TERMS)

Floats = NDArray[np.float64]


def term_rows(features_NF: Floats) -> Floats:
    """Return the terms of rows of features, N × T."""
    vision_N, text_N, tier_N, top_k_N, blocks_N = features_NF.T
    one_N, tokens_N = np.ones(len(features_NF)), vision_N + text_N
    knobs_NA = np.stack([one_N, top_k_N, blocks_N, top_k_N * blocks_N, tier_N >= 1, tier_N >= 2], axis=1)
    requests_NP = np.stack([one_N, vision_N, vision_N**2, tokens_N, tokens_N**2], axis=1)
    return knobs_NA[:, KNOB_PART_OF_T] * requests_NP[:, REQUEST_PART_OF_T]


def request_parts(vision_tokens: float, text_tokens: float) -> tuple[float, float, float, float, float]:
    """Return the parts of a request, in the order of REQUEST_PARTS."""
    tokens = vision_tokens + text_tokens
    return 1.0, vision_tokens, vision_tokens * vision_tokens, tokens, tokens * tokens


def weights_of_configs(configs: Sequence[KnobConfig], weight_TK: Floats) -> Floats:
    """Return what each request part weighs under every configuration, C × P × K."""
    tier_C, top_k_C, blocks_C = np.array([knob_features(config) for config in configs], dtype=float).T
    one_C = np.ones(len(configs))
    knobs_CA = np.stack([one_C, top_k_C, blocks_C, top_k_C * blocks_C, tier_C >= 1, tier_C >= 2], axis=1)
    found_CPK = np.zeros((len(configs), len(REQUEST_PARTS), weight_TK.shape[1]))
    for term, (knob, request) in enumerate(zip(KNOB_PART_OF_T, REQUEST_PART_OF_T, strict=True)):
        found_CPK[:, request] += knobs_CA[:, knob, None] * weight_TK[term]
    return found_CPK


def constant_weights(scale_K: Floats) -> Floats:
    """Return weights that say `scale_K` of every request: of an estimator that is older than the terms."""
    weight_TK = np.zeros((len(TERMS), len(scale_K)))
    weight_TK[0] = scale_K
    return weight_TK
