"""What was found out in sentences, and what it does not say."""

from collections.abc import Sequence

from paceline.quick.levels import LevelTimes
from paceline.quick.run import QuickResult
from paceline.slo import Proportion

WELL = 0.9  # of its requests a level keeps where it is said to keep the budget
CERTAIN_COUNT = 50  # requests below which the sentence says how few


def sentences_of(result: QuickResult) -> list[str]:
    """Return what the levels say of the budget, most important first."""
    plain = [each for each in result.levels if each.level.detail is None and each.level.budget_ms is None and each.kept]
    plain.sort(key=lambda each: (each.tokens or 0, each.level.side_px or 0))
    said = [_sizes(plain, result.budget_ms)] if plain else []
    for each in result.levels:
        if each.kept is None or each in plain:
            continue
        tokens = "" if each.tokens is None else f", with {each.tokens:,} image tokens in the median"
        asked = "in low detail" if each.level.detail else f"asked for latency_budget_ms {result.budget_ms:g} it"
        if each.level.detail:
            said.append(f"The largest picture {asked}: it keeps {_hundred(each.kept)}{_reach(each.kept)}{tokens}.")
        else:
            said.append(f"On the largest picture, {asked} keeps {_hundred(each.kept)}{_reach(each.kept)}{tokens}.")
    fewest = min((each.kept.count for each in result.levels if each.kept), default=0)
    if fewest < CERTAIN_COUNT:
        said.append(f"That rests on {fewest} requests a level; more --seconds make the intervals narrower.")
    return said


def _sizes(plain: Sequence[LevelTimes], budget_ms: float) -> str:
    head = f"With {budget_ms:g} ms to first token this server keeps"
    well = [each for each in plain if each.kept and each.kept.share >= WELL]
    if not well:
        first = plain[0]
        assert first.kept is not None
        return f"{head} only {_hundred(first.kept)} at {_size(first)}, its smallest{_reach(first.kept)}."
    best = well[-1]
    assert best.kept is not None
    beyond = [each for each in plain[plain.index(best) + 1 :] if each.kept]
    if not beyond:
        return f"{head} {_hundred(best.kept)} even at {_size(best)}, its largest{_reach(best.kept)}."
    worse = beyond[0]
    assert worse.kept is not None
    only = f"at {_size(worse)} only {_of_hundred(worse.kept)}{_reach(worse.kept)}"
    return f"{head} {_hundred(best.kept)} at {_size(best)}{_reach(best.kept)}; {only}."


def _size(times: LevelTimes) -> str:
    side = times.level.side_px
    return f"{side} × {side} pixels" if times.tokens is None else f"{times.tokens:,} image tokens"


def _hundred(kept: Proportion) -> str:
    return f"{_of_hundred(kept)} of 100"


def _of_hundred(kept: Proportion) -> int:
    """Round so that 100 and 0 are said of all and none alone."""
    if kept.successes in (0, kept.count):
        return 100 if kept.successes else 0
    return min(max(round(100 * kept.share), 1), 99)


def _reach(kept: Proportion) -> str:
    interval = kept.interval()
    return f" (95 % interval {100 * interval.low:.0f} to {100 * interval.high:.0f}, n = {kept.count})"


def not_controlled(result: QuickResult) -> list[str]:
    """Return what else may be behind the figures, or is not in them."""
    said = [
        "load: one request was asked at a time; beside others a request waits too",
        "others on this server: if it had any in that minute, they are in these times",
        "the network: times are this client's, from the request's last byte to the first token",
        "caches: no picture was asked about twice, but the question's words were the same each time",
        "your pictures and prompts: these were handwritten digits with one short question",
        "accuracy: no answer was looked at",
        "slow moments: the intervals take requests to be independent of each other",
    ]
    if not result.streams:
        said.insert(0, "first tokens: the server does not stream, so these are times of whole answers of one token")
    if all(each.tokens is None for each in result.levels):
        said.append("image tokens: the server does not tell how many a prompt has")
    return said
