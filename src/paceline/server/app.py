"""The routes: chat completions, models, health, metrics, and the page."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from paceline.errors import RequestRefusedError
from paceline.page.files import PageFile, page_files
from paceline.server.chat_answer import ChatAnswer, Host, asked_of
from paceline.server.chat_request import ChatRequest, question_of_request, read_request
from paceline.wire.report import error_body

ERROR = {"description": "OpenAI's error object.", "content": {"application/json": {"schema": {"type": "object"}}}}
CHAT_ERRORS: dict[int | str, dict[str, Any]] = {
    400: ERROR,
    401: ERROR,
    403: ERROR,
    404: ERROR,
    408: ERROR,
    413: ERROR,
    415: ERROR,
    422: ERROR,
    429: ERROR,
    431: ERROR,
    503: ERROR,
}


def build_app(host: Host) -> FastAPI:
    """Return the application that answers for a host; its page is at `/`."""
    app = FastAPI(title="Paceline", docs_url=None, redoc_url=None, summary="Chat completions under latency budgets.")
    app.add_exception_handler(RequestRefusedError, _refused)
    app.add_exception_handler(HTTPException, _unknown)
    _add_chat(app, host)
    _add_models(app, host)
    _add_state(app, host)
    for path, file in page_files().items():
        app.get(path, include_in_schema=False)(_showing(file))
    return app


def _add_chat(app: FastAPI, host: Host) -> None:
    async def chat(request: Request) -> Response:
        """Answer a chat; with `latency_budget_ms` under the configuration that keeps it, reported in `paceline`."""
        read = read_request(await request.body(), served=host.name)
        question, low = question_of_request(read, host.limits)
        usage = bool(read.stream_options and read.stream_options.include_usage)
        return ChatAnswer(host, asked_of(host, question, request.scope, low=low, stream=bool(read.stream), usage=usage))

    app.post("/v1/chat/completions", responses=CHAT_ERRORS, openapi_extra=_chat_body())(chat)


def _add_models(app: FastAPI, host: Host) -> None:
    card = {"id": host.name, "object": "model", "created": host.created, "owned_by": "paceline"}
    models = [{**card, "max_model_len": host.model.context}]

    async def list_models() -> dict[str, Any]:
        """List the model that is served."""
        return {"object": "list", "data": models}

    async def one_model(name: str) -> dict[str, Any]:
        """Tell of the model that is served."""
        if name != host.name:
            raise RequestRefusedError(f"the model {name[:60]!r} is not served here", status=404, code="model_not_found")
        return models[0]

    app.get("/v1/models", responses={401: ERROR})(list_models)
    app.get("/v1/models/{name:path}", responses={401: ERROR, 404: ERROR})(one_model)


def _add_state(app: FastAPI, host: Host) -> None:
    async def health() -> Response:
        """Tell whether requests are taken: 503 once the server is stopping."""
        engine = host.engine
        told = {"status": "stopping" if engine.draining else "ok", "running": engine.running, "waiting": engine.waiting}
        return JSONResponse(told, status_code=503 if engine.draining else 200)

    async def metrics() -> Response:
        """Return what was answered, decided and promised, as Prometheus reads it."""
        page_text = host.counts.text(running=host.engine.running, waiting=host.engine.waiting)
        return PlainTextResponse(page_text, media_type="text/plain; version=0.0.4")

    app.get("/health", responses={503: ERROR})(health)
    app.get("/metrics")(metrics)


def _showing(file: PageFile) -> Callable[[], Awaitable[Response]]:
    async def show() -> Response:
        return Response(file.content, headers=file.headers)

    return show


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestRefusedError)
    return Response(error_body(error), error.status, headers=error.headers, media_type="application/json")


async def _unknown(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refused = RequestRefusedError(error.detail, status=error.status_code, code="not_found")
    return Response(error_body(refused), error.status_code, headers=error.headers, media_type="application/json")


def _chat_body() -> dict[str, Any]:
    part = {
        "oneOf": [
            {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            },
            {
                "type": "object",
                "required": ["type", "image_url"],
                "properties": {
                    "type": {"const": "image_url"},
                    "image_url": {
                        "type": "object",
                        "required": ["url"],
                        "properties": {
                            "url": {"type": "string", "description": "data:image/png;base64,…"},
                            "detail": {"enum": ["low", "high", "auto"]},
                        },
                    },
                },
            },
        ]
    }
    schema = ChatRequest.model_json_schema()
    options = schema.pop("$defs")["StreamOptions"]
    schema["properties"]["stream_options"] = {"anyOf": [options, {"type": "null"}]}
    content = {"oneOf": [{"type": "string"}, {"type": "array", "items": part}]}
    role = {"enum": ["system", "user", "assistant"]}
    schema["properties"]["messages"]["items"] = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": role, "content": content},
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
