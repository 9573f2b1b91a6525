"""The requests that a server has accepted and not yet finished: what is ahead of the next one. Pure; the clock is an argument.

An engine knows a request once its pictures are prepared; this knows it from the moment it is decided.
"""

from dataclasses import dataclass

from paceline.errors import InvalidValueError
from paceline.records import KnobConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedRequest:
    """One accepted request: when, its tokens, its configuration.

    None where nobody decided: a request without a budget is in the way of others too. `number` counts the accepted from 1.
    """

    number: int
    accepted_seconds: float
    text_tokens: int | None = None
    image_tokens: int | None = None
    config: KnobConfig | None = None


class Ledger:
    """Requests from acceptance to their end, each in it exactly that long; for one thread, such as an event loop's."""

    def __init__(self) -> None:
        self.accepted_count = 0
        self._unfinished: dict[int, AcceptedRequest] = {}
        self._prefilling: dict[int, AcceptedRequest] = {}

    def __len__(self) -> int:
        return len(self._unfinished)

    @property
    def unfinished(self) -> tuple[AcceptedRequest, ...]:
        """All accepted and unfinished requests, the first accepted first."""
        return tuple(self._unfinished.values())

    @property
    def prefilling(self) -> tuple[AcceptedRequest, ...]:
        """Those that have no first token yet, as far as their answers tell."""
        return tuple(self._prefilling.values())

    def accept(
        self,
        now_seconds: float,
        *,
        text_tokens: int | None = None,
        image_tokens: int | None = None,
        config: KnobConfig | None = None,
    ) -> AcceptedRequest:
        """Add a request and return its entry, which `finish` takes out again."""
        self.accepted_count += 1
        entry = AcceptedRequest(
            number=self.accepted_count,
            accepted_seconds=now_seconds,
            text_tokens=text_tokens,
            image_tokens=image_tokens,
            config=config,
        )
        self._unfinished[entry.number] = self._prefilling[entry.number] = entry
        return entry

    def first_token(self, entry: AcceptedRequest) -> None:
        """Note that a request has its first token: it decodes from now on."""
        self._prefilling.pop(entry.number, None)

    def finish(self, entry: AcceptedRequest) -> None:
        """Take a request out, however it ended; raises InvalidValueError for one that is not in it."""
        if self._unfinished.pop(entry.number, None) is None:
            raise InvalidValueError("request", entry.number, "one that was accepted and has not finished")
        self._prefilling.pop(entry.number, None)

    def undisturbed(self, entry: AcceptedRequest) -> bool:
        """Tell whether nobody was accepted after a request."""
        return self.accepted_count == entry.number
