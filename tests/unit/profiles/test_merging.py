from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.errors import OutputPathError, ProfileConflictError, ProfileDataError
from paceline.profiles import ProfileStore, merge_profiles, read_profile, write_core_exp
from paceline.records import ProfileSample, Provenance

Build = Callable[..., ProfileSample]
Run = Callable[..., Provenance]


def part(path: Path, run: Provenance, *samples: ProfileSample) -> Path:
    with ProfileStore.open_or_create(path, run) as store:
        for sample in samples:
            store.append(sample)
    return path


def test_parts_are_joined_and_the_same_measurement_is_kept_once(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    a, b, c = (synthetic_sample(sample_id=name) for name in "abc")
    first = part(tmp_path / "first", synthetic_run(), a, b)
    second = part(tmp_path / "second", synthetic_run(created="2026-01-02"), b, c)
    merged = merge_profiles([first, second], tmp_path / "out")
    profile = read_profile(tmp_path / "out")
    assert profile.samples["sample_id"].to_list() == ["a", "b", "c"]
    assert merged.joined == 1 and merged.samples.equals(profile.samples)
    assert profile.provenance == (synthetic_run(), synthetic_run(created="2026-01-02"))
    with ProfileStore.open_or_create(tmp_path / "out", synthetic_run()) as store:  # a merged run can go on
        assert len(store.done()) == 3
        store.append(synthetic_sample(sample_id="d"))
    assert read_profile(tmp_path / "out").samples.height == 4


@pytest.mark.parametrize("field", ["accuracy", "T_total", "T_other", "pred", "metadata"])
def test_conflicting_parts_are_refused_with_the_sample_named(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run, field: str
) -> None:
    values = {"accuracy": 0.3, "T_total": 134.0, "T_other": None, "pred": "b", "metadata": {}}
    first = part(tmp_path / "first", synthetic_run(), synthetic_sample())
    second = part(tmp_path / "second", synthetic_run(), synthetic_sample(**{field: values[field]}))
    with pytest.raises(ProfileConflictError, match=f"sample 's0' of text_vqa .* its {field} is") as caught:
        merge_profiles([first, second], tmp_path / "out")
    assert str(first) in str(caught.value) and str(second) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("field", ["model", "device", "dtype"])
def test_mixed_parts_are_refused_unless_allowed(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run, field: str
) -> None:
    first = part(tmp_path / "first", synthetic_run(), synthetic_sample(sample_id="a"))
    second = part(tmp_path / "second", synthetic_run(**{field: "another"}), synthetic_sample(sample_id="b"))
    with pytest.raises(ProfileConflictError, match=f"with {field} .*'another'.*--allow-mixed"):
        merge_profiles([first, second], tmp_path / "out")
    merge_profiles([first, second], tmp_path / "out", allow_mixed=True)
    profile = read_profile(tmp_path / "out")
    assert profile.samples.height == 2
    assert [getattr(run, field) for run in profile.provenance] == [getattr(synthetic_run(), field), "another"]


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [("torch_threads", 1, 2), ("max_new_tokens", 8, 32), ("template_arguments", None, '{"enable_thinking": false}')],
)
def test_parts_under_settings_that_move_what_is_measured_are_refused_unless_allowed(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run, name: str, ours: object, theirs: object
) -> None:
    """A run that goes on is held to them too."""
    runs = [
        synthetic_run(settings={"warmup_runs": 2} | ({} if each is None else {name: each})) for each in (ours, theirs)
    ]
    first = part(tmp_path / "first", runs[0], synthetic_sample(sample_id="a"))
    second = part(tmp_path / "second", runs[1], synthetic_sample(sample_id="b"))
    with pytest.raises(ProfileConflictError, match=f"with {name} .*--allow-mixed"):
        merge_profiles([first, second], tmp_path / "out")
    merge_profiles([first, second], tmp_path / "out", allow_mixed=True)
    assert read_profile(tmp_path / "out").provenance == tuple(runs)


def test_parts_whose_other_settings_differ_are_joined(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    runs = [synthetic_run(settings={"warmup_runs": each, "max_new_tokens": 8}) for each in (1, 2)]
    parts = [part(tmp_path / name, run, synthetic_sample(sample_id=name)) for name, run in zip("ab", runs, strict=True)]
    assert merge_profiles(parts, tmp_path / "out").samples.height == 2


def test_parts_of_two_engines_are_never_joined(tmp_path: Path, synthetic_sample: Build, synthetic_run: Run) -> None:
    first = part(tmp_path / "first", synthetic_run(), synthetic_sample(sample_id="a"))
    write_core_exp(read_profile(first).samples, tmp_path / "exported")
    second = part(tmp_path / "second", synthetic_run(engine="vllm"), synthetic_sample(sample_id="b"))
    for parts in ([first, second], [second, tmp_path / "exported", first]):
        for allowed in (False, True):
            with pytest.raises(ProfileConflictError, match="engine") as caught:
                merge_profiles(parts, tmp_path / "out", allow_mixed=allowed)
            if allowed:
                assert "'vllm'" in str(caught.value) and "'transformers'" in str(caught.value)
                assert "--allow-mixed" not in str(caught.value)
    merge_profiles([second, tmp_path / "exported"], tmp_path / "out", allow_mixed=True)


def test_parts_that_tell_no_device_mix_with_none_that_do(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    first = part(tmp_path / "first", synthetic_run(), synthetic_sample(sample_id="a"))
    write_core_exp(read_profile(first).samples, tmp_path / "exported")
    with pytest.raises(ProfileConflictError, match="not recorded"):
        merge_profiles([first, tmp_path / "exported"], tmp_path / "out")
    merged = merge_profiles([tmp_path / "exported", tmp_path / "exported"], tmp_path / "out")
    assert merged.joined == 1 and read_profile(tmp_path / "out").provenance == ()


def test_a_bad_part_and_an_occupied_output_are_refused(
    tmp_path: Path, synthetic_sample: Build, synthetic_run: Run
) -> None:
    first = part(tmp_path / "first", synthetic_run(), synthetic_sample())
    with pytest.raises(ProfileDataError, match="missing"):
        merge_profiles([first, tmp_path / "missing"], tmp_path / "out")
    with pytest.raises(OutputPathError, match="never overwritten"):
        merge_profiles([first], first)
    second = part(tmp_path / "second", synthetic_run(), synthetic_sample(sample_id="b"))
    with (second / "journal-rank0.jsonl").open("a") as journal:
        journal.write("damage\n")
    with pytest.raises(ProfileDataError, match="line 2: is not JSON"):
        merge_profiles([first, second], tmp_path / "out")
    merged = merge_profiles([first, second], tmp_path / "out", skip_bad=True)
    assert merged.samples.height == 2 and len(merged.left_out) == 1
