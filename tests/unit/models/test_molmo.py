"""Molmo: the crops by the formula of the released models, tiers, and code that runs only when it was pinned."""

import copy
import importlib.machinery
import importlib.util
import json
import py_compile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_models import MARKERS, save_tiny_model, trusted
from typer.testing import CliRunner

from paceline.cli.main import app_for
from paceline.errors import ModelError, PictureError
from paceline.measure.provenance import provenance_of
from paceline.models import remote_code
from paceline.models.families.crop_tiling import crop_tiling, rows_of_two
from paceline.models.families.declared import FAMILIES
from paceline.models.families.family import TIER_TOKEN_CAPS
from paceline.models.families.plans import Vision
from paceline.models.grid import default_grid
from paceline.models.loading import load_model, load_request_plans
from paceline.models.molmo.crops import CLIP_MEAN, CLIP_STD, CropProcessor

SIZES = [(336, 336), (640, 480), (480, 640), (1600, 300), (300, 1600), (60, 40)]  # width and height in pixels
RULE = crop_tiling()


def cost(plan):
    return sum(1 if isinstance(part, str) else part for part in rows_of_two(plan))


def planned(size, cap, **settings):
    return RULE.plan(Vision(processor=CropProcessor(**settings), config=None), *size, cap, cost)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 6, 8, 9, 12, 15])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_crops_are_exact_in_the_54_cases_of_the_formula(size, most):
    """6 shapes of picture and 9 limits of crops; each image token is of one pooled patch, in the order of the picture."""
    plan = planned(size, 10**9, max_crops=most)
    r, c = plan.arguments["rows"], plan.arguments["columns"]
    layout = rows_of_two(plan)
    assert r * c <= most and plan.tokens == 144 + (8 * r + 4) * (8 * c + 4)
    assert sum(part for part in layout if isinstance(part, int)) == plan.tokens
    assert layout.count("<im_col>") == 12 + (8 * r + 4) and layout.count("<im_start>") == layout.count("<im_end>") == 2
    tokens_NT = CropProcessor().image_tokens(r, c)
    assert tokens_NT.shape == (r * c + 1, 144)
    used = tokens_NT[tokens_NT >= 0]
    assert sorted(used) == list(range(plan.tokens)) and (tokens_NT[0] == np.arange(144)).all()
    rows_of_crops = tokens_NT.reshape(-1, 12, 12)
    assert all((np.diff(row[row >= 0]) == 1).all() for crop in rows_of_crops for row in crop)


def test_what_the_two_of_them_see():
    """The encoder pools 432, 1,008 and 1,872 patches of 2, 6 and 12 crops, and the language model gets 384, 704 and 1,152."""
    expected = {(1, 2): (432, 384), (2, 3): (1008, 704), (3, 4): (1872, 1152)}
    for (rows, columns), (pooled, got) in expected.items():
        tokens_NT = CropProcessor().image_tokens(rows, columns)
        assert (tokens_NT.size, int((tokens_NT >= 0).sum())) == (pooled, got)
    assert "384, 704 and 1,152" in FAMILIES["molmo"].limits and "432, 1,008 and 1,872" in FAMILIES["molmo"].limits


@given(width=st.integers(1, 4000), height=st.integers(1, 4000), most=st.integers(1, 20))
def test_a_tier_has_the_crops_that_the_specification_says_and_both_counts_within_its_cap(width, height, most):
    ranges = {"low": (1, 3), "medium": (4, 8), "high": (9, 15)}
    costs = []
    for tier, (least, largest) in ranges.items():
        plan = planned((width, height), TIER_TOKEN_CAPS[tier], max_crops=most)
        crops = plan.arguments["rows"] * plan.arguments["columns"]
        assert crops <= min(largest, most) and (most < least or crops >= least or most in (11, 13))
        assert cost(plan) <= TIER_TOKEN_CAPS[tier] and (crops + 1) * 144 <= TIER_TOKEN_CAPS[tier]
        costs.append(cost(plan))
    assert costs == sorted(costs)


def test_the_tiling_is_the_one_whose_shape_is_nearest():
    shapes = {(600, 600): (3, 3), (900, 400): (2, 5), (400, 900): (5, 2), (2000, 200): (1, 10), (640, 480): (3, 4)}
    found = {size: planned(size, 2304, max_crops=15).arguments for size in shapes}
    assert {size: (each["rows"], each["columns"]) for size, each in found.items()} == shapes
    with pytest.raises(PictureError, match="nothing brings a picture"):
        planned((600, 600), 287)


