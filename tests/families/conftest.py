import copy
import json
from functools import cache
from types import SimpleNamespace

import pytest
from PIL import Image
from tiny_models import MARKERS, TINY, save_tiny_model, trusted

from paceline.measure.cache_check import cached_against_uncached
from paceline.models.families.choosing import is_in_reach
from paceline.models.families.declared import FAMILIES
from paceline.models.loading import SETTINGS_FILE, load_model

PROMPT = "Read the digits."


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, digits):
    """Return the folder of a tiny model by its name in TINY, built once a session, with caps as small as it is."""
    tokenizer = copy.deepcopy(digits.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})

    @cache
    def build(name):
        folder = save_tiny_model(name, tmp_path_factory.mktemp("tiny"), tokenizer=copy.deepcopy(tokenizer))
        settings = {"tier_token_caps": TINY[name].caps, "block_ranking": [5, 4, 1]}
        (folder / SETTINGS_FILE).write_text(json.dumps(settings))
        return folder

    return build


IN_REACH = sorted(name for name in TINY if is_in_reach(FAMILIES[name.split(" ")[0]]))


@pytest.fixture(scope="session", params=IN_REACH)
def family(request, tiny_folder):
    """A tiny model, a request at its smallest tier, and what the model's own cache differs by while nothing is skipped."""
    folder = tiny_folder(request.param)
    model = load_model(str(folder), device="cpu", trust_remote_code=trusted(folder))
    picture = Image.effect_noise((160, 120), 80).convert("RGB")
    small = model.prepare(picture, PROMPT, model.tiers[0])
    own = cached_against_uncached(model.parts, small, skipped=frozenset())
    return SimpleNamespace(
        name=request.param, folder=folder, model=model, picture=picture, prompt=PROMPT, request=small, own=own
    )
