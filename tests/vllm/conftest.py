"""Fixtures of the tests against vLLM; without vLLM (the plain environment) none of these tests is collected."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's core and the model in the tests' own process
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def _vllm_is_installed() -> bool:
    for name in ("vllm", "vllm-cpu"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return True
    return False


INSTALLED = _vllm_is_installed()
collect_ignore_glob = [] if INSTALLED else ["test_*.py"]
if INSTALLED:
    sys.path.append(str(BENCHMARKS))  # tiny_llm and scheduler_swap are the benchmarks' too
    os.environ.update(ENVIRONMENT)


def pytest_configure(config):
    # vLLM's own warnings are not ours to mend
    for module in ("vllm", "torch", "transformers", "numba"):
        config.addinivalue_line("filterwarnings", f"ignore:::{module}.*")


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))  # threads of other work may hold the cores


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory) -> Path:
    from tiny_llm import write_tiny_llm

    return write_tiny_llm(tmp_path_factory.mktemp("tiny_llm"), layers=2, hidden=128)
