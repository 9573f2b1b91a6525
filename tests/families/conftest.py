import json
from functools import cache
from types import SimpleNamespace

import pytest
from PIL import Image
from tiny_models import save_tiny_model

from paceline.models.families.declared import FAMILIES
from paceline.models.loading import EMBEDDED, SETTINGS_FILE, load_model

CAPS = {"low": 9, "medium": 20, "high": 36}


@pytest.fixture(scope="session")
def loaded(tmp_path_factory, digits):
    """Return a loaded tiny model of a family by its name, built once a session, with caps as small as it is."""

    @cache
    def load(family):
        folder = save_tiny_model(
            family,
            tmp_path_factory.mktemp(family),
            tokenizer=digits.tokenizer,
            qwen_processor=str(EMBEDDED["digits"]),
            embedded_config=digits.parts.model.config,
        )
        (folder / SETTINGS_FILE).write_text(json.dumps({"tier_token_caps": CAPS}))
        return load_model(str(folder), device="cpu")

    return load


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def family(request, loaded):
    model = loaded(request.param)
    picture = Image.effect_noise((160, 120), 80).convert("RGB")
    return SimpleNamespace(name=request.param, model=model, picture=picture, prompt="Read the digits.")
