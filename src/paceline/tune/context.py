"""How many tokens, prompt and answer together, a model takes: known before an engine starts."""

from pathlib import Path
from typing import Any, cast

from paceline.errors import InvalidValueError
from paceline.json_document import parsed_json

# as configurations of unlike families name it; the smallest of several counts
CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")


def context_tokens(model: str, asked: int | None) -> int:
    """Return the context length: the asked one, or what the configuration in a local model folder says.

    Raises InvalidValueError when it is not asked for and cannot be read, as for a hub id.
    """
    if asked is not None:
        if asked < 1:
            raise InvalidValueError("--max-model-len", asked, "at least 1 token")
        return asked
    config = _config(Path(model) / "config.json")
    texts = [config, cast("dict[str, Any]", config.get("text_config") or {})]
    found = [part[key] for part in texts for key in CONTEXT_KEYS if isinstance(part.get(key), int)]
    if not found:
        expected = f"the context length in tokens: {model} is no local folder whose config.json says it"
        raise InvalidValueError("--max-model-len", None, expected)
    return min(found)


def _config(path: Path) -> dict[str, Any]:
    try:
        parsed: object = parsed_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}
