"""`--middleware paceline.vllm_plugin.budgets`: latency budgets in vLLM's own OpenAI server.

Built when the server starts, from `--additional-config '{"paceline": {"controller": …}}'`; what cannot work ends the start with a
sentence.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from paceline.control.choosing import configurations
from paceline.control.controller import Controller
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.control.work_price import PriceSettings
from paceline.errors import EngineError, InvalidValueError, PacelineError
from paceline.estimate.bounds import require_alpha
from paceline.models.loading import load_request_plans
from paceline.models.request_plans import RequestPlans
from paceline.records import KnobConfig
from paceline.schedule.load_control import LoadController, LoadSettings
from paceline.schedule.policies import PolicyWeights
from paceline.schedule.server_load import MILLISECONDS, ServerLoad
from paceline.schedule.settings import PlannerSettings
from paceline.schedule.step_time import LinearStepTime, configuration_times
from paceline.serving.controllers import served_controllers
from paceline.serving.desk import Desk
from paceline.serving.middleware import CURRENT, App, BudgetMiddleware, Receive, Scope, Send, replay
from paceline.serving.pricing import PER_ARRIVAL, SHARE, price_settings
from paceline.serving.rewriting import KnobNames
from paceline.vllm_plugin.relied_on_server import (
    admission,
    most_pictures,
    require_server,
    require_trusted_tiers,
    tell_encoder_times,
    tell_steps,
    tell_times,
)
from paceline.vllm_plugin.request_knobs import ACTIVE_BLOCKS, TOP_K, TTFT_BUDGET_MS
from paceline.vllm_plugin.settings import WEIGHT_KEYS, read_step_time, section
from paceline.wire.budget import default_budget

PRICE_KEYS = ("price_floor", "price_per_arrival", "price_step", "price_share")
MODULE_SCHEDULER = "paceline.vllm_plugin.scheduler"
logger = logging.getLogger("vllm.paceline")  # vLLM's handler shows it


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What an API server is told: whose choice, at which α it bounds, whether clients may set knobs themselves, and whether
    nothing is taken but what the controller's certificate holds.
    `default_budget_ms` is the budget of a chat that asks for none, None for no budget.

    `price_floor` (accuracy a second), `price_per_arrival` (accuracy), `price_step` (accuracy a second²; None for one by the
    model's own times) and `price_share` (of time) are of the price of an engine's time: `paceline.control.work_price`.
    """

    controller: Path
    alpha: float = DEFAULT_ALPHA
    default_budget_ms: float | None = None
    client_knobs: bool = False
    certified_only: bool = False
    price_floor: float = 0.0
    price_per_arrival: float = PER_ARRIVAL
    price_step: float | None = None
    price_share: float = SHARE


class Budgets:
    """The middleware that vLLM builds: it opens its desk when the server starts."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.opened: BudgetMiddleware | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection, or the server's start."""
        if scope["type"] == "lifespan" and self.opened is None:
            message = await receive()
            try:
                self.opened = open_budgets(self.app, scope["app"].state)
            except PacelineError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await self.app(scope, replay(message, receive), send)
        elif self.opened is None:
            await self.app(scope, receive, send)
        else:
            await self.opened(scope, receive, send)


budgets = Budgets  # as --middleware names it


def open_budgets(app: App, state: Any) -> BudgetMiddleware:
    """Return the middleware for a server that starts; raises EngineError, or what its settings and its controller raise."""
    require_server(state)
    cells = section(state.vllm_config.additional_config)
    settings = read_budget_settings(cells)
    model = state.vllm_config.model_config
    plans = load_request_plans(model.model, revision=model.revision)
    controllers = load_controllers(settings)
    first = next(iter(controllers.values()))
    configs = configurations(first)
    _require_blocks(first, configs, cells.get("block_ranking"), model)
    _require_tiers(configs, plans)
    if len(plans.tiers) > 1:
        require_trusted_tiers(state, model.hf_config.model_type)
    line = ServerLoad(
        load_controller_of(settings, cells, state.vllm_config), by_configuration=times_by_configuration(cells)
    )
    desk = Desk(
        controllers=controllers,
        sizes=plans,
        alpha=settings.alpha,
        names=KnobNames(top_k=TOP_K, active_blocks=ACTIVE_BLOCKS, ttft_budget_ms=TTFT_BUDGET_MS),
        client_knobs=settings.client_knobs,
        default_budget_ms=settings.default_budget_ms,
        most_pictures=most_pictures(model),
        line=line,
        price_at=partial(
            price_settings,
            floor=settings.price_floor,
            per_arrival=settings.price_per_arrival,
            step=settings.price_step,
            share=settings.price_share,
        ),
    )
    middleware = BudgetMiddleware(app, desk, admits=admission(state.args))
    tell_steps(state.engine_client, middleware.stepped)
    tell_times(state.engine_client, CURRENT.get)
    tell_encoder_times(state.engine_client)
    logger.warning(
        "budgets: %s over %d configurations, of kinds %s; nothing is promised before %d requests were answered alone, and beside "
        "others before %d of a class were",
        settings.controller,
        len(configs),
        ", ".join(controllers),
        next(iter(desk.alone.values())).scores.pooled.needed,
        line.controller.scores.least,
    )
    return middleware


