"""One Hugging Face model under a controller: each request gets the most accurate setting that keeps its budget."""

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from PIL import Image

from paceline.control.controller import Controller, DriftCorrecting, SeesPictures, as_promised
from paceline.control.loading import load_controller
from paceline.control.measured_ranking import measured_ranking
from paceline.control.table import LookupTable
from paceline.errors import InvalidValueError, ModelError, PacelineWarning, TableError
from paceline.estimate.circumstances import Circumstances, circumstances_of, differences, engines_apart
from paceline.measure.clock import clock_for
from paceline.measure.greedy import greedy, settings_put_aside
from paceline.measure.one_pass import MeasuredAnswer, request_measured
from paceline.measure.provenance import device_name, template_settings
from paceline.models.chats import Message, opened, upright
from paceline.models.knobs import check_config
from paceline.models.loading import PreparedRequest, VisionLanguageModel, load_model
from paceline.models.placement import DeviceMap
from paceline.records import (
    Decision,
    KnobConfig,
    LatencyBudget,
    LatencyKind,
    RequestFeatures,
    Sampling,
    StageTimes,
)

DEFAULT_MAX_NEW_TOKENS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveAnswer:
    """An answer, the configuration it was given under, what was promised and what was measured.

    `predicted_ms`, `bound_ms` and `measured_ms` are of `latency_kind`, which is the controller's: what it expects, what it
    expects not to be exceeded (None from one that promises no bound), what it was. A `ttft` is measured from the call of
    `generate` to the first token's logits: with opening the picture, looking at the request, deciding and `waited_ms`, the
    wait for the model while another thread had it. `promised` says whether the controller expected
    the budget to hold, `within_budget` whether it held. `refused` marks a learned controller's choice that was not taken,
    `outside` names features of the request beyond what the controller was measured on. `vision_tokens` are all tokens that
    the request's pictures brought into the prompt, `text_tokens` the others. `sampling` is how its tokens were drawn, the seed
    with it; None where the most probable were taken. `features_us` is the time taken to look at the
    request, `decision_us` the controller's own, both in microseconds.
    """

    text: str
    config: KnobConfig
    budget_ms: float
    latency_kind: LatencyKind
    predicted_ms: float
    bound_ms: float | None
    measured_ms: float
    promised: bool
    refused: bool
    within_budget: bool
    outside: tuple[str, ...]
    vision_tokens: int
    text_tokens: int
    times: StageTimes
    waited_ms: float
    features_us: float
    decision_us: float
    sampling: Sampling | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A request whose pictures are open: how a controller sees it, and how it is encoded at a tier."""

    features: Callable[[], RequestFeatures]
    prepare: Callable[[str | None], PreparedRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimedDecision:
    features: RequestFeatures
    decision: Decision
    features_us: float
    decision_us: float


class AdaptiveModel:
    """A vision-language model that spends the latency budget of each request; several threads may call it, one is answered
    at a time."""

    def __init__(
        self,
        *,
        model: VisionLanguageModel,
        controller: Controller,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        strict: bool = False,
    ) -> None:
        greedy(model.parts.model, max_new_tokens)  # refuses a length that is none before the first request does
        self.model, self.controller, self.max_new_tokens = model, controller, max_new_tokens
        self.block_ranking = _ranking(model, controller)
        _compare(model, controller, strict)
        # a look at the picture takes longer than counting tokens: only for those who see it
        self._looks = isinstance(controller, SeesPictures)

    @staticmethod
    def from_pretrained(
        name: str,
        *,
        controller: Controller | Path | str,
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
        template_arguments: Mapping[str, object] | None = None,
        trust_remote_code: str | None = None,
        device_map: DeviceMap | None = None,
        offload_folder: Path | str | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        strict: bool = False,
        certified_only: bool = False,
    ) -> "AdaptiveModel":
        """Load a model (`digits`, a local folder or a hub id) and put it under a controller.

        `controller` is one, or the path of a table file or of the directory of an estimator or a learned controller; the
        latter two promise 95 of 100 requests their budgets. `template_arguments` go to the chat template of every request;
        `device_map` and `offload_folder` place a model that is larger than one device, as `load_model` says. A
        controller that was measured on another device, in another dtype, revision or number of threads, or with other
        template arguments, is warned of once; with `strict` it is a TableError. So is an estimator that can promise prefills
        alone, for its profile is older than T_ttft; with `strict` it is an EstimatorError.
        With `certified_only` nothing is taken but what the table's certificate holds, and the full configuration.

        Raises ModelError when the model cannot be steered, TableError, EstimatorError or ControllerError when the file cannot
        be trusted, and TableError when it was measured on another model.
        """
        chosen = (
            load_controller(controller, strict=strict, certified_only=certified_only)
            if isinstance(controller, str | Path)
            else _certified(controller)
            if certified_only
            else controller
        )
        require_same_model(name, chosen)
        model = load_model(
            name,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=trust_remote_code,
            template_arguments=template_arguments,
            device_map=device_map,
            offload_folder=offload_folder,
        )
        return AdaptiveModel(model=model, controller=chosen, max_new_tokens=max_new_tokens, strict=strict)

    def generate(
        self,
        image: Image.Image | Path | str | None = None,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        template_arguments: Mapping[str, object] | None = None,
        latency_budget_ms: float,
        strict: bool = False,
        max_new_tokens: int | None = None,
        expected_output_tokens: float | None = None,
        per_step: bool = False,
        sampling: Sampling | None = None,
    ) -> AdaptiveAnswer:
        """Answer a request within `latency_budget_ms` of the controller's latency kind: a question about one
        picture (`image` and `prompt`), or a chat (`messages`) of roles and contents, as transformers' chat templates take
        them, with any number of pictures, each a `PIL.Image` or the path of one in a part `{"type": "image", "image": …}`.

        The budget is the whole request's; the tier is each picture's. What a controller knows comes from requests with one
        picture, so for a chat with several, or with none, nothing is promised: `promised` is False, `bound_ms` None and
        `pictures` in `outside`, while the configuration is still the one that its figures lead to for all the image tokens
        together. Without a picture the tier is None. `template_arguments` go to the chat template with `messages`, before the
        model's own, for example `enable_thinking`. Decoding is greedy, or by `sampling`.

        An estimator promises the time to first token from this call on, a lookup table usually the model's prefill alone:
        `latency_kind` of the answer says which.
        Where no configuration fits, the nearest is taken, marked and warned of; with `strict`, BudgetTooSmallError.
        `expected_output_tokens` helps a controller of total latency. What the request took is told to a controller that
        corrects itself for drift. Raises InvalidValueError for a budget that is not above 0 and for what is no request,
        PictureError for a picture that no tier can carry, and ModelError for a chat with a family that answers questions
        about one picture alone.
        """
        called_at = time.perf_counter()
        budget = LatencyBudget(ms=latency_budget_ms, kind=self.controller.latency_kind)
        asked = self._asked(image, prompt, messages, template_arguments)
        timed = self._decide(asked, budget, strict, expected_output_tokens)
        tokens = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        answer = self._answer(asked, timed.decision.config, tokens, per_step, called_at, sampling)
        # what nothing was promised of teaches nothing of the machine
        if isinstance(self.controller, DriftCorrecting) and timed.features.pictures == 1:
            self.controller.observe(timed.decision, _own_ms(answer.times, budget.kind))
        return _judged(answer, timed, budget)

    def decide(
        self,
        image: Image.Image | Path | str | None = None,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        template_arguments: Mapping[str, object] | None = None,
        latency_budget_ms: float,
        strict: bool = False,
        expected_output_tokens: float | None = None,
    ) -> Decision:
        """Return what `generate` would take for this request, without running the model; it raises and warns alike."""
        budget = LatencyBudget(ms=latency_budget_ms, kind=self.controller.latency_kind)
        asked = self._asked(image, prompt, messages, template_arguments)
        return self._decide(asked, budget, strict, expected_output_tokens).decision

    def warm_up(
        self,
        image: Image.Image | Path | str | None = None,
        prompt: str | None = None,
        latency_budgets_ms: Sequence[float] = (),
        *,
        messages: Sequence[Message] | None = None,
        template_arguments: Mapping[str, object] | None = None,
        runs: int = 2,
    ) -> None:
        """Run the configurations that these budgets lead to, so that no request pays for the first use of their shapes."""
        asked = self._asked(image, prompt, messages, template_arguments)
        budgets = [LatencyBudget(ms=ms, kind=self.controller.latency_kind) for ms in latency_budgets_ms]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PacelineWarning)  # warned of when a request is answered
            decisions = [self._decide(asked, budget, False, None).decision for budget in budgets]
        for config in dict.fromkeys(decision.config for decision in decisions):
            for _ in range(runs):
                self._answer(asked, config, 2, False)

    def _asked(
        self,
        image: Image.Image | Path | str | None,
        prompt: str | None,
        messages: Sequence[Message] | None,
        template_arguments: Mapping[str, object] | None,
    ) -> _Asked:
        model, looks = self.model, self._looks
        if messages is not None:
            if image is not None or prompt is not None:
                raise InvalidValueError(
                    "messages", "with image or prompt", "a chat, or a picture and a prompt, not both"
                )
            chat, arguments = opened(messages), template_arguments or {}
            return _Asked(
                features=partial(model.chat_features, chat, template_arguments=arguments, look=looks),
                prepare=partial(model.prepare_chat, chat, template_arguments=arguments),
            )
        if image is None or prompt is None:
            missing = "image" if image is None else "prompt"
            raise InvalidValueError(missing, None, "a picture and a prompt, or messages")
        if template_arguments:
            raise InvalidValueError(
                "template_arguments", dict(template_arguments), "none beside a prompt: give messages"
            )
        picture = upright(image)
        return _Asked(
            features=partial(model.features if looks else model.token_features, picture, prompt),
            prepare=partial(model.prepare, picture, prompt),
        )

    def _decide(
        self,
        asked: _Asked,
        budget: LatencyBudget,
        strict: bool,
        expected_output_tokens: float | None,
    ) -> _TimedDecision:
        started = time.perf_counter()
        features = asked.features()
        if expected_output_tokens is not None:
            features = replace(features, expected_output_tokens=expected_output_tokens)
        seen = time.perf_counter()
        decision = as_promised(self.controller.predict(budget.ms, features=features, strict=strict), features)
        decided = time.perf_counter()
        return _TimedDecision(
            features=features,
            decision=decision,
            features_us=(seen - started) * 1e6,
            decision_us=(decided - seen) * 1e6,
        )

    def _answer(
        self,
        asked: _Asked,
        config: KnobConfig,
        max_new_tokens: int,
        per_step: bool,
        called_at: float | None = None,
        sampling: Sampling | None = None,
    ) -> MeasuredAnswer:
        check_config(self.model.parts, config)
        return request_measured(
            self.model,
            asked.prepare,
            config,
            ranking=self.block_ranking,
            max_new_tokens=max_new_tokens,
            clock=clock_for(*self.model.devices),
            per_step=per_step,
            called_at=called_at,
            sampling=sampling,
        )


def _certified(controller: Controller) -> Controller:
    if isinstance(controller, LookupTable):
        return controller.certified_only()
    raise TableError(
        f"a {type(controller).__name__} holds no certificate, and certified configurations alone are asked for; expected the "
        "table of `paceline profile --certify`: give that, or leave certified_only out"
    )


def _own_ms(times: StageTimes, kind: LatencyKind) -> float:
    """Return what a request took of the machine: without the wait for another thread's, which says nothing of its speed."""
    return times.latency_ms(kind) - (times.waited_ms if kind == "ttft" else 0.0)


