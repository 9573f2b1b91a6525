"""`paceline doctor`: what is installed, what this machine is like, and what will not work."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from paceline.cli.printing import JsonFlag, print_facts, print_json, print_table, progress_bar, say
from paceline.doctor import NOISE_SECONDS, Diagnosis, MachineNoise, diagnose


def doctor(
    seconds: Annotated[
        float, typer.Option(help="How long the machine's noise is looked at; 0 leaves it out.", min=0, max=3600)
    ] = NOISE_SECONDS,
    as_json: JsonFlag = False,
) -> None:
    """Show what is installed, device, threads, this machine's noise, and what will not work; exit code 1 when nothing will."""
    with progress_bar("looking at the machine") as progress:
        found = diagnose(noise_seconds=seconds, on_progress=progress)
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    if not found.works:
        raise typer.Exit(1)


def _document(found: Diagnosis) -> dict[str, Any]:
    return {
        **asdict(found),
        "works": found.works,
        "packages": [{**asdict(each), "fits": each.fits} for each in found.packages],
        "noise": None if found.noise is None else {**asdict(found.noise), "verdict": found.noise.verdict},
    }


def _print(found: Diagnosis) -> None:
    threads = found.threads
    load = "" if threads.load is None else f", load {threads.load:.1f}"
    facts = [
        *found.versions.items(),
        *([("commit", found.commit)] if found.commit else []),
        ("device", found.device),
        (
            "threads",
            f"{threads.torch_threads} on {threads.cores} cores{load}, waiting {threads.wait_policy or 'as they come'}",
        ),
        *([] if found.noise is None else [("noise", _noise_words(found.noise))]),
    ]
    print_facts("This machine", facts)
    print_table(
        "Packages",
        ("package", "for", "asked", "here", "fits"),
        [
            (each.name, each.extra or "always", each.required or "any", each.installed, "yes" if each.fits else "no")
            for each in found.packages
        ],
    )
    for each in found.problems:
        say(each, mark="caution")
    if not found.problems:
        say("nothing is missing")


def _noise_words(noise: MachineNoise) -> str:
    return (
        f"{noise.verdict}: {noise.runs:,} runs of one piece of work in {noise.seconds:.0f} s, median {noise.median_ms:.2f} ms, "
        f"95th percentile {noise.p95_ratio:.2f} times that, slowest {noise.worst_ratio:.1f} times; the last third took "
        f"{noise.speed_change:.2f} times the first"
    )


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("doctor")(doctor)