def test_pixels_are_scaled_with_their_shape_kept_on_black_and_split_into_patches():
    picture = Image.new("RGB", (200, 100), (255, 0, 0))
    found = CropProcessor()(picture, rows=1, columns=2)
    images, masks = found["images"], found["image_masks"]
    assert images.shape == (1, 3, 576, 588) and images.dtype == torch.float32 and masks.shape == (1, 3, 576)
    whole = images[0, 0].view(24, 24, 14, 14, 3)  # rows and columns of patches, rows and columns of pixels, colours
    black = [-mean / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)]
    red = [(1 - CLIP_MEAN[0]) / CLIP_STD[0], *black[1:]]
    assert torch.allclose(whole[12, 0, 7, 7], torch.tensor(red)) and torch.allclose(
        whole[0, 0, 0, 0], torch.tensor(black)
    )
    # 560 x 336 pixels hold 560 x 280 of the picture: two rows of patches above and below it are padding
    assert masks[0, 0].view(24, 24)[:, 0].tolist() == [0.0] * 2 + [1.0] * 20 + [0.0] * 2
    assert (masks[0, -1] == -1).all()


@pytest.mark.parametrize(
    "settings",
    [{"overlap_margins": [3, 4]}, {"base_image_input_size": 100}, {"max_crops": 0}, {"overlap_margins": [12, 12]}],
)
def test_settings_that_make_no_crops_are_refused(standin, tmp_path, settings):
    folder = copied(standin, tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="makes no crops .*copy it from the checkpoint"):
        load_model(str(folder), device="cpu", trust_remote_code=trusted(folder))


@pytest.fixture(scope="module")
def standin(digits, tmp_path_factory):
    tokenizer = copy.deepcopy(digits.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKERS)})
    return save_tiny_model("molmo with experts", tmp_path_factory.mktemp("standin"), tokenizer=tokenizer)


def copied(folder, to):
    for path in folder.iterdir():
        if path.is_file():
            (to / path.name).write_bytes(path.read_bytes())
    return to


def test_code_that_nobody_pinned_does_not_run_and_its_hash_is_told(standin, tmp_path):
    folder, ran = copied(standin, tmp_path), tmp_path / "ran"
    with (folder / "config_standin.py").open("a") as code:
        code.write(f"\n__import__('pathlib').Path({str(ran)!r}).touch()\n")
    found = trusted(folder)
    with pytest.raises(ModelError, match=rf"with all your rights; read it, .* --trust-remote-code {found}"):
        load_model(str(folder), device="cpu")
    for pinned in (trusted(standin), "main", "0" * 40):
        with pytest.raises(ModelError, match=f"have the hash {found}: another code than was pinned"):
            load_model(str(folder), device="cpu", trust_remote_code=pinned)
    assert not ran.exists()
    assert load_model(str(folder), device="cpu", trust_remote_code=found).remote_code == found and ran.exists()


def test_tokens_are_told_ahead_of_a_model_whose_code_comes_with_it(standin):
    pinned = trusted(standin)
    model, plans = (load(str(standin), trust_remote_code=pinned) for load in (load_model, load_request_plans))
    for size in ((700, 300), (40, 400)):
        told = {tier: plan.tokens for tier, plan in plans.plans([size]).items()}
        picture = Image.new("RGB", size)
        assert told == {tier: model.prepare(picture, "What is it?", tier).vision_tokens for tier in model.tiers}
    with pytest.raises(ModelError, match=f"if you trust it give --trust-remote-code {pinned}"):
        load_request_plans(str(standin))
    with pytest.raises(ModelError, match="is part of transformers; leave it out"):
        load_request_plans("digits", trust_remote_code=pinned)