def _judged(answer: MeasuredAnswer, timed: _TimedDecision, budget: LatencyBudget) -> AdaptiveAnswer:
    measured_ms, decision = answer.times.latency_ms(budget.kind), timed.decision
    return AdaptiveAnswer(
        text=answer.text,
        config=decision.config,
        budget_ms=budget.ms,
        latency_kind=budget.kind,
        predicted_ms=decision.latency_ms,
        bound_ms=decision.bound_ms,
        measured_ms=measured_ms,
        promised=decision.within_budget,
        refused=decision.refused,
        within_budget=measured_ms <= budget.ms,
        outside=decision.outside,
        vision_tokens=answer.request.vision_tokens,
        text_tokens=answer.request.text_tokens,
        times=answer.times,
        waited_ms=answer.times.waited_ms,
        features_us=timed.features_us,
        decision_us=timed.decision_us,
        sampling=answer.sampling,
    )


def compute_as_measured(controller: Controller) -> int | None:
    """Compute with as many threads as a controller was measured with, and return how many.

    Does nothing, and returns None, where it does not tell one number, or OMP_NUM_THREADS says it already.
    """
    told = circumstances_of(controller.provenance).get("torch_threads", set())
    if len(told) != 1 or "OMP_NUM_THREADS" in os.environ:
        return None
    threads = int(next(iter(told)))
    torch.set_num_threads(threads)
    return threads


