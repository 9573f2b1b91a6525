"""Run by the tests in a process of its own: `paceline profile --engine vllm --certify` on the embedded model.

    python engine_certified.py OUT

Prints the command's JSON document.
"""

import sys

from engine_profile import ENGINE_ARGS

from paceline.cli import main

COMMAND = ["profile", "digits", "--engine", "vllm", "--engine-args", ENGINE_ARGS, "--json", "--warmup", "0"]
ASKED = ["--datasets", "digits_exist", "--certify", "0.3,0.3", "--questions", "64", "--batch-size", "11"]
GRID = ["--tiers", "low", "--top-k", "8", "--blocks", "10", "16", "--max-new-tokens", "6"]

if __name__ == "__main__":
    sys.exit(main.run([*COMMAND, *ASKED, *GRID, "--out", sys.argv[1]]))
