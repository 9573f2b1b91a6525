"""A decided request as the engine takes it: its fields without the budget, with the configuration."""

from dataclasses import dataclass

from paceline.serving.chat import Chat
from paceline.serving.verdict import Verdict
from paceline.wire.body import Fields, raw, value_of
from paceline.wire.budget import BUDGET_FIELDS


@dataclass(frozen=True, slots=True, kw_only=True)
class KnobNames:
    """The names under which an engine takes top_k, active blocks and a budget among a request's extra arguments."""

    top_k: str
    active_blocks: str
    ttft_budget_ms: str


def rewrite(fields: Fields, chat: Chat, verdict: Verdict, names: KnobNames, *, reports: bool) -> None:
    """Turn a request's fields into what the engine takes: the budget out, its configuration in.

    One that gave up its place goes without its budget: an order by deadline then lets those pass that can keep theirs. A stream
    that `reports` ends in a chunk of usage, which carries the report: a caller that asked for neither gets none.
    """
    taken, queued = verdict.taken, verdict.load.ttft_budget_seconds
    for name in BUDGET_FIELDS:
        fields.pop(name, None)
    if chat.plans is None:
        fields.pop("mm_processor_kwargs", None)
    else:
        fields["mm_processor_kwargs"] = raw(dict(chat.plans[taken.config.tier].arguments))
    given = value_of(fields, "vllm_xargs")
    knobs = {
        names.top_k: taken.config.top_k,
        names.active_blocks: taken.config.num_active_blocks,
        names.ttft_budget_ms: None if queued is None else 1e3 * queued,
    }
    extra = {**(given if isinstance(given, dict) else {}), **{k: v for k, v in knobs.items() if v is not None}}
    if extra:
        fields["vllm_xargs"] = raw(extra)
    if reports and value_of(fields, "stream"):
        options = value_of(fields, "stream_options")
        fields["stream_options"] = raw({**(options if isinstance(options, dict) else {}), "include_usage": True})
