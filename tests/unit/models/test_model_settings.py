import json
from pathlib import Path

import pytest

from paceline.errors import InvalidValueError, ModelError
from paceline.models.knobs import skipped_blocks
from paceline.models.loading import load_model
from paceline.models.model_settings import SETTINGS_FILE, ModelSettings, read_model_settings
from paceline.records import block_ranking


def test_a_folder_without_settings_says_nothing(tmp_path: Path) -> None:
    assert read_model_settings(tmp_path) == ModelSettings()


def test_settings_are_read(tmp_path: Path) -> None:
    caps = {"low": 1, "medium": 2, "high": 2}
    written = {"tier_token_caps": caps, "block_ranking": [3, 1], "default_top_ks": [1, 2], "training": None}
    (tmp_path / SETTINGS_FILE).write_text(json.dumps(written))
    settings = read_model_settings(tmp_path)
    assert settings.tier_token_caps == caps and settings.block_ranking == (3, 1) and settings.default_top_ks == (1, 2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[1]", "the document is"),
        ("{", "paceline.json: "),
        ("[" * 100_000, "nested too deeply"),
        ('{"block_ranking": null}', "block_ranking is None"),
        ('{"block_ranking": [3, 3, 3, 5]}', "none twice"),
        ('{"block_ranking": [0, 1]}', "from 1"),
        ('{"block_ranking": [true]}', "block_ranking is"),
        ('{"block_ranking": "123"}', "block_ranking is"),
        ('{"default_top_ks": []}', "default_top_ks is"),
        ('{"default_top_ks": [1, 1]}', "default_top_ks is"),
        ('{"default_block_counts": 4}', "default_block_counts is"),
        ('{"tier_token_caps": {"low": 4}}', "tier_token_caps is"),
        ('{"tier_token_caps": {"low": 9, "medium": 4, "high": 16}}', "none below the one before"),
        ('{"tier_token_caps": {"low": 0, "medium": 4, "high": 16}}', "tier_token_caps is"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_the_model_is_read(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(ModelError, match=problem):
        load_model(str(tmp_path))


@pytest.mark.parametrize("ranking", [(3, 3, 3, 5), (0, 1, 2, 3), (1, 2, 3, 16), (1, 2, 3, -1), (1, 2, 3, 4.0), "1234"])
def test_a_ranking_that_is_none_passes_nothing_through(ranking: object) -> None:
    with pytest.raises(InvalidValueError, match="block_ranking"):
        skipped_blocks(16, 12, ranking)  # pyright: ignore[reportArgumentType]


def test_as_many_blocks_stay_active_as_the_configuration_says() -> None:
    assert 16 - len(skipped_blocks(16, 12, (3, 5, 9, 2, 7))) == 12
    with pytest.raises(InvalidValueError, match="at least 4 blocks"):
        skipped_blocks(16, 12, (3, 5, 9))
    assert block_ranking([2, 1]) == (2, 1)
