"""A `LoadController` in front of a simulated engine: it decides at each arrival, and learns from what the engine did since."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.errors import InvalidValueError
from paceline.schedule.load_control import LoadCandidate, LoadController, LoadDecision
from paceline.schedule.look_ahead import PrefillWork
from paceline.schedule.step_time import StepLoad
from paceline.simulate.choosing import ArrivingRequest, Choice, EngineState, ExecutedSteps, PromptColumns


class LoadChooser:
    """Decides for the requests of one engine; `accuracies` of request and candidate are what the controller believes.

    `decisions` holds what was decided, in the order of arrival.
    """

    def __init__(self, controller: LoadController, accuracies: NDArray[np.float64]) -> None:
        if accuracies.ndim != 2:
            raise InvalidValueError(
                "accuracies", accuracies.shape, "a row for each request, a column for each candidate"
            )
        self.controller = controller
        self.decisions: list[LoadDecision] = []
        self._accuracies: list[list[float]] = accuracies.tolist()
        self._steps = 0
        self._left: dict[int, int] = {}  # tokens of each prompt that is not fully computed
        self._awaited: set[int] = set()  # fully computed as far as is planned, first token yet to be seen

    def __call__(self, state: EngineState, request: ArrivingRequest) -> Choice:
        """Take note of what happened since the last arrival, and return what this request is served as."""
        self._catch_up(state)
        believed = self._accuracies[request.index]
        candidates = [
            LoadCandidate(accuracy=accuracy, work=PrefillWork(tokens=each.prompt_tokens, factor=each.prefill_factor))
            for accuracy, each in zip(believed, request.candidates, strict=True)
        ]
        budget = request.ttft_budget_seconds
        decision = self.controller.decide(
            candidates,
            arrival_seconds=state.now_seconds,
            ready_seconds=state.ready_seconds,
            ttft_budget_seconds=None if budget == math.inf else budget,
            decodes=state.decodes,
        )
        self._left[request.number] = candidates[decision.chosen].work.tokens
        self.controller.admit(
            request.number,
            decision,
            candidates[decision.chosen].work,
            arrival_seconds=state.now_seconds,
            ready_seconds=state.ready_seconds,
        )
        self.decisions.append(decision)
        queued = decision.ttft_budget_seconds
        return Choice(candidate=decision.chosen, ttft_budget_seconds=math.inf if queued is None else queued)

    def _catch_up(self, state: EngineState) -> None:
        executed = state.progress.executed(self._steps)
        self._steps += len(executed)
        for load, seconds, factor in _steps(executed):
            self.controller.stepped(load, seconds, factor=factor)
        unfinished: set[int] = set()
        for prompts in (state.partial, state.waiting):
            self._note_left(prompts, unfinished)
        for number in self._left.keys() - unfinished:
            del self._left[number]
            self.controller.computed(number, None)
            self._awaited.add(number)
        for number in sorted(self._awaited):
            first_token = state.progress.first_token_seconds(number)
            if not math.isnan(first_token):
                self._awaited.remove(number)
                self.controller.finished(number, first_token)

    def _note_left(self, prompts: PromptColumns, unfinished: set[int]) -> None:
        numbers, tokens = prompts.number.tolist(), prompts.remaining_tokens.tolist()
        unfinished.update(numbers)
        for place, (number, left) in enumerate(zip(numbers, tokens, strict=True)):
            if self._left.get(number) != left and number in self._left:  # who is preempted after its first token is not
                self._left[number] = left
                work = PrefillWork(
                    tokens=left,
                    context_tokens=int(prompts.context_tokens[place]),
                    factor=float(prompts.prefill_factor[place]),
                )
                self.controller.computed(number, work)


def _steps(executed: ExecutedSteps) -> Sequence[tuple[StepLoad, float, float]]:
    columns = (
        executed.decode_tokens,
        executed.decode_context_tokens,
        executed.prefill_tokens,
        executed.prefill_attention_tokens,
    )
    loads = [
        StepLoad(
            decode_tokens=decodes,
            decode_context_tokens=context,
            prefill_tokens=tokens,
            prefill_attention_tokens=attention,
        )
        for decodes, context, tokens, attention in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return list(zip(loads, executed.seconds.tolist(), executed.prefill_factor.tolist(), strict=True))
