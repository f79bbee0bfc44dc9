"""The dashboard, the alerts and the scrape config of the how-to name metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from mdserver.metrics import Metrics

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGE = (HOWTO / "grafana.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((HOWTO / "grafana-dashboard.json").read_text(encoding="utf-8"))
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def metrics() -> set[str]:
    found = Metrics().registry.collect()
    return {metric.name + suffix for metric in found for suffix in SUFFIXES[metric.type]}


def block(name: str) -> str:
    (text,) = re.findall(rf"<!-- tested: {name} -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS = [rule["expr"] for rule in yaml.safe_load(block("alerts"))["groups"][0]["rules"]]


@pytest.mark.parametrize("expression", [*EXPRESSIONS, *ALERTS])
def test_each_expression_names_a_metric(expression: str) -> None:
    named = set(re.findall(r"mdserver_\w+", expression))
    assert named
    assert named <= metrics()
    assert expression.count("(") == expression.count(")")


def test_labels_are_those_of_the_metric() -> None:
    text = (Path(__file__).parents[2] / "mdserver" / "metrics.py").read_text(encoding="utf-8")
    words = set(re.findall(r'"(\w+)"', text)) | {"le", "job"}
    for expression in EXPRESSIONS:
        for names in re.findall(r"by \(([\w, ]+)\)", expression):
            assert set(names.split(", ")) <= words, expression


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_prometheus_asks_the_default_address() -> None:
    (job,) = yaml.safe_load(block("prometheus"))["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["127.0.0.1:8080"]}]