def read_budget_settings(cells: Mapping[str, Any]) -> BudgetSettings:
    """Return the settings of Paceline's section of additional_config; raises InvalidValueError with the key that is wrong."""
    controller, alpha = (cells.get(key) for key in ("controller", "alpha"))
    if not isinstance(controller, str) or not controller:
        expected = "the path of a table file, or of the directory of an estimator or a learned controller"
        raise InvalidValueError('additional_config["paceline"]["controller"]', controller, expected)
    client_knobs, certified_only = (_switch(cells, key) for key in ("client_knobs", "certified_only"))
    if client_knobs and certified_only:
        expected = "false where certified configurations alone are served: clients could ask for any other"
        raise InvalidValueError('additional_config["paceline"]["client_knobs"]', client_knobs, expected)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | None):
        raise InvalidValueError('additional_config["paceline"]["alpha"]', alpha, "a probability, for example 0.05")
    if alpha is not None:
        require_alpha(alpha)
    default_budget(cells.get("default_budget_ms"))  # in range
    return BudgetSettings(
        controller=Path(controller),
        alpha=alpha or DEFAULT_ALPHA,
        default_budget_ms=cells.get("default_budget_ms"),
        client_knobs=client_knobs,
        certified_only=certified_only,
        **_price(cells),
    )


def _switch(cells: Mapping[str, Any], key: str) -> bool:
    value = cells.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidValueError(f'additional_config["paceline"]["{key}"]', value, "true or false")
    return bool(value)


def _price(cells: Mapping[str, Any]) -> dict[str, float]:
    given = {key: cells[key] for key in PRICE_KEYS if cells.get(key) is not None}
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidValueError(f'additional_config["paceline"]["{key}"]', value, "a number, for example 0.25")
    PriceSettings(**{key.removeprefix("price_"): value for key, value in given.items()})  # in range
    return given


def load_controller_of(settings: BudgetSettings, cells: Mapping[str, Any], vllm_config: Any) -> LoadController:
    """Return who decides beside other requests: in the engine's own order, by its step times where a model of them is given.

    Without `step_time` a prompt is taken to be computed for as long as the controller says, one after the other.
    """
    step_time = read_step_time(cells.get("step_time"))
    is_planned = MODULE_SCHEDULER in str(vllm_config.scheduler_config.scheduler_cls)
    largest = vllm_config.scheduler_config.max_num_batched_tokens
    planner = PlannerSettings(
        chunk_size=1 if step_time is None else cells.get("chunk_size") or largest,
        policy=cells.get("policy") or "fcfs" if is_planned else "fcfs",
        weights=PolicyWeights(**{key: cells[key] for key in WEIGHT_KEYS if cells.get(key) is not None}),
    )
    return LoadController(LoadSettings(alpha=settings.alpha), planner, step_time or MILLISECONDS)


def times_by_configuration(cells: Mapping[str, Any]) -> dict[str, LinearStepTime]:
    """Return the step times of single configurations, which only a file has; raises StepTimeError."""
    given = cells.get("step_time")
    return configuration_times(given) if isinstance(given, str) else {}


def load_controllers(settings: BudgetSettings) -> dict[str, Controller]:
    """Return the controllers by kind of budget, as `served_controllers` does."""
    return served_controllers(
        settings.controller,
        alpha=settings.alpha,
        tell=partial(logger.warning, "budgets: %s"),
        certified_only=settings.certified_only,
    )


def _require_blocks(controller: Controller, configs: tuple[KnobConfig, ...], given: Any, model: Any) -> None:
    """Raise EngineError where the engine skips other blocks than the controller's figures are of."""
    num_blocks = int(model.hf_text_config.num_hidden_layers)
    if all(config.num_active_blocks in (None, num_blocks) for config in configs):
        return
    stated = [run["block_ranking"] for run in controller.provenance if "block_ranking" in run]
    if stated and any(list(each) != list(given or ()) for each in stated):  # pyright: ignore[reportArgumentType, reportUnknownVariableType]
        raise EngineError(
            f"block_ranking is {given!r} and the controller was measured with {stated[0]!r}: block counts would mean other "
            'models; set "block_ranking" in additional_config["paceline"] to that, as `paceline vllm serve` does'
        )


def _require_tiers(configs: tuple[KnobConfig, ...], plans: RequestPlans) -> None:
    unknown = sorted({str(config.tier) for config in configs} - {str(tier) for tier in plans.tiers})
    if unknown:
        known = ", ".join(map(str, plans.tiers))
        raise EngineError(
            f"the controller chooses among the tiers {', '.join(unknown)} and this model has {known}; build it from a profile of "
            "this model"
        )
