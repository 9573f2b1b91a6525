"""The `paceline` command: loads the command asked for and turns errors into sentences and exit codes.

Only the module of the command asked for is imported: `paceline budgets` need not wait for torch.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from paceline import __version__
from paceline.cli.printing import note, print_raw, warnings_as_notes
from paceline.errors import PacelineError

COMMANDS = {  # name: (module, first line of its help)
    "demo": (
        "demo",
        "Profile the embedded model, learn what each setting costs and answer held-out questions under five budgets.",
    ),
    "profile": ("profile", "Measure every stage of generate(), and the accuracy, under every configuration of a grid."),
    "datasets": ("datasets", "List the question sets, and show how one of them is asked."),
    "verify": (
        "verify",
        "Check knobs, key-value cache, restoration and stage times; exit code 1 when one fails.",
    ),
    "models": (
        "models",
        "List the families of models: how a tier acts, their limits, and those refused with the reason.",
    ),
    "budgets": ("budgets", "Show percentiles, accuracy-latency fronts and recommended budgets of a profile."),
    "accuracy": (
        "accuracy",
        "Show a profile's accuracies by type of question, and configurations compared on the same questions.",
    ),
    "report": (
        "report",
        "Write fronts, decisions, stages, distributions and knob effects of a profile as one HTML page.",
    ),
    "dashboard": (
        "dashboard",
        "Open the report of a profile or a controller, or the live page before a server, until Ctrl-C.",
    ),
    "alerts": ("alerts", "Write Prometheus's alert rules and a Grafana dashboard for servers with budgets."),
    "quick": (
        "quick",
        "Judge any server with OpenAI's interface: which share of requests keeps a budget, at which picture sizes.",
    ),
    "warm-up": (
        "warm_up",
        "Ask a server with budgets until its bounds are calibrated; exit code 1 when it is not.",
    ),
    "table": ("table", "Build and show lookup tables."),
    "estimator": ("estimator.commands", "Train, judge and ask latency estimators."),
    "controller": ("controller.commands", "Train and judge learned controllers."),
    "evaluate": (
        "evaluate.command",
        "Judge tables, estimator, bound, learned controllers and oracle on held-out samples at every budget.",
    ),
    "tune": ("tune.commands", "Replay loads against vLLM and choose scheduler parameters from the runs."),
    "simulate": (
        "simulate.command",
        "Serve a trace, or a synthetic load, in virtual time: no engine runs and no clock is read.",
    ),
    "vllm": ("vllm", "Serve with vLLM under latency budgets: print the command, and run it."),
    "serve": (
        "serve",
        "Serve a model over HTTP under latency budgets: OpenAI's chat completions, one request at a time.",
    ),
    "plan": (
        "plan",
        "Find the fewest engines that keep a promise at an accuracy, by controller and router, in virtual time.",
    ),
    "run": (
        "run",
        "Answer one question about one picture under the most accurate configuration that keeps the budget.",
    ),
    "doctor": (
        "doctor",
        "Show what is installed, device, threads, this machine's noise, and what will not work; exit code 1 when nothing will.",
    ),
    "completion": (
        "completion",
        'Print what makes a shell complete commands and flags: eval "$(paceline completion bash)".',
    ),
    "import": ("interchange", "Copy a core-exp directory into a native profile store."),
    "export": ("interchange", "Write a profile as a core-exp directory, one JSON file a dataset and configuration."),
    "merge": (
        "interchange",
        "Join the parts of several ranks or machines into one store; conflicting samples are refused.",
    ),
}

COMPLETING = "_PACELINE_COMPLETE"  # set by a shell that asks for completions


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """Return the command line with the command asked for, or with every name and help line when none is."""
    app = typer.Typer(
        name="paceline",
        help="Run (multimodal) LLMs to a latency budget.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_line)  # keeps a single command a command, not the whole line
    asked = arguments[0] if arguments else ""
    if asked in COMMANDS:
        import_module(f"paceline.cli.{COMMANDS[asked][0]}").register(app)
    else:
        for name, (_module, line) in COMMANDS.items():
            app.command(name, help=line)(_no_options)
    return app


def _no_options() -> None:
    """Do nothing: a command that is only listed."""


def _print_version(asked: bool) -> None:
    if asked:
        print_raw(f"paceline {__version__}\n")
        raise typer.Exit


def _line(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Do nothing: what stands before a command is the version's option alone, which has answered."""


def words_being_completed() -> list[str]:
    """Return the words of the line that a shell completes, ours left out; none where no shell asks."""
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split()[1:]


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0 when done, 2 for the user's mistake, 1 for ours.

    A mistake of the user's is told in one sentence on standard error.
    """
    with warnings_as_notes():
        try:
            return app_for(arguments)(args=list(arguments), prog_name="paceline", standalone_mode=False) or 0
        except PacelineError as error:
            note(str(error), mark="error")
            return 2
        except OSError as error:
            if error.filename is None:
                raise
            reason = f"{error.filename}: {error.strerror}"
            note(f"{reason}; check the path, its permissions and the room on the disk", mark="error")
            return 2
        except MemoryError:
            note(
                "there is not enough memory for this; give the process more, or it less (fewer data sets)", mark="error"
            )
            return 2
        except Exception as error:
            # typer keeps its copy of click to itself: an error in the usage is known by what it can say
            if not (hasattr(error, "format_message") and hasattr(error, "ctx")):
                raise
            return _usage_error(error)


def _usage_error(error: Any) -> int:
    message = error.format_message()
    if message:  # there is none where the help was printed instead
        command = "paceline" if error.ctx is None else error.ctx.command_path
        note(f"{message.rstrip('.')}; `{command} --help` says what it takes", mark="error")
    return error.exit_code


def main() -> None:
    """Run the command line of this process, or complete one for a shell."""
    arguments = sys.argv[1:]
    if COMPLETING in os.environ:
        import_module("typer.completion").completion_init()
        arguments = words_being_completed()
    if arguments[:1] == ["demo"]:
        # before torch is loaded. The embedded model is small: one thread is as good as two, and waits for no other that
        # is held up on a busy machine; where several are asked for, those that wait sleep and leave the cores to others
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
