"""`longrun deploy`: what it prints is valid for who reads it, and fits the settings."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from longrun import create_app
from longrun.deploy.printing import FILES, Wanted, printed
from longrun.settings import NOT_SETTINGS, Settings, variable

WANTED = Wanted(agents="shop.agents:all", replicas=2, servers=("10.0.0.1:8000", "10.0.0.2:8000"))


def text_of(what: str, **settings: Any) -> str:
    return printed(what, WANTED, Settings(**settings))


def kubernetes(**settings: Any) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(text_of("kubernetes", **settings))}


@pytest.mark.parametrize("what", FILES)
def test_names_only_settings_that_there_are(what: str) -> None:
    known = {variable(name) for name in Settings.model_fields} | NOT_SETTINGS
    named = set(re.findall(r"\bLONGRUN_[A-Z_]+[A-Z]\b", text_of(what)))
    assert named <= known
    assert named or what == "haproxy"


@pytest.mark.parametrize("what", ["docker", "kubernetes", "systemd"])
def test_serves_the_agents(what: str) -> None:
    assert "shop.agents:all" in text_of(what)


class TestKubernetes:
    def test_a_pod_has_time_to_drain(self) -> None:
        for drain in (0, 20, 600.5):
            pod = kubernetes(drain_seconds=drain)["Deployment"]["spec"]["template"]["spec"]
            [container] = pod["containers"]
            [leave] = container["lifecycle"]["preStop"]["exec"]["command"][1:]
            told = {each["name"]: each.get("value") for each in container["env"]}
            assert float(told["LONGRUN_DRAIN_SECONDS"]) >= drain
            assert pod["terminationGracePeriodSeconds"] >= drain + int(leave) + 10

    def test_probes_ask_what_is_served(self, tmp_path: Path) -> None:
        app = create_app(settings=Settings(data_dir=tmp_path))
        served = {getattr(route, "path", None) for route in app.routes}
        [container] = kubernetes()["Deployment"]["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["path"] in served
            assert asked["port"] in ports

    def test_parts_belong_together(self) -> None:
        parts = kubernetes()
        labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert parts["Deployment"]["spec"]["selector"]["matchLabels"] == labels
        assert parts["Service"]["spec"]["selector"] == labels
        assert parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
        scaled = parts["HorizontalPodAutoscaler"]["spec"]
        assert scaled["scaleTargetRef"]["name"] == parts["Deployment"]["metadata"]["name"]
        assert scaled["minReplicas"] == parts["Deployment"]["spec"]["replicas"] == 2
        # A Service's name becomes a variable in every pod of the namespace.
        assert not parts["Service"]["metadata"]["name"].startswith("longrun")


def test_compose() -> None:
    services = yaml.safe_load(text_of("compose", drain_seconds=90))["services"]
    assert set(services) == {"longrun", "nginx", "postgres"}
    assert int(services["longrun"]["stop_grace_period"].removesuffix("s")) >= 100
    assert services["longrun"]["environment"]["LONGRUN_DRAIN_SECONDS"] == "90"
    assert services["longrun"]["deploy"]["replicas"] == 2
    url = services["longrun"]["environment"]["LONGRUN_DATABASE_URL"]
    assert url == "postgresql://longrun:${POSTGRES_PASSWORD}@postgres:5432/longrun"


def test_docker() -> None:
    """Each line is an instruction, and what its shell and Python execute can be parsed."""
    lines = re.sub(r"\\\n", " ", text_of("docker")).splitlines()
    made = [line.split(" ", 1) for line in lines if line and not line.startswith("#")]
    assert {name for name, _ in made} <= {
        *("FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"),
        "CMD",
    }
    for name, rest in made:
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)
    [check] = [rest for name, rest in made if name == "HEALTHCHECK"]
    _, _, code = yaml.safe_load(check.partition("CMD ")[2])
    compile(code, "healthcheck", "exec")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd(tmp_path: Path) -> None:
    text = printed("systemd", Wanted(folder=str(tmp_path)), Settings(drain_seconds=90))
    assert int(re.findall(r"TimeoutStopSec=(\d+)", text)[0]) >= 100
    command = tmp_path / ".venv/bin/longrun"
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = tmp_path / "longrun@8001.service"
    unit.write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in found.stderr.splitlines() if "longrun@" in line]
    assert ours == []


HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")


@pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed")
def test_haproxy(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(text_of("haproxy"))
    assert HAPROXY is not None
    subprocess.run([HAPROXY, "-c", "-f", str(file)], check=True, capture_output=True)
