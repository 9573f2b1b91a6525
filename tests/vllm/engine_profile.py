"""Run by the tests in a process of its own: `paceline profile --engine vllm` on the embedded model, killed on the way first.

    python engine_profile.py OUT SAMPLES_BEFORE_THE_KILL

Prints the JSON document of the command that goes on. Both processes share what takes longest to load: the killed one is a fork.
"""

import importlib
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


def forked(words, samples):
    """Run the command in a process of its own until it has so many samples; raises SystemExit unless it was killed then."""
    child = os.fork()
    if not child:
        killed_at(samples)
        os._exit(main.run(words))
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        raise SystemExit(f"the first command ended by itself, with {status}")


if __name__ == "__main__":
    for module in ("vllm", "torch", "transformers", "polars"):
        importlib.import_module(module)
    words = [*COMMAND, *SETS, *GRID, "--out", sys.argv[1]]
    forked(words, int(sys.argv[2]))
    sys.exit(main.run(words))
