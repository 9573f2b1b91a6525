"""A server over one model and its controller, from its parts to the last answer."""

import asyncio
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from paceline.control.controller import Controller
from paceline.control.estimated import DEFAULT_ALPHA
from paceline.errors import InvalidValueError, PacelineWarning
from paceline.estimate.bounds import require_alpha
from paceline.models.loading import VisionLanguageModel, load_model
from paceline.models.request_plans import plans_of_model
from paceline.runtime import AdaptiveModel, require_same_model
from paceline.schedule.load_control import LoadController, LoadSettings
from paceline.schedule.server_load import MILLISECONDS, ServerLoad
from paceline.schedule.settings import PlannerSettings
from paceline.server.app import build_app
from paceline.server.chat_answer import Host
from paceline.server.counts import Counts
from paceline.server.engine import Engine
from paceline.server.fetched_pictures import FetchedPictures
from paceline.server.fetching import Fetcher, allowed_prefix
from paceline.server.gate import App, Finished, Gate, Scope, Visit, digest_of
from paceline.server.limits import Limits
from paceline.server.local_model import LocalModel
from paceline.server.protocol import uvicorn_settings
from paceline.server.question import AnswersQuestions
from paceline.server.request_log import RequestLog
from paceline.serving.chat import Sizes
from paceline.serving.controllers import served_controllers
from paceline.serving.desk import Desk
from paceline.serving.middleware import BudgetMiddleware
from paceline.serving.pricing import largest_ms, price_settings
from paceline.serving.rewriting import KnobNames

if TYPE_CHECKING:
    from paceline.server.spans import ChatSpans

NAMES = KnobNames(
    top_k="paceline_top_k", active_blocks="paceline_active_blocks", ttft_budget_ms="paceline_ttft_budget_ms"
)
SHORTEST_KEY = 16  # letters


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a server is told beside its model and controllers; `name` is what clients call the model, pictures are fetched from
    `allowed_urls` and what begins with them alone."""

    name: str
    alpha: float = DEFAULT_ALPHA
    default_budget_ms: float | None = None
    policy: str = "edf"
    keys: tuple[str, ...] = ()
    allowed_urls: tuple[str, ...] = ()
    log_prompts: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatServer:
    """A server's parts: `app` is what answers, `engine` what is told to stop."""

    app: Gate
    engine: Engine
    desk: Desk
    host: Host
    limits: Limits


def load_served(
    name: str,
    controller: Path,
    *,
    alpha: float = DEFAULT_ALPHA,
    certified_only: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: str | None = None,
    template_arguments: Mapping[str, object] | None = None,
) -> tuple[VisionLanguageModel, dict[str, Controller]]:
    """Load a model with the controllers of its budgets; raises what `load_model` and `load_controller` raise, and TableError
    for a controller of another model."""
    require_alpha(alpha)
    controllers = served_controllers(controller, alpha=alpha, tell=_warn, certified_only=certified_only)
    require_same_model(name, next(iter(controllers.values())))
    model = load_model(
        name,
        device=device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        template_arguments=template_arguments,
    )
    return model, controllers


def build_server(
    model: VisionLanguageModel,
    controllers: Mapping[str, Controller],
    settings: ServerSettings,
    *,
    log: Callable[[str], object] = sys.stdout.write,
    spans: Finished | None = None,
) -> ChatServer:
    """Put a server together; `log` takes one line a request, `spans` each request that has ended.

    Warns of a controller that was measured elsewhere.
    """
    ranking = AdaptiveModel(model=model, controller=next(iter(controllers.values()))).block_ranking
    answering, sizes = LocalModel(model, ranking), plans_of_model(model)
    return server_over(answering, sizes, controllers, settings, log=log, spans=spans)


def server_over(
    model: AnswersQuestions,
    sizes: Sizes,
    controllers: Mapping[str, Controller],
    settings: ServerSettings,
    *,
    log: Callable[[str], object],
    spans: Finished | None = None,
    clock: Callable[[], float] = time.perf_counter,
    wall: Callable[[], float] = time.time,
) -> ChatServer:
    """Put a server together over whatever answers; `clock` is monotonic and `wall` the time of day, both in seconds."""
    limits, first = settings.limits, next(iter(controllers.values()))
    engine = Engine(policy=settings.policy, most_waiting=limits.waiting)
    host = Host(
        name=settings.name,
        model=model,
        engine=engine,
        counts=Counts(),
        limits=limits,
        created=int(wall()),
        clock=clock,
        wall=wall,
    )
    desk = Desk(
        controllers=controllers,
        sizes=sizes,
        alpha=settings.alpha,
        default_budget_ms=settings.default_budget_ms,
        names=NAMES,
        line=one_at_a_time(settings.policy, alpha=settings.alpha, t0_seconds=largest_ms(first, sizes) / 1e3),
        most_pictures=limits.pictures,
        too_many_status=413,
        after_seconds=lambda: host.counts.mean_decode_ms / 1e3,
    )
    budgeted = BudgetMiddleware(build_app(host), desk, clock=clock, wall=wall)
    gate = Gate(
        _fetching(budgeted, settings, clock),
        engine,
        limits=limits,
        keys=map(digest_of, settings.keys),
        finished=_all(RequestLog(log, prompts=settings.log_prompts), *([] if spans is None else [spans])),
        clock=clock,
        wall=wall,
    )
    return ChatServer(app=gate, engine=engine, desk=desk, host=host, limits=limits)


