"""One server asked one request after another until it says that its bounds are calibrated."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from paceline.errors import InvalidValueError, RemoteServerError
from paceline.quick.asking import REFUSED_KEY, Answer, Caller
from paceline.warm_up.calibration import Calibration, calibration_of
from paceline.warm_up.requests import WarmUpRequests

HEALTH_PATH = "/health"
HEALTH_SECONDS, BETWEEN_SECONDS = 5.0, 2.0  # that one look may take, and between two while it is not up
LOOK_SECONDS = 5.0  # between two looks at a server that is calibrated
REQUEST_SECONDS = 300.0  # that one request may take: the first of a server may compile
MOST_IN_VAIN = 30  # requests in a row that calibrate nothing; a server leaves its first three out
PASSES = (429,)  # refused now, and maybe not the next time


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUpResult:
    """What came of it: how many requests were asked, how far the server is, and `why_not` in words if it is not calibrated.

    `restarts` counts how often the server lost what it had learned meanwhile.
    """

    server: str
    calibration: Calibration
    asked: int
    restarts: int
    seconds: float
    seed: int
    model: str | None = None
    why_not: str | None = None


class WarmUp:
    """Warms one server up; `clock` is monotonic, in seconds. `on_progress` hears of calibrated requests, of those needed.

    `wait_seconds` are how long a server may take to be up, at first and after it was lost; `seconds` how long it is asked.
    `on_wait` hears once, in words, why a server is waited for.
    """

    def __init__(
        self,
        caller: Caller,
        requests: WarmUpRequests,
        *,
        model: str | None = None,
        wait_seconds: float = 1800.0,
        seconds: float = 1800.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_progress: Callable[[int, int], None] = lambda _done, _total: None,
        on_wait: Callable[[str], None] = lambda _why: None,
    ) -> None:
        for name, value in (("wait-seconds", wait_seconds), ("seconds", seconds)):
            if not 0 <= value <= 86_400:
                raise InvalidValueError(name, value, "a number of seconds from 0 to 86,400")
        self.caller, self.requests, self.model = caller, requests, model
        self.wait_seconds, self.seconds, self.clock, self.sleep = wait_seconds, seconds, clock, sleep
        self.on_progress, self.on_wait = on_progress, on_wait

    def run(self) -> WarmUpResult:
        """Ask until the server is calibrated, the time is over, or requests in a row calibrate nothing.

        Raises RemoteServerError for a server that is not up in time, knows no budgets, or refuses what it is asked, and
        UnknownChoiceError for a model that it has not.
        """
        self._wait_until_up()
        started, found = self.clock(), calibration_of(self.caller)
        asked = restarts = in_vain = 0
        model = why_not = None
        while not found.reached and why_not is None:
            self.on_progress(found.requests, found.needed)
            model = model or self.caller.model(self.model, timeout_seconds=HEALTH_SECONDS)
            answer = self._ask(model)
            asked += 1
            before, found = found, self._calibration()
            restarts += found.requests < before.requests
            in_vain = 0 if found.requests > before.requests else in_vain + 1
            if not found.reached:
                why_not = self._why_not(answer, in_vain, self.clock() - started)
        self.on_progress(min(found.requests, found.needed), found.needed)
        return WarmUpResult(
            server=str(self.caller.address),
            calibration=found,
            asked=asked,
            restarts=restarts,
            seconds=self.clock() - started,
            seed=self.requests.seed,
            model=model,
            why_not=why_not,
        )

    def wait_until_lost(self) -> None:
        """Return once a calibrated server is no longer so: it was started anew, or is not up."""
        try:
            while calibration_of(self.caller).reached:
                self.sleep(LOOK_SECONDS)
        except RemoteServerError:
            return  # what is wrong, the next run says

    def _ask(self, model: str) -> Answer:
        answer = self.caller.ask(self.requests.next_body(model), timeout_seconds=REQUEST_SECONDS)
        if answer.status in REFUSED_KEY:
            raise self.caller.asks_for_key()
        if answer.status is not None and 400 <= answer.status < 500 and answer.status not in PASSES:
            mend = "choose pictures that it takes with --picture, or --text-only for a model without eyes"
            raise RemoteServerError(str(self.caller.address), f"refuses to be warmed up so: {answer.error}", mend=mend)
        return answer

    def _calibration(self) -> Calibration:
        """Return how far the server is, once it is up again if it was lost."""
        try:
            return calibration_of(self.caller)
        except RemoteServerError:
            self._wait_until_up()
            return calibration_of(self.caller)

    def _why_not(self, answer: Answer, in_vain: int, seconds: float) -> str | None:
        if in_vain >= MOST_IN_VAIN:
            why = answer.error or "other requests come in between, or the bounds are of another kind of request"
            told = (answer.report or {}).get("not_promised_because")
            more = f"; of the last one it says: {told}" if told and not answer.error else ""
            return f"{in_vain} requests in a row calibrated nothing: {why}{more}"
        return f"{self.seconds:g} s are over" if seconds > self.seconds else None

    def _wait_until_up(self) -> None:
        began, told = self.clock(), False
        while (problem := self._problem()) is not None:
            if not told:
                self.on_wait(problem)
                told = True
            if self.clock() - began > self.wait_seconds:
                mend = "see its log, correct the address, or give it longer: --wait-seconds"
                raise RemoteServerError(
                    str(self.caller.address), f"is not up after {self.wait_seconds:g} s: {problem}", mend=mend
                )
            self.sleep(BETWEEN_SECONDS)

    def _problem(self) -> str | None:
        try:
            status, _ = self.caller.get(HEALTH_PATH, timeout_seconds=HEALTH_SECONDS)
        except RemoteServerError as error:
            return error.problem
        return None if status == 200 else f"answered {status} to {HEALTH_PATH}"
