import sys

import pytest

from paceline.cli.main import main


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line in this process; returns (exit code, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["paceline", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def paceline(command):
    """As `command`, with standard error on one line."""

    def run(*arguments):
        code, out, err = command(*arguments)
        return code, out, " ".join(err.split())

    return run
