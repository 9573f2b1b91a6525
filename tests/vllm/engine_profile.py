"""Run by the tests in a process of its own: `paceline profile --engine vllm` on the embedded model, killed on the way or not.

    python engine_profile.py OUT [SAMPLES_BEFORE_THE_KILL]

Prints the command's JSON document.
"""

import os
import signal
import sys

from paceline.cli import main, profile

ENGINE_ARGS = (
    '{"enforce_eager": true, "max_model_len": 256, "max_num_seqs": 16, "max_num_batched_tokens": 256, "block_size": 32}'
)
COMMAND = ["profile", "digits", "--engine", "vllm", "--engine-args", ENGINE_ARGS, "--json", "--warmup", "1"]
SETS = ["--datasets", "digits_read", "digits_exist", "--samples", "11", "--max-new-tokens", "6"]
GRID = ["--tiers", "low", "high", "--top-k", "2", "8", "--blocks", "16"]


def killed_at(samples):
    """Let the progress of the sweep end this process, as kill -9 would."""
    run_profile = profile.run_profile

    def killed(*args, **kwargs):
        kwargs["on_progress"] = lambda done, _total: done == samples and os.kill(os.getpid(), signal.SIGKILL)
        return run_profile(*args, **kwargs)

    profile.run_profile = killed


if __name__ == "__main__":
    if len(sys.argv) > 2:
        killed_at(int(sys.argv[2]))
    sys.exit(main.run([*COMMAND, *SETS, *GRID, "--out", sys.argv[1]]))