def spans_to(endpoint: str, *, model: str) -> "ChatSpans":
    """Return what sends each chat's spans to a collector; raises MissingExtraError without the extra `otel`."""
    from paceline.server.spans import ChatSpans, exporter_to  # an extra of its own, which most servers do without

    return ChatSpans(exporter_to(endpoint), model=model)


def _fetching(app: App, settings: ServerSettings, clock: Callable[[], float]) -> App:
    """Return an application behind what fetches the pictures that may be; itself where none may."""
    prefixes, limits = [allowed_prefix(each) for each in settings.allowed_urls], settings.limits
    if not prefixes:
        return app
    return FetchedPictures(app, Fetcher(prefixes, most_bytes=limits.body_bytes), limits, clock=clock)


def _all(*each: Finished) -> Finished:
    def finished(scope: Scope, visit: Visit) -> None:
        for tell in each:
            tell(scope, visit)

    return finished


def one_at_a_time(policy: str, *, alpha: float, t0_seconds: float) -> ServerLoad:
    """Return the line of a server that answers one request after the other in the order of a policy.

    `t0_seconds` is what its largest configuration takes alone.
    """
    settings = LoadSettings(alpha=alpha, price=price_settings(t0_seconds))
    controller = LoadController(settings, PlannerSettings(chunk_size=1, policy=policy), MILLISECONDS)
    return ServerLoad(controller, takes_turns=True)


def read_keys(path: Path) -> tuple[str, ...]:
    """Return the keys in a file, one a line; raises InvalidValueError for a file without any and for one that is guessed."""
    keys = tuple(line.strip() for line in path.read_text().splitlines() if line.strip() and line[0] != "#")
    if not keys:
        raise InvalidValueError("--api-key-file", str(path), "a file with a key on each line")
    if any(len(key) < SHORTEST_KEY for key in keys):
        raise InvalidValueError("--api-key-file", str(path), f"keys of at least {SHORTEST_KEY} letters")
    return keys


class Server(uvicorn.Server):
    """uvicorn, which hands back what waits as soon as it is told to stop, and ends with the answer that runs."""

    def __init__(self, served: ChatServer, *, host: str, port: int) -> None:
        settings = uvicorn_settings(served.limits)
        super().__init__(uvicorn.Config(served.app, host=host, port=port, lifespan="off", backlog=2048, **settings))
        self.served = served
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Stop: what waits is handed back at once, what runs has the grace of the limits; from the server's own loop."""
        if self.should_exit:
            self.served.engine.stop()  # told twice
        self.should_exit = True
        self.served.engine.drain()
        if self._loop is not None:
            self._loop.call_later(self.served.limits.grace_seconds, self.served.engine.stop)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Stop on SIGTERM and SIGINT, where this is the main thread."""
        self._loop = asyncio.get_running_loop()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        for each in signals:
            self._loop.add_signal_handler(each, self.stop)
        try:
            yield
        finally:
            for each in signals:
                self._loop.remove_signal_handler(each)


def serve(served: ChatServer, *, host: str, port: int, on_listening: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT; `on_listening` is told the port once requests are taken."""
    _raise_file_limit(2 * served.limits.connections)
    server = Server(served, host=host, port=port)
    asyncio.run(_serving(server, on_listening))
    served.engine.close()


async def _serving(server: Server, on_listening: Callable[[int], None]) -> None:
    config = server.config
    config.load()
    listening = await asyncio.get_running_loop().run_in_executor(None, config.bind_socket)
    listening.listen(config.backlog)  # who is told the port may connect: it is taken once the loop runs
    on_listening(listening.getsockname()[1])
    await server.serve(sockets=[listening])


def _warn(said: str) -> None:
    warnings.warn(said, PacelineWarning, stacklevel=2)


def _raise_file_limit(wanted: int) -> None:
    """Let this process hold so many connections, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
