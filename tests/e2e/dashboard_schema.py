"""Whether Grafana's own schema knows every field of a dashboard: python tests/e2e/dashboard_schema.py FILE (make lint-deploy).

Grafana generates the types of its SDK from the schema of its dashboards: what they read and write again without loss is in it.
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(given, kept, place=""):
    """Give the places whose value is not kept."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from lost(value, kept.get(name), f"{place}.{name}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")
    elif given != kept:
        yield f"{place[1:]}: {json.dumps(given)[:100]} is not in Grafana's schema (read as {json.dumps(kept)[:100]})"


if __name__ == "__main__":
    plugins.register_default_plugins()
    document = json.loads(Path(sys.argv[1]).read_text())
    sys.exit("\n".join(lost(document, json.loads(JSONEncoder().encode(Dashboard.from_json(document))))) or 0)
