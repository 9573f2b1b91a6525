"""Whatever users, files and models say is printed as it is."""

import io
import logging
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import paceline.cli
from paceline.cli import printing
from paceline.cli.printing import (
    note,
    note_written,
    print_facts,
    print_table,
    progress_bar,
    say,
    visible,
    visible_in_a_table,
    warnings_as_notes,
)

HOSTILE = (
    "[/b]",
    "[bold]",
    "[/]",
    "[link=http://x]y[/link]",
    "a\\[b]",
    ":bug:",
    "\x1b[31mred",
    "\x07\r\x08",
    "\u202egpj.exe",
    "\udcff",
    "%s {0}",
    "\u0301",
    "\U0001f3fb",
    "\u200b",
)
texts = st.sampled_from(HOSTILE) | st.text(max_size=20) | st.from_regex(r"\[/?[a-z#@]{0,4}\]?", fullmatch=True)


def printed(show, *arguments, **options):
    """Return what a function printed on either stream, blanks and line ends taken out."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        show(*arguments, **options)
    return "".join((out.getvalue() + err.getvalue()).split())


def plain(text):
    return "".join(visible(text).split())


def in_a_cell(text):
    return "".join(visible_in_a_table(text).split())


@given(texts)
def test_every_way_to_print_shows_text_as_it_is(text):
    assert printed(say, text) == printed(note, text) == plain(text)
    assert printed(say, text, mark="caution") == printed(note, text, mark="caution")
    assert printed(note_written, Path("x"), kept=text or "none").endswith(plain(text))
    cell = in_a_cell(text)
    assert printed(print_table, "", ["column"], [[text]]).endswith(cell)
    assert cell in printed(print_table, "", [text], [["value"]])
    assert printed(print_table, text, ["column"], [["value"]]).startswith(cell)
    # side by side, lines of long names and values take turns
    assert sorted(printed(print_facts, "", [("name", text)])) == sorted("name" + cell)
    assert sorted(printed(print_facts, "", [(text, "value")])) == sorted(cell + "value")
    assert printed(print_facts, text, [("name", "value")]) == cell + "namevalue"


def test_titles_and_marks_keep_their_place():
    assert printed(print_table, "[/b]", ["[bold]"], [["[/]"], [None]]).startswith("[/b][bold]")
    assert printed(note, "two\nlines", mark="error") == r"error:two\nlines"


@pytest.mark.parametrize("label", HOSTILE)
def test_a_progress_bar_is_called_what_it_is_called(label, monkeypatch):
    monkeypatch.setattr(printing._LOG, "width", 200)

    def show():
        with progress_bar(label) as move:
            move(1, 2)

    assert printed(show).startswith(in_a_cell(label))


def test_what_steers_a_terminal_or_is_not_in_its_encoding_is_an_escape():
    assert visible("a\tb\nc é 数") == "a\tb\nc é 数"
    assert visible("\x1b[0m\x7f\x9b") == r"\x1b[0m\x7f\x9b"
    assert visible("\u202e\u2066\u2028") == r"\u202e\u2066\u2028"
    assert visible("\udcff") == r"\udcff"
    assert visible("± 数", "ascii") == r"\xb1 \u6570"


def test_no_other_module_of_the_command_line_prints_by_itself():
    folder = Path(paceline.cli.__file__).parent
    others = [path for path in folder.rglob("*.py") if path != folder / "printing.py"]
    assert len(others) > 20
    for path in others:
        assert not re.search(r"\brich\b|\b[sp]?echo\b|\bprint\(|\.write\(", path.read_text()), path


def test_what_is_logged_is_printed_as_it_is(capfd):
    logger = logging.getLogger("paceline.profiles.native")
    with warnings_as_notes():
        logger.warning("%s; the journals are read instead", "\x1b]0;owned\x07\nerror: forged")
        try:
            raise ValueError("\x1b[31mred")
        except ValueError:
            logger.exception("request %s failed", "a")
    told = capfd.readouterr().err
    assert "\x1b" not in told and "\x07" not in told
    assert told.startswith("warning: \\x1b]0;owned\\x07\\nerror: forged; the journals are read instead\n")
    assert "request a failed\nTraceback" in told and "ValueError: \\x1b[31mred" in told
    logger.warning("not ours to print any more")
    assert "warning:" not in capfd.readouterr().err
