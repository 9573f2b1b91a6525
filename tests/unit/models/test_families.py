"""What is said of a family that cannot work, of a model whose counts disagree and of blocks that must run."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import transformers
from transformers import AutoConfig

from paceline.errors import ModelError
from paceline.models.families.choosing import family_of
from paceline.models.families.declared import FAMILIES
from paceline.models.families.family import Family
from paceline.models.families.listing import TESTED_TRANSFORMERS, TIER_RULES, models_page
from paceline.models.families.plans import ImagePlan, TierRule
from paceline.models.families.refused import REFUSED
from paceline.models.importance import rank_blocks
from paceline.models.knobs import applied, blocks_passed_through
from paceline.models.loading import load_model
from paceline.models.probe import check_counts
from paceline.records import KnobConfig


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_family_that_cannot_work_says_why_in_one_sentence(kind):
    with pytest.raises(ModelError, match=f"'{kind}', which cannot be steered here: it") as raised:
        family_of(SimpleNamespace(model_type=kind, vision_config=None), "the model")
    assert str(raised.value).endswith(REFUSED[kind]) and ". " not in REFUSED[kind]
    assert kind not in FAMILIES


def test_it_is_said_before_the_weights_are_read(tmp_path):
    AutoConfig.for_model("llama4").save_pretrained(tmp_path)  # no weights beside it
    with pytest.raises(ModelError, match="torchvision only"):
        load_model(str(tmp_path))


def test_a_family_that_is_not_supported_names_those_that_are():
    with pytest.raises(ModelError, match="'novel_vl', which is not supported yet; expected one of .*qwen3_vl"):
        family_of(SimpleNamespace(model_type="novel_vl", vision_config=object()), "the model")


def test_a_family_that_needs_a_newer_transformers_names_the_version(monkeypatch):
    config = SimpleNamespace(model_type="smolvlm", vision_config=object())
    monkeypatch.setattr(transformers, "__version__", "5.17.2")
    with pytest.raises(
        ModelError, match=r"works with transformers 5\.18 or newer, and this is 5\.17\.2: install a newer one"
    ):
        family_of(config, "the model")
    for version in ("5.18.0.dev0", "5.18.0", "5.100.0", "6.0"):
        monkeypatch.setattr(transformers, "__version__", version)
        assert family_of(config, "the model") is FAMILIES["smolvlm"]


def one_too_many(family):
    def plan(*arguments):
        right = family.tiers.plan(*arguments)
        return ImagePlan(pieces=(right.tokens + 1,), arguments=right.arguments)

    return Family(tiers=TierRule(kind="wrong", argument="size", plan=plan, smallest_side=family.tiers.smallest_side))


def test_a_model_whose_counts_disagree_is_refused_with_all_three(digits):
    check_counts(digits)
    wrong = one_too_many(digits.parts.family)
    digits.prompts.family, kept = wrong, digits.prompts.family
    try:
        with pytest.raises(
            ModelError, match=r"is (\d+) image tokens by the rule.* \1 placeholders .* (\d+) features"
        ) as said:
            check_counts(replace(digits, parts=replace(digits.parts, family=wrong)))
    finally:
        digits.prompts.family = kept
    told, _placeholders, features = (int(word) for word in str(said.value).split() if word.isdigit())
    assert told == features + 1


def test_blocks_whose_cache_is_shared_are_never_skipped(digits):
    parts = replace(digits.parts, protected_blocks=frozenset({3}))
    with (
        pytest.raises(ModelError, match=r"blocks \[3\] fill a key-value cache"),
        blocks_passed_through(parts, frozenset({2, 3})),
    ):
        pass
    config = KnobConfig(tier="low", top_k=None, num_active_blocks=15)
    with pytest.raises(ModelError, match="leave them out"), applied(parts, config, (3, 1)):
        pass
    assert rank_blocks([9.0, 3.0, 2.0, 1.0], protected={3}) == (2, 1)


def test_a_folder_whose_tokenizer_has_no_chat_template_says_so(dense_folder, tmp_path):
    for path in dense_folder.iterdir():
        if path.name not in ("chat_template.jinja", "model.safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match="no chat template; expected one beside its tokenizer"):
        load_model(str(tmp_path), device="cpu")
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}: a question{% endfor %}")
    with pytest.raises(ModelError, match=r"writes '<\|image_pad\|>' 0 times for one picture; expected once"):
        load_model(str(tmp_path), device="cpu")
    assert "chat_template" not in json.loads((tmp_path / "tokenizer_config.json").read_text())


def test_the_page_of_models_is_what_the_declarations_say(capsys):
    """`paceline models --markdown > docs/models.md` writes it anew."""
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    assert page == models_page()
    assert all(f"| `{name}` | {family.tiers.kind} |" in page for name, family in FAMILIES.items())
    assert all(f"- `{name}`: {reason}." in page for name, reason in REFUSED.items())
    assert {family.tiers.kind for family in FAMILIES.values()} == set(TIER_RULES)


def test_the_version_that_the_tests_run_under_is_listed():
    assert transformers.__version__ in TESTED_TRANSFORMERS


@pytest.fixture
def without_weights(dense_folder, tmp_path):
    """A model's folder but for its weights: what is said of the rest must be said before they are read."""

    def copied(*left_out):
        for path in dense_folder.iterdir():
            if path.name not in ("model.safetensors", *left_out):
                (tmp_path / path.name).write_bytes(path.read_bytes())
        return str(tmp_path)

    return copied


def test_a_folder_without_a_tokenizer_says_so(without_weights):
    with pytest.raises(ModelError, match=r"has no token \d+, which stands for a picture .*; expected tokenizer.json"):
        load_model(without_weights("tokenizer.json", "tokenizer_config.json"), device="cpu")


def test_a_damaged_tokenizer_is_one_sentence(without_weights, tmp_path):
    folder = without_weights()
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="no tokenizer that can be loaded"):
        load_model(folder, device="cpu")


def test_a_folder_without_an_image_processor_says_so(without_weights):
    with pytest.raises(ModelError, match=r"no image processor that can be loaded .*preprocessor_config.json"):
        load_model(without_weights("preprocessor_config.json"), device="cpu")


@pytest.mark.parametrize("kind", ["Lfm2VlImageProcessor", "Llama4ImageProcessor"])
def test_an_image_processor_that_needs_torchvision_is_named(without_weights, tmp_path, kind):
    folder = without_weights()
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind}))
    with pytest.raises(ModelError, match="image processor.*orchvision.*Pillow"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize("file", ["chat_template.json", "processor_config.json"])
def test_a_chat_template_that_is_kept_with_the_processor_is_found(dense_folder, tmp_path, file):
    for path in dense_folder.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    template = (dense_folder / "chat_template.jinja").read_text()
    (tmp_path / file).write_text(json.dumps({"chat_template": template}))
    assert load_model(str(tmp_path), device="cpu").tokenizer.chat_template == template
