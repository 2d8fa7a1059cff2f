"""Alerts and board name metrics that exist; promtool accepts the rules."""

import json
import os
import pathlib
import re
import shutil
import subprocess

import pytest

TOP = pathlib.Path(os.environ["SIROCCO_SRCDIR"])
DIR = TOP / "contrib/monitoring"


def metrics():
    """Sample names that /metrics exposes."""
    names = set()
    text = (TOP / "src/metrics/metrics_tab.c").read_text()
    for kind, name in re.findall(r'= (GAUGE|COUNTER|LABELLED|HISTOGRAM)'
                                 r'\(\s*"(\w+)"', text):
        name = "sirocco_" + name
        if kind == "HISTOGRAM":
            names |= {name + s for s in ("_bucket", "_sum", "_count")}
        else:
            names.add(name if kind == "GAUGE" else name + "_total")
    return names


@pytest.mark.parametrize("name", ["sirocco.rules.yml",
                                  "sirocco.grafana.json"])
def test_named_metrics_exist(name):
    used = set(re.findall(r"\bsirocco_\w+", (DIR / name).read_text()))
    assert used and used <= metrics()


def test_board_is_json_with_distinct_panels():
    board = json.loads((DIR / "sirocco.grafana.json").read_text())
    ids = [p["id"] for p in board["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool")
@pytest.mark.parametrize("what", [["check", "rules", "sirocco.rules.yml"],
                                  ["test", "rules",
                                   "sirocco.rules.test.yml"]])
def test_promtool(what):
    done = subprocess.run(["promtool", *what], cwd=DIR, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stdout + done.stderr
