"""One Hugging Face model in this process behind OpenAI's chat completions, with budgets; needs the extra `server`.

Not here: decisions and what budgets are called in HTTP (`paceline.serving`, `paceline.wire`), and how a model is run
(`paceline.runtime`, `paceline.measure`).
"""

from importlib.util import find_spec

from paceline.errors import MissingExtraError

for _package in ("fastapi", "uvicorn"):
    if find_spec(_package) is None:
        raise MissingExtraError(_package, "server")