def require_same_model(name: str, controller: Controller) -> None:
    """Raise TableError for a controller that was measured on another model."""
    measured_on = {str(run["model"]) for run in controller.provenance if "model" in run}
    if measured_on and name not in measured_on:
        raise TableError(
            f"the controller was measured on {', '.join(sorted(measured_on))}, not on {name}; profile {name} and build a "
            "controller from that, or load the model it was measured on"
        )


def _compare(model: VisionLanguageModel, controller: Controller, strict: bool) -> None:
    """Warn of a controller that was measured elsewhere, or refuse it; and of generation settings that are not used."""
    there, here = circumstances_of(controller.provenance), _circumstances(model)
    apart = engines_apart(there, here)
    if apart is not None:
        raise TableError(
            f"the controller was {apart}; profile {model.name} without --engine, and build a controller from that"
        )
    found = differences(there, here)
    if found:
        sentence = (
            f"the controller was measured in other circumstances ({'; '.join(found)}), so its milliseconds are not "
            "those of this model; profile here and build a controller from that"
        )
        if strict:
            raise TableError(sentence)
        warnings.warn(sentence, PacelineWarning, stacklevel=3)
    unused = settings_put_aside(model.parts.model)
    if unused:
        listed = ", ".join(f"{name}={value}" for name, value in unused.items())
        warnings.warn(
            f"{model.name} asks for {listed} in its generation settings; decoding is greedy here and does without",
            PacelineWarning,
            stacklevel=3,
        )


def _circumstances(model: VisionLanguageModel) -> Circumstances:
    here: dict[str, object] = {
        "device": device_name(model.device),
        "dtype": model.dtype_name,
        "revision": model.revision,
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    threads = {"torch_threads": torch.get_num_threads()} if model.device.type == "cpu" else {}
    return circumstances_of([{**here, "settings": {**threads, **template_settings(model)}}])


def _ranking(model: VisionLanguageModel, controller: Controller) -> tuple[int, ...]:
    """Return the block ranking that the controller's configurations were measured with."""
    measured = measured_ranking(controller.provenance, num_blocks=len(model.parts.blocks))
    if measured is not None:
        return measured
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
