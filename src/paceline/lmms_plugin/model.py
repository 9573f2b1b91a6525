"""The model class that lmms-eval builds and asks. Known to work with lmms-eval 0.7.3."""

import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import (  # pyright: ignore[reportMissingImports]
    GenerationResult,  # pyright: ignore[reportUnknownVariableType]
    TokenCounts,  # pyright: ignore[reportUnknownVariableType]
)
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
from lmms_eval.models.model_utils.gen_metrics import (  # pyright: ignore[reportMissingImports]
    log_metrics,  # pyright: ignore[reportUnknownVariableType]
)

from paceline.errors import InvalidValueError, PacelineWarning
from paceline.lmms_plugin.chat import ChatRequest, chat_request, cut_at
from paceline.lmms_plugin.figures import request_record, run_figures
from paceline.runtime import AdaptiveAnswer, AdaptiveModel

CACHE_FLAG = "--use_cache"


class BudgetedChat(lmms):  # pyright: ignore[reportUntypedBaseClass]
    """A model under a controller, every request within `budget_ms` of the controller's latency kind.

    Requests are answered one at a time, after the configurations that the budget leads to were run on the first one.
    `records` is a file for one JSON line a request; without it only the summary is kept. `trust_remote_code` is the commit whose
    code may run, as for `load_model`. Caches of answers are refused, for an answer that was not given again was not given in
    time.
    """

    is_simple = False

    def __init__(
        self,
        *,
        pretrained: str,
        controller: str,
        budget_ms: float,
        records: str | None = None,
        strict: bool = False,
        revision: str | None = None,
        trust_remote_code: str | None = None,
        device_map: str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        # a cache of answers stands between the harness and the model, which sees it in the command line alone
        if any(word.partition("=")[0] == CACHE_FLAG for word in sys.argv):
            raise InvalidValueError(CACHE_FLAG, "given", "no cache: what is not run keeps no budget")
        if str(batch_size) != "1" or max_batch_size not in (None, 1):
            raise InvalidValueError("batch_size", batch_size, "1: a promise is made to one request at a time")
        self.adaptive = AdaptiveModel.from_pretrained(
            pretrained,
            controller=controller,
            device=device,
            dtype=dtype,
            revision=revision,
            trust_remote_code=None if trust_remote_code is None else str(trust_remote_code),
            device_map=device_map,
            strict=strict,
        )
        self.budget_ms, self.strict = float(budget_ms), strict
        self.records = None if records is None else Path(records)
        self._warm = False

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests in their order, and log adherence and what else the run says of the budget."""
        started, answers, lines, found = time.perf_counter(), list[AdaptiveAnswer](), list[str](), list[Any]()
        for request in requests:
            _context, doc_to_messages, settings, doc_id, task, split = request.args
            messages = doc_to_messages(self.task_dict[task][split][doc_id])
            asked = chat_request(messages, settings, name=f"document {doc_id} of {task}")
            answer = self._answer(asked)
            answers.append(answer)
            lines.append(json.dumps(request_record(task, doc_id, answer)))
            counts = TokenCounts(output_tokens=answer.times.output_tokens)
            found.append(GenerationResult(text=cut_at(answer.text, asked.until), token_counts=counts))
        if answers:
            self._report(answers, lines, time.perf_counter() - started)
        return found

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Refuse: a latency budget is of answers, not of given texts."""
        raise NotImplementedError(f"{len(requests)} requests for likelihoods: Paceline answers, it does not rate texts")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[Any]:
        """Refuse: a budget is of one answer."""
        raise NotImplementedError(f"{len(requests)} requests of several rounds: Paceline answers one prompt at a time")

    def _answer(self, asked: ChatRequest) -> AdaptiveAnswer:
        if not self._warm:
            self.adaptive.warm_up(**asked.asked, latency_budgets_ms=[self.budget_ms])
            self._warm = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PacelineWarning)  # what nothing fits is counted: `promised`
            return self.adaptive.generate(
                **asked.asked,
                latency_budget_ms=self.budget_ms,
                strict=self.strict,
                max_new_tokens=asked.max_new_tokens,
            )

    def _report(self, answers: Sequence[AdaptiveAnswer], lines: Sequence[str], seconds: float) -> None:
        tokens = sum(each.times.output_tokens for each in answers)
        log_metrics(
            total_elapsed_time=seconds,
            total_gen_tokens=tokens,
            avg_speed=tokens / seconds,
            additional_metrics=run_figures(answers),
        )
        if self.records is not None:
            with self.records.open("a") as file:
                file.writelines(f"{line}\n" for line in lines)
