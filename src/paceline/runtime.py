"""One Hugging Face model under a controller: each request gets the most accurate setting that keeps its budget."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from paceline.control import LookupTable
from paceline.control.controller import Controller
from paceline.errors import ModelError, PacelineWarning, TableError
from paceline.measure.clock import clock_for
from paceline.measure.one_pass import MeasuredAnswer, answer_measured
from paceline.models.knobs import check_config
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.models.pictures import open_picture
from paceline.records import Decision, KnobConfig, LatencyBudget, LatencyKind, StageTimes

DEFAULT_MAX_NEW_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveAnswer:
    """An answer, the configuration it was given under, what was promised and what was measured.

    `predicted_ms` and `measured_ms` are of the same latency kind; `promised` says whether the controller expected the
    budget to hold, `within_budget` whether it held. `decision_us` is the controller's own time in microseconds.
    """

    text: str
    config: KnobConfig
    budget_ms: float
    latency_kind: LatencyKind
    predicted_ms: float
    measured_ms: float
    promised: bool
    within_budget: bool
    times: StageTimes
    decision_us: float


class AdaptiveModel:
    """A vision-language model that spends the latency budget of each request."""

    def __init__(
        self, *, model: VisionLanguageModel, controller: Controller, max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    ) -> None:
        self.model, self.controller, self.max_new_tokens = model, controller, max_new_tokens
        self.block_ranking = _ranking(model, controller)

    @staticmethod
    def from_pretrained(
        name: str,
        *,
        controller: Controller | Path | str,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
    ) -> "AdaptiveModel":
        """Load a model (`digits`, a local folder or a hub id) and put it under a controller or a table file.

        Raises ModelError when the model cannot be steered, TableError when the table cannot be read or was measured on
        another model.
        """
        chosen = LookupTable.load(controller) if isinstance(controller, str | Path) else controller
        _require_same_model(name, chosen)
        model = load_model(name, device=device, dtype=dtype, revision=revision)
        return AdaptiveModel(model=model, controller=chosen, max_new_tokens=max_new_tokens)

    def generate(
        self,
        image: Image.Image | Path | str,
        prompt: str,
        *,
        latency_budget_ms: float,
        strict: bool = False,
        max_new_tokens: int | None = None,
        per_step: bool = False,
    ) -> AdaptiveAnswer:
        """Answer a question about one picture within `latency_budget_ms` of the controller's latency kind, greedily.

        Where no configuration fits, the nearest is taken, marked and warned of; with `strict`, BudgetTooSmallError.
        Raises InvalidValueError for a budget that is not above 0 and PictureError for a picture that no tier can carry.
        """
        budget = LatencyBudget(ms=latency_budget_ms, kind=self.controller.latency_kind)
        picture = image if isinstance(image, Image.Image) else open_picture(image)
        started = time.perf_counter()
        decision = self.controller.predict(budget.ms, strict=strict)
        decision_us = (time.perf_counter() - started) * 1e6
        answer = self._answer(picture, prompt, decision.config, max_new_tokens or self.max_new_tokens, per_step)
        return _judged(answer, decision, budget, decision_us)

    def warm_up(
        self, image: Image.Image | Path | str, prompt: str, latency_budgets_ms: Sequence[float], *, runs: int = 2
    ) -> None:
        """Run the configurations that these budgets lead to, so that no request pays for the first use of their shapes."""
        picture = image if isinstance(image, Image.Image) else open_picture(image)
        for config in dict.fromkeys(self.controller.predict(budget_ms).config for budget_ms in latency_budgets_ms):
            for _ in range(runs):
                self._answer(picture, prompt, config, 2, False)

    def _answer(
        self, picture: Image.Image, prompt: str, config: KnobConfig, max_new_tokens: int, per_step: bool
    ) -> MeasuredAnswer:
        check_config(self.model.parts, config)
        return answer_measured(
            self.model,
            picture,
            prompt,
            config,
            ranking=self.block_ranking,
            max_new_tokens=max_new_tokens,
            clock=clock_for(self.model.device),
            per_step=per_step,
        )


def _judged(answer: MeasuredAnswer, decision: Decision, budget: LatencyBudget, decision_us: float) -> AdaptiveAnswer:
    measured_ms = answer.times.latency_ms(budget.kind)
    return AdaptiveAnswer(
        text=answer.text,
        config=decision.config,
        budget_ms=budget.ms,
        latency_kind=budget.kind,
        predicted_ms=decision.latency_ms,
        measured_ms=measured_ms,
        promised=decision.within_budget,
        within_budget=measured_ms <= budget.ms,
        times=answer.times,
        decision_us=decision_us,
    )


def _require_same_model(name: str, controller: Controller) -> None:
    measured_on = {str(run["model"]) for run in controller.metadata.provenance if "model" in run}
    if measured_on and name not in measured_on:
        raise TableError(
            f"the controller was measured on {', '.join(sorted(measured_on))}, not on {name}; profile {name} and build a "
            "table from that, or load the model it was measured on"
        )


def _ranking(model: VisionLanguageModel, controller: Controller) -> tuple[int, ...]:
    """Return the block ranking that the controller's configurations were measured with."""
    rankings = {tuple(run["block_ranking"]) for run in controller.metadata.provenance if "block_ranking" in run}  # pyright: ignore[reportArgumentType]
    if len(rankings) > 1:
        raise TableError(
            "the controller was built from runs with different block rankings, so its block counts mean different "
            "models; build it from runs with one ranking"
        )
    if rankings:
        return rankings.pop()
    if model.block_ranking is None:
        raise ModelError(
            f"neither the controller nor {model.name} says which decoder blocks matter least; "
            "build the table from a native profile (paceline profile), which stores the ranking"
        )
    warnings.warn(
        f"the controller carries no block ranking; taking the one that {model.name} ships with",
        PacelineWarning,
        stacklevel=3,
    )
    return model.block_ranking
