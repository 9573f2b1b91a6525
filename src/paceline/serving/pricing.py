"""The price of an engine's time where nobody tuned one: by the model's own times."""

from paceline.control.choosing import needed_ms, options
from paceline.control.controller import Controller
from paceline.control.work_price import PriceSettings
from paceline.records import RequestFeatures
from paceline.serving.chat import Sizes

# of the price's step and ceiling: accuracy, where time is counted in T0, the time of the largest configuration alone
# (benchmarks/under_load.py: 1.0 a second² at a T0 of 0.28 s)
STEP_T0, CEILING_T0 = 0.0784, 5.0
# of those who arrive while a request is computed, by waiting: found there, and the same on another model under other budgets
PER_ARRIVAL = 0.25
SHARE = 0.5
TEXT_TOKENS = 64  # of a question


def price_settings(
    t0_seconds: float,
    *,
    floor: float = 0.0,
    per_arrival: float = PER_ARRIVAL,
    step: float | None = None,
    share: float = SHARE,
) -> PriceSettings:
    """Return the price of a server whose largest configuration takes `t0_seconds` alone; `step` None is one by that time."""
    return PriceSettings(
        floor=floor,
        per_arrival=per_arrival,
        step=STEP_T0 / t0_seconds**2 if step is None else step,
        share=share,
        ceiling=max(CEILING_T0 / t0_seconds, floor),
    )


def largest_ms(controller: Controller, sizes: Sizes) -> float:
    """Return what a controller says of a picture of a megapixel under its largest configuration: a server's T0, in ms."""
    tokens = {tier: plan.tokens for tier, plan in sizes.plans([(1024, 1024)]).items()}
    found = options(controller, RequestFeatures(text_tokens=TEXT_TOKENS, vision_tokens=tokens), tuple(tokens))
    return needed_ms(max(found, key=lambda each: each.config.size))
