import json
from pathlib import Path

import pytest
from certified_tables import HELD, certified_table
from serving_desk import table

from paceline.errors import EngineError, InvalidValueError, MissingExtraError, TableError
from paceline.fit import save_table
from paceline.vllm_plugin import command


@pytest.fixture
def controller(tmp_path):
    path = tmp_path / "table.json"
    document = table().document()
    document["metadata"]["provenance"] = [{"model": "m", "block_ranking": [3, 1, 2]}]
    path.write_text(json.dumps(document))
    return path


def settings_of(words):
    return json.loads(words[words.index("--additional-config") + 1])


def test_the_command_has_all_that_budgets_need(controller):
    words = command.serve_command(
        "m", controller=controller, alpha=0.1, arguments=["--port", "81", "--middleware", "a.b"]
    )
    assert words[words.index("serve") + 1] == "m" and words[-4:] == ["--port", "81", "--middleware", "a.b"]
    assert words[words.index("--worker-cls") + 1] == "paceline.vllm_plugin.worker"
    assert words[words.index("--scheduler-cls") + 1] == "paceline.vllm_plugin.scheduler"
    assert words[words.index("--middleware") + 1] == "paceline.vllm_plugin.budgets"
    assert {"--trust-request-mm-kwargs", "--enable-logging-iteration-details"} <= set(words)
    expected = {"controller": str(controller), "policy": "edf", "alpha": 0.1, "block_ranking": [3, 1, 2]}
    assert settings_of(words) == {"paceline": expected}


def test_certified_configurations_alone_are_served_where_that_is_asked(tmp_path, controller):
    save_table(certified_table(HELD), path := tmp_path / "certified.json")
    words = command.serve_command("m", controller=path, certified_only=True)
    assert settings_of(words)["paceline"]["certified_only"] is True
    assert "certified_only" not in settings_of(command.serve_command("m", controller=path))["paceline"]
    with pytest.raises(TableError, match="holds no certificate"):
        command.serve_command("m", controller=controller, certified_only=True)


@pytest.mark.parametrize(
    "form", [["--additional-config", "{}"], ["--additional-config={}"], ["--additional_config", "{}"]]
)
def test_other_settings_are_kept(controller, form):
    given = json.dumps({"other": 1, "paceline": {"policy": "srtf", "controller": "x"}})
    words = command.serve_command(
        "m", controller=controller, arguments=[*(each.replace("{}", given) for each in form), "-q"]
    )
    settings = settings_of(words)
    assert settings["other"] == 1 and settings["paceline"]["policy"] == "srtf"
    assert settings["paceline"]["controller"] == str(controller)
    assert words.count("--additional-config") == 1 and words[-1] == "-q"
    stock = command.serve_command(
        "m", controller=controller, arguments=["--scheduler-cls", "paceline.vllm_plugin.stock"]
    )
    assert stock.count("--scheduler-cls") == 1


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (["--grpc"], EngineError, "--grpc has no middleware"),
        (["--api-server-count", "2"], EngineError, "expected 1"),
        (["--api_server_count=3"], EngineError, "expected 1"),
        (["--worker-cls", "w"], EngineError, "leave it out"),
        (["--scheduler-cls", "s"], EngineError, "expected paceline.vllm_plugin.scheduler"),
        (["--additional-config", "[]"], InvalidValueError, "a JSON object"),
        (["--additional-config", '{"paceline": 3}'], InvalidValueError, "a JSON object"),
        (["--additional-config"], InvalidValueError, "a JSON object"),
    ],
)
def test_what_budgets_cannot_stand_beside_is_refused(controller, arguments, error, says):
    with pytest.raises(error, match=says):
        command.serve_command("m", controller=controller, arguments=arguments)


def test_a_front_end_that_runs_no_middleware_is_refused(controller, monkeypatch):
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(EngineError, match="VLLM_USE_RUST_FRONTEND is set, and that front end has no middleware"):
        command.serve_command("digits", controller=controller)


def test_a_controller_that_cannot_be_read_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(TableError):
        command.serve_command("m", controller=tmp_path / "nothing.json")


def test_the_embedded_model_is_written_for_vllm_once(controller, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = command.serve_command("digits", controller=controller, arguments=["--dtype", "bfloat16"])
    folder = words[words.index("serve") + 1]
    assert folder.startswith(str(tmp_path / "cache" / "paceline" / "digits-vllm-"))
    config = json.loads((Path(folder) / "config.json").read_text())
    assert config["text_config"]["norm_topk_prob"] is True
    assert words.count("--dtype") == 1 and words[words.index("--served-model-name") + 1] == "digits"
    assert folder in command.serve_command("digits", controller=controller)


def test_without_vllm_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"vllm is not installed; run: pip install 'paceline\[vllm\]'"):
        command.require_vllm()
