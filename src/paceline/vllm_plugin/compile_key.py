"""Paceline's settings stay out of vLLM's compile-cache key: none of them touches a graph, so none compiles one anew.

vLLM calls `leave_settings_out` in each of its processes before a model is compiled: it is an entry point of the group
`vllm.general_plugins`. The module imports little, as it is loaded wherever vLLM and Paceline are installed together.
"""

# pyright: reportMissingImports=false
import copy
from functools import wraps
from typing import Any, cast

from paceline.errors import MissingExtraError

try:
    import vllm.config
except ModuleNotFoundError as error:
    if error.name not in ("vllm", "vllm.config"):
        raise
    raise MissingExtraError("vllm", "vllm") from error

SECTION = "paceline"
VllmConfig: Any = vllm.config.VllmConfig


def leave_settings_out() -> None:
    """Let `VllmConfig.compute_hash` see additional_config without Paceline's section; to call it again changes nothing.

    Every other key of additional_config counts as before, and what vLLM computes of a configuration without the section is
    vLLM's own.
    """
    original = VllmConfig.compute_hash
    if getattr(original, "leaves_out", None) == SECTION:
        return

    @wraps(original)
    def compute_hash(config: Any) -> str:
        return original(_without_settings(config))

    compute_hash.leaves_out = SECTION  # pyright: ignore[reportAttributeAccessIssue]
    VllmConfig.compute_hash = compute_hash


def _without_settings(config: Any) -> Any:
    given = getattr(config, "additional_config", None)
    if not isinstance(given, dict) or SECTION not in given:
        return config
    cells = cast("dict[str, Any]", given)
    copied = copy.copy(config)
    # not by assignment, which may validate
    vars(copied)["additional_config"] = {key: value for key, value in cells.items() if key != SECTION}
    return copied
