"""A body of chat completions, checked: what is asked of the model, and what this server does not do."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paceline.errors import InvalidValueError, PictureError, RequestRefusedError
from paceline.models.picture_header import size_of_data_url
from paceline.records import LARGEST_SEED, Sampling
from paceline.server.limits import Limits
from paceline.server.question import Question
from paceline.serving.chat import TEMPLATE_FIELDS, messages_and_pictures
from paceline.wire.cut_body import CutBody

SMALLEST_TEMPERATURE = 1e-3  # below, the most probable token is taken
MOST_STOPS, LONGEST_STOP = 16, 200
LARGEST_MAX_TOKENS = 1_000_000
# what would change an answer and is not done here: refused, never passed over
NOT_DONE: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "logit_bias": (None, {}),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    # of vLLM's and SGLang's servers
    "min_tokens": (None, 0),
    "stop_token_ids": (None, []),
    "bad_words": (None, []),
    "allowed_token_ids": (None,),
    "include_stop_str_in_output": (None, False),
    "skip_special_tokens": (None, True),
    "use_beam_search": (None, False),
    "length_penalty": (None, 1),
    "prompt_logprobs": (None,),
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "regex": (None,),
    "ebnf": (None,),
    "continue_final_message": (None, False),
    "add_generation_prompt": (None, True),
    "echo": (None, False),
}


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(extra="allow")
    include_usage: bool | None = None


class ChatRequest(BaseModel):
    """The fields of OpenAI's chat completions that are read here, and the budget; others are passed over."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    model: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_tokens: Annotated[int | None, Field(ge=1, le=LARGEST_MAX_TOKENS)] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=LARGEST_MAX_TOKENS)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    seed: Annotated[int | None, Field(ge=0, le=LARGEST_SEED)] = None
    stop: str | list[str] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    latency_budget_ms: Annotated[float | None, Field(gt=0, le=3_600_000)] = None
    latency_budget_kind: str | None = None
    on_infeasible: str | None = None


def read_request(body: bytes, *, served: str) -> ChatRequest:
    """Return a body's fields; raises RequestRefusedError (400, or 404 for another model) for what is not answered here."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place or 'the body'}: {first['msg']}"
        raise RequestRefusedError(said, param=place or None) from error
    if request.model not in (None, "", served):
        raise RequestRefusedError(
            f"the model {_short(request.model)} is not served here; expected {served!r}",
            status=404,
            code="model_not_found",
            param="model",
        )
    _require_done(request)
    return request


def question_of_request(request: ChatRequest, limits: Limits) -> tuple[Question, bool]:
    """Return what is asked of the model, and whether every picture is wanted in the smallest tier.

    Raises RequestRefusedError (400, 413 or 415) for what is no chat and for pictures beyond the limits.
    """
    messages, pictures = messages_and_pictures(request.messages, CutBody(text=b""))  # as they came
    if not all(isinstance(message.get("role"), str) for message in messages):
        raise RequestRefusedError("a message has no role; expected system, user or assistant", param="messages")
    _check_pictures([url for url, _ in pictures], limits)
    arguments = dict(request.chat_template_kwargs or {})
    arguments |= {name: value for name in TEMPLATE_FIELDS if (value := (request.model_extra or {}).get(name))}
    question = Question(
        messages=tuple(messages),
        pictures=tuple(url for url, _ in pictures),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        stops=_stops(request.stop),
        to_the_last=bool(request.ignore_eos),
        sampling=_sampling(request),
        template_arguments=arguments,
    )
    return question, bool(pictures) and all(detail == "low" for _, detail in pictures)


def _require_done(request: ChatRequest) -> None:
    for name, harmless in NOT_DONE.items():
        value = (request.model_extra or {}).get(name)
        if name == "min_tokens" and request.ignore_eos:  # no end token ends it before its last one anyway
            continue
        if value not in harmless:
            raise RequestRefusedError(
                f"{name} is {_short(value)}, which this server does not do; leave it out",
                code="unsupported_value",
                param=name,
            )


def _check_pictures(urls: Sequence[str], limits: Limits) -> None:
    if len(urls) > limits.pictures:
        message = f"the request holds {len(urls)} pictures; expected {limits.pictures} at most"
        raise RequestRefusedError(message, status=413, code="too_many_images", param="messages")
    pixels = 0
    for url in urls:
        try:
            size = size_of_data_url(url)
        except PictureError as error:
            raise RequestRefusedError(str(error), status=415, code="unsupported_image", param="messages") from error
        pixels += size.width * size.height
    if pixels > limits.pixels:
        raise RequestRefusedError(
            f"the pictures have {pixels:,} pixels together; expected {limits.pixels:,} at most: scale them down first, the "
            "largest tier looks at far fewer",
            status=413,
            code="image_too_large",
            param="messages",
        )


def _stops(given: str | list[str] | None) -> tuple[str, ...]:
    stops = () if given is None else (given,) if isinstance(given, str) else tuple(given)
    if len(stops) > MOST_STOPS or any(not 0 < len(stop) <= LONGEST_STOP for stop in stops):
        raise RequestRefusedError(
            f"stop: expected at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} letters", param="stop"
        )
    return stops


def _sampling(request: ChatRequest) -> Sampling | None:
    """Return how tokens are drawn; None, the most probable, unless a temperature or a nucleus is asked for."""
    if request.temperature is not None and request.temperature < SMALLEST_TEMPERATURE:
        return None
    if request.temperature is None and request.top_p in (None, 1):
        return None
    try:
        return Sampling(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
        )
    except InvalidValueError as error:
        raise RequestRefusedError(str(error), param=error.name) from error


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
