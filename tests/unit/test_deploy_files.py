"""The files for containers, Fly and Kubernetes: they parse, what they name exists, and nothing is open by accident."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdserver.config import load_config
from mdserver.registry import load_brokers

ROOT = Path(__file__).parents[2]
COMPOSE = ("compose.yaml", "deploy/compose/scale.yaml")
OURS = "mdserver"


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_names_what_exists(name: str) -> None:
    content = read(name)
    for service in content["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in content["volumes"], (
                volume
            )
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "published on every address"
        for other in service.get("depends_on", []):
            assert other in content["services"]
        if service.get("image") == OURS:
            assert (service["read_only"], service["cap_drop"], service["init"]) == (True, ["ALL"], True)


@pytest.mark.parametrize("name", COMPOSE)
def test_what_compose_asks_for_is_in_the_example(name: str) -> None:
    given = (ROOT / ".env.example").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+):[?-]", (ROOT / name).read_text(encoding="utf-8")))
    assert asked
    assert [variable for variable in asked if f"{variable}=" not in given] == []


def test_the_example_has_what_the_config_at_the_top_asks_for() -> None:
    given = (ROOT / ".env.example").read_text(encoding="utf-8")
    lines = (ROOT / "config.yaml").read_text(encoding="utf-8").splitlines()
    asked = {
        name for line in lines if not line.lstrip().startswith("#") for name in re.findall(r"\$\{(\w+)", line)
    }
    assert [variable for variable in asked if f"{variable}=" not in given] == []


def test_two_ingests_and_two_edges() -> None:
    services = read("deploy/compose/scale.yaml")["services"]
    roles = [service["command"][-1] for service in services.values() if service["image"] == OURS]
    assert sorted(roles) == ["edge", "edge", "ingest", "ingest"]
    classes = {name: plugin.config for name, plugin in load_brokers()[0].items()}
    environment = {"DATABASE_URL": "postgresql://u@h/d", "BUS_URL": "redis://h"}
    config = load_config(ROOT / "deploy/compose/scale-config.yaml", environ=environment, brokers=classes)
    assert config.bus.url == "redis://h"


def test_grafana_finds_the_dashboard_and_prometheus() -> None:
    services = read("compose.yaml")["services"]
    (provider,) = read("deploy/grafana/provisioning/dashboards/mdserver.yaml")["providers"]
    assert any(provider["options"]["path"] in volume for volume in services["grafana"]["volumes"])
    (source,) = read("deploy/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"].removeprefix("http://").partition(":")[0] in services
    (job,) = read("deploy/prometheus/prometheus.yml")["scrape_configs"]
    assert job["static_configs"][0]["targets"][0].partition(":")[0] in services


def test_fly() -> None:
    content = tomllib.loads((ROOT / "deploy/fly/fly.toml").read_text(encoding="utf-8"))
    assert (ROOT / "deploy/fly" / content["build"]["dockerfile"]).resolve() == ROOT / "Containerfile"
    assert content["http_service"]["checks"][0]["path"] == "/health/ready"
    assert content["http_service"]["auto_stop_machines"] == "off"
    assert content["mounts"][0]["destination"] == "/data"


def test_kubernetes(tmp_path: Path) -> None:
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/mdserver.yaml").read_text(encoding="utf-8"))
    objects = {one["kind"]: one for one in documents}
    pod = objects["StatefulSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["securityContext"]["runAsNonRoot"]
    named = {volume["name"] for volume in pod["volumes"]}
    named |= {claim["metadata"]["name"] for claim in objects["StatefulSet"]["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == named
    config = tmp_path / "config.yaml"
    config.write_text(objects["ConfigMap"]["data"]["config.yaml"])
    classes = {name: plugin.config for name, plugin in load_brokers()[0].items()}
    assert load_config(
        config, environ={"DATABASE_URL": "postgresql://u@h/d"}, brokers=classes
    ).server.hosts == ("*",)
