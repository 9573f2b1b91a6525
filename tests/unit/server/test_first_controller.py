"""The embedded model's controller, kept in a cache: a build that is killed leaves nothing half, and two builds are one."""

import threading

import pytest

from paceline.server import first_controller as built
from paceline.server.first_controller import ESTIMATOR, PROFILE, first_controller


class KilledError(BaseException):
    pass


@pytest.fixture
def builds(monkeypatch):
    """What is built, without a model: profiles and trainings that were begun, and what each does."""
    begun = {"profile": 0, "training": 0}
    does = {"profile": lambda out: None, "training": lambda out: None}

    def profile(model, plan, out, *, on_progress):
        begun["profile"] += 1
        does["profile"](out)
        out.mkdir(exist_ok=True)
        on_progress(1, 1)

    def train(read, directory, *, split, on_progress):
        begun["training"] += 1
        does["training"](directory)
        directory.mkdir()
        (directory / "description.json").write_text("{}")

    monkeypatch.setattr(built, "run_profile", profile)
    monkeypatch.setattr(built, "train_artifact", train)
    monkeypatch.setattr(built, "read_profile", lambda out: None)
    monkeypatch.setattr(built, "load_model", lambda name, device: None)
    return begun, does


def test_it_is_built_once_with_progress_and_kept(builds, tmp_path):
    begun, _ = builds
    moved, told = [], []
    first = first_controller(
        cache=tmp_path, on_begin=told.append, on_profile=lambda done, total: moved.append((done, total))
    )
    assert first == first_controller(cache=tmp_path, on_begin=told.append) and (first / "description.json").is_file()
    assert begun == {"profile": 1, "training": 1} and moved == [(1, 1)] and told == [first.parent]
    assert {each.name for each in first.parent.iterdir()} == {ESTIMATOR, PROFILE, ".lock"}


@pytest.mark.parametrize("stage", ["profile", "training"])
def test_a_build_that_is_killed_leaves_no_controller_and_the_next_goes_on_in_the_same_place(builds, tmp_path, stage):
    _, does = builds
    places = []

    def killed(out):
        places.append(out)
        if stage == "training":
            (out.parent / f".{out.name}.checkpoint").write_text("half")
        raise KilledError

    does[stage] = killed
    with pytest.raises(KilledError):
        first_controller(cache=tmp_path)
    assert not list(tmp_path.glob(f"paceline/*/{ESTIMATOR}"))
    does[stage] = places.append
    assert first_controller(cache=tmp_path).is_dir() and places[0] == places[1]


def test_two_at_once_build_it_once(builds, tmp_path):
    begun, does = builds
    started, go_on, found = threading.Event(), threading.Event(), []

    def waits(out):
        started.set()
        go_on.wait(30)

    does["profile"] = waits
    threads = [threading.Thread(target=lambda: found.append(first_controller(cache=tmp_path))) for _ in range(2)]
    threads[0].start()
    assert started.wait(30)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] and begun == {"profile": 1, "training": 1}


def test_other_circumstances_are_another_controller(builds, tmp_path, monkeypatch):
    first = first_controller(cache=tmp_path)
    monkeypatch.setattr(built.torch, "get_num_threads", lambda: 77)
    assert first_controller(cache=tmp_path) != first


def test_the_cache_is_the_users(builds, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "named"))
    assert (tmp_path / "named") in first_controller().parents
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert (tmp_path / "home" / ".cache") in first_controller().parents