@pytest.mark.parametrize("beside", ["compiled", "a folder", "an extension"])
def test_of_pinned_code_nothing_runs_but_the_files_that_were_hashed(standin, tmp_path, beside):
    folder, ran = copied(standin, tmp_path), tmp_path / "ran"
    source = folder / "modeling_standin.py"
    (folder / "evil.py").write_text(f"__import__('pathlib').Path({str(ran)!r}).touch()\n" + source.read_text())
    if beside == "compiled":
        py_compile.compile(
            str(folder / "evil.py"),
            cfile=importlib.util.cache_from_source(str(source)),
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        (folder / "evil.py").unlink()
    elif beside == "a folder":
        (folder / "modeling_standin").mkdir()
        (folder / "evil.py").rename(folder / "modeling_standin" / "__init__.py")
    else:
        (folder / "evil.py").unlink()
        (folder / f"modeling_standin{importlib.machinery.EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    known = trusted(standin)
    if beside == "a folder":
        with pytest.raises(ModelError, match="another code than was pinned"):
            load_model(str(folder), device="cpu", trust_remote_code=known)
    else:
        load_model(str(folder), device="cpu", trust_remote_code=known)
    assert not ran.exists()


@pytest.mark.parametrize("pinned", [None, "main", "v1.0", "abc1234", "A" * 40, "0" * 64])
def test_code_of_the_hub_needs_a_whole_commit(pinned):
    with pytest.raises(ModelError, match="expected --trust-remote-code with the commit .* all 40 hexadecimal digits"):
        remote_code.pinned_code("someone/molmo", "someone/molmo", pinned, None)


def test_code_of_the_hub_is_fetched_at_its_commit_alone(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(remote_code, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path))
    commit = "0123456789" * 4
    found = remote_code.pinned_code("someone/molmo", "someone/molmo", commit, None)
    assert found.pinned == commit and asked == [(("someone/molmo",), {"revision": commit, "allow_patterns": "*.py"})]
    with pytest.raises(ModelError, match="leave the revision out"):
        remote_code.pinned_code("someone/molmo", "someone/molmo", commit, "main")


def test_code_is_trusted_only_where_it_is_needed(dense_folder, tmp_path):
    with pytest.raises(ModelError, match="is part of transformers; leave it out"):
        load_model(str(dense_folder), device="cpu", trust_remote_code="0" * 40)
    config = {"model_type": "novel_vl", "auto_map": {"AutoConfig": "novel.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match="'novel_vl', whose code comes with the checkpoint and cannot be steered; .*molmo"
    ):
        load_model(str(tmp_path), device="cpu", trust_remote_code="0" * 40)


@pytest.mark.parametrize(
    ("line", "said"),
    [("import no_such_package_at_all", "imports no_such_package_at_all, which this environment does not have; install"),
     ("1 / 0", "cannot be imported .ZeroDivisionError")],
)  # fmt: skip
def test_code_that_cannot_be_imported_is_one_sentence(standin, tmp_path, line, said):
    folder = copied(standin, tmp_path)
    (folder / "modeling_standin.py").write_text(line)
    with pytest.raises(ModelError, match=said):
        load_model(str(folder), device="cpu", trust_remote_code=trusted(folder))


@pytest.mark.parametrize(
    "named", [None, {}, {"AutoConfig": "other/repo--config_standin.MolmoConfig"}, {"AutoConfig": "os.path"}]
)
def test_a_configuration_names_code_beside_it(standin, tmp_path, named):
    folder = copied(standin, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": named}))
    with pytest.raises(ModelError, match="names (no|its) code"):
        load_model(str(folder), device="cpu", trust_remote_code=trusted(folder))


def test_the_code_is_recorded_in_a_profile(standin, digits):
    pinned = trusted(standin)
    model = load_model(str(standin), device="cpu", trust_remote_code=pinned)

    def settings(of):
        return provenance_of(
            of, grid=default_grid(digits), ranking=(1,), scorers={}, seed=1, settings={}, sources={}
        ).settings

    assert settings(model)["remote_code"] == pinned and "remote_code" not in settings(digits)
    assert settings(replace(model, remote_code="other")) != settings(model)


@pytest.mark.parametrize("command", ["verify", "profile", "run"])
def test_commands_that_load_a_model_take_the_pin(command):
    shown = CliRunner().invoke(app_for([command]), [command, "--help"], env={"COLUMNS": "200"})
    assert "--trust-remote-code" in shown.output and "REVISION" in shown.output


def test_a_tokenizer_without_the_image_token_is_refused(standin, digits, tmp_path):
    folder = copied(standin, tmp_path)
    digits.tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="has no token '<im_patch>'"):
        load_model(str(folder), device="cpu", trust_remote_code=trusted(folder))


def test_the_picture_stands_before_the_question_as_molmo_was_trained(standin):
    model = load_model(str(standin), device="cpu", trust_remote_code=trusted(standin))
    request = model.prepare(Image.new("RGB", (40, 40)), "Read the digits.", "low")
    ids = request.inputs["input_ids"][0]
    assert ids[0] == model.tokenizer.eos_token_id
    text = model.tokenizer.convert_ids_to_tokens(ids)
    assert text[0] == model.tokenizer.eos_token and text[1] == "<im_start>"
    after = len(text) - text[::-1].index("<im_end>")
    assert (
        ids[after:].tolist()
        == model.tokenizer(" User: Read the digits. Assistant:", add_special_tokens=False).input_ids
    )
    places = request.inputs["image_input_idx"]
    assert sorted(places[places >= 0].tolist()) == (ids == model.parts.image_token_id).nonzero()[:, 0].tolist()
    assert set(places[places < 0].tolist()) <= {-100}


def test_the_model_class_is_as_it_was(standin):
    """The shims stand in a class of their own."""
    model = load_model(str(standin), device="cpu", trust_remote_code=trusted(standin))
    own = type(model.parts.model).__bases__[1]
    assert own.__name__ == "MolmoForCausalLM" and "all_tied_weights_keys" not in vars(own)
    with pytest.raises(AssertionError, match="transformers 4"):
        own.generate(SimpleNamespace(), None)
