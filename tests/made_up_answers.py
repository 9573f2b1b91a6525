"""Measured answers that nobody measured: synthetic times, for tests that are about what happens to measurements."""

import numpy as np

from paceline.measure.one_pass import MeasuredAnswer
from paceline.models.loading import PreparedRequest
from paceline.records import StageTimes


def made_up(model, picture, prompt, config, **_):
    """Stand for a measurement: synthetic times that grow with the configuration, and an answer that is sometimes right."""
    known = model.token_features(picture, prompt)
    tokens = known.vision_tokens[config.tier]
    work = (known.text_tokens + tokens) * config.num_active_blocks / 16 * (1 + config.top_k / 8)
    random = np.random.default_rng([tokens, known.text_tokens, config.num_active_blocks, config.top_k])
    prefill_ms = (4 + 0.05 * work) * float(np.exp(0.05 * random.standard_normal()))
    times = StageTimes(
        preprocess_ms=1.0,
        before_vision_ms=0.2,
        vision_ms=0.3 * prefill_ms,
        vision_to_decoder_ms=0.2,
        llm_prefill_ms=0.7 * prefill_ms,
        first_token_to_decode_ms=0.1,
        decode_ms=5.0,
        after_last_step_ms=0.1,
        total_ms=prefill_ms + 5.6,
        output_tokens=2,
    )
    request = PreparedRequest(
        inputs={},
        target_vision_tokens=model.tier_token_caps[config.tier],
        vision_tokens=tokens,
        image_tokens=tokens,
        text_tokens=known.text_tokens,
    )
    text = str(1 + int(random.integers(4))) if "many" in prompt or "Count" in prompt else "yes"
    return MeasuredAnswer(text=text, times=times, request=request)
