"""One vLLM engine in a benchmark's own process, one thread of it, on a model of pictures without torchvision."""

import os
import sys
from pathlib import Path

ENGINE = {
    "enforce_eager": True,
    "max_model_len": 512,
    "max_num_batched_tokens": 512,
    "max_num_seqs": 32,
    "block_size": 32,
}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
STAND_IN = Path(__file__).parents[1] / "tests" / "vllm" / "torchvision_standin"


def prepare_process() -> None:
    """Set what torch and vLLM read when they are imported, where it is not set yet; this process's children get it too."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sys.path.insert(0, str(STAND_IN))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(STAND_IN), os.environ.get("PYTHONPATH", "")])
