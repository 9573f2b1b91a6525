"""Every code block of the README and the docs runs as it is written, in document order, or says why it does not.

A block that is not run has the line `<!-- not run: reason -->` before it. Models run where one is asked; what `paceline profile`
would measure for minutes is made up (synthetic times), and networks are trained for a few steps.
"""

import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from made_up_answers import made_up

import paceline.measure.hosts
from paceline.cli import main
from paceline.datasets import digit_questions
from paceline.fit.estimator import settings as estimator_settings
from paceline.fit.estimator.settings import EstimatorSettings
from paceline.fit.learned import artifact as learned_artifact
from paceline.fit.learned.settings import GrpoSettings, SupervisedSettings
from paceline.profiles import read_profile, write_core_exp

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "docs").rglob("*.md")
        if "decisions" not in path.relative_to(ROOT).parts
    ),
]
QUICK = EstimatorSettings(hidden_dim=16, num_layers=1, num_epochs=40, batch_size=4096, learning_rate=3e-2)
SHORT = {"num_steps": 20, "round_steps": 10, "batch_size": 32}
REASON = re.compile(r"<!-- not run: (?P<reason>\S.*?) -->")

pytestmark = pytest.mark.filterwarnings("always::paceline.errors.PacelineWarning")


@dataclass(frozen=True)
class Block:
    """One fenced block: where it starts, its language, its text, and why it is not run."""

    document: str
    line: int
    language: str
    text: str
    reason: str | None


def blocks_of(document):
    found, opened = [], None
    lines = (ROOT / document).read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.lstrip().startswith("```"):
            continue
        if opened is None:
            opened = number
            continue
        told = REASON.fullmatch(lines[opened - 2].strip()) if opened > 1 else None
        text = "\n".join(lines[opened : number - 1])
        found.append(Block(document, opened, lines[opened - 1].strip("` "), text, told and told["reason"]))
        opened = None
    assert opened is None, f"{document}: the block at line {opened} has no end"
    return found


BLOCKS = {document: blocks_of(document) for document in DOCUMENTS}


def commands_of(block):
    """Return the command lines of a shell block as lists of words, comments left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_block_is_run_or_says_why():
    assert sum(len(each) for each in BLOCKS.values()) > 15
    for block in (block for each in BLOCKS.values() for block in each):
        where = f"{block.document}, line {block.line}"
        if block.reason is not None:
            continue
        assert block.language in ("", "sh", "bash", "python"), f"{where}: a block of {block.language} cannot be run"
        if block.language != "python":
            for words in commands_of(block):
                assert words[0] == "paceline", f"{where}: {words[0]} is not run here; say why before the block"


@pytest.fixture(scope="module")
def light():
    """The heavy parts made light for all that runs here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paceline.measure.hosts, "answer_measured", made_up)
        patch.setitem(estimator_settings.SETTINGS, "fast", QUICK)
        patch.setattr(learned_artifact, "SupervisedSettings", partial(SupervisedSettings, **SHORT))
        patch.setattr(learned_artifact, "GrpoSettings", partial(GrpoSettings, **SHORT, cloning_steps=5, group_size=4))
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def home(light, tmp_path_factory):
    """A folder with what the documents take for granted: a finished demo, results of another tool, parts of ranks."""
    home = tmp_path_factory.mktemp("docs")
    demo = home / "demo-out"
    run("profile", "digits", "--out", demo / "profile", "--samples", "34")
    run("table", "build", demo / "profile", "--output-file", demo / "table.json", "--latency", "ttft")
    run("estimator", "train", demo / "profile", "--out", demo / "estimator")
    digit_questions("digits_read", split="test", count=1)[0].picture.save(demo / "picture.png")
    shutil.copy(demo / "picture.png", home / "picture.png")
    samples = read_profile(demo / "profile").samples
    names = {"digits_read": "text_vqa", "digits_count": "okvqa", "digits_exist": "doc_qa"}
    renamed = samples.with_columns(dataset=pl.col("dataset").cast(pl.String).replace(names).cast(pl.Categorical))
    write_core_exp(renamed, home / "RESULTS")
    for part, kept in {"part-a": samples.head(500), "part-b": samples.tail(500)}.items():
        kept.write_parquet(home / f"{part}.parquet")
        run("import", home / f"{part}.parquet", "--out", home / part)
    return home


def run(*words):
    arguments = [str(word) for word in words]
    assert main.run(arguments) == 0, shlex.join(arguments)


# what a document takes for granted in the middle of it, by the command that needs it
AHEAD: dict[str, Callable[[], object]] = {
    "paceline evaluate profile --controller controller other-controller": lambda: shutil.copytree(
        "controller", "other-controller"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [name for name in DOCUMENTS if any(block.reason is None for block in BLOCKS[name])]
)
def test_the_blocks_of_a_document_run_in_their_order(document, home, tmp_path, monkeypatch, capsys):
    for name in ("demo-out", "RESULTS", "part-a", "part-b", "picture.png"):
        (tmp_path / name).symlink_to(home / name)
    monkeypatch.chdir(tmp_path)
    for block in BLOCKS[document]:
        if block.reason is not None:
            continue
        if block.language == "python":
            exec(compile(block.text, f"{document}, line {block.line}", "exec"), {"__name__": "__docs__"})
            continue
        for words in commands_of(block):
            AHEAD.get(shlex.join(words), lambda: None)()
            code = main.run(words[1:])
            assert code == 0, f"{document}, line {block.line}: {shlex.join(words)}\n{capsys.readouterr().err}"
