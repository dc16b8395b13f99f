"""ops/grafana and ops/prometheus: they name figures that a server has, and promtool finds nothing wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shardhash.http import metrics

OPS = Path(__file__).parents[2] / "ops"
DASHBOARD = OPS / "grafana" / "shardhash.json"
RULES = OPS / "prometheus" / "shardhash.rules.yml"
TRIED = OPS / "prometheus" / "shardhash.test.yml"


def names_of_a_server() -> set[str]:
    """Every name that metrics.py gives to a figure, as its samples have them."""
    families = re.findall(r'"((?:shardhash|process)_[a-z_]+)"', Path(metrics.__file__).read_text())
    return {family + ending for family in families for ending in ("", "_total", "_bucket", "_info")}


def expressions() -> dict[str, str]:
    """What the dashboard and the rules ask, by where they ask it."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = {panel["title"]: " ".join(target["expr"] for target in panel["targets"]) for panel in panels}
    return asked | {"rules": RULES.read_text()}


def test_they_ask_for_figures_that_a_server_has() -> None:
    names = names_of_a_server()
    assert "shardhash_lookups_total" in names
    for place, text in expressions().items():
        asked = set(re.findall(r"\b(?:shardhash|process)_[a-z_]+", text))
        assert asked - names == set(), place


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(panel["targets"] and panel["datasource"]["uid"] == "${datasource}" for panel in panels)


@pytest.mark.parametrize(("verb", "file"), [("check", RULES), ("test", TRIED)])
def test_promtool_finds_nothing_wrong(verb: str, file: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not there (Debian: apt-get install prometheus)")
    command = ["promtool", verb, "rules", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
