"""`make kill`: the whole study on `smoke-controls`, killed at 20 seeded moments over all its stages, against an
undisturbed one."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.kill.test_kill import checkout, content, finished, kill_at

pytestmark = pytest.mark.kill
ROOT = Path(__file__).parents[2]
PROFILE, SEED, KILLS = "smoke-controls", 2026, int(os.environ.get("KILLS", 20))
TIMED = ("stages.csv", "notebooks.csv", "setup.csv", "cost.csv")  # tables of seconds and memory
TIMED_COLUMNS = ["minutes", "gain_a_minute"]


def begin(root: Path, log) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "dpo4rec_utils", "study", "--profile", PROFILE]
    return subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT)


def published(root: Path) -> dict:
    """Tables cell by cell and metrics of every record, but for seconds and memory."""
    results, tables = root / "results" / PROFILE, {}
    for path in (results / "tables").glob("*.csv"):
        if path.name not in TIMED:
            table = pd.read_csv(path, dtype=str)
            tables[path.name] = table.drop(columns=TIMED_COLUMNS, errors="ignore").to_csv()
    records = {p.name: json.loads(p.read_text())["metrics"] for p in (results / "records").glob("*.json")}
    return tables | records


def test_killed_over_all_stages_it_publishes_the_same(tmp_path):
    calm, root, chance = checkout(tmp_path / "calm"), checkout(tmp_path / "killed"), random.Random(SEED)
    with open(tmp_path / "log", "w") as log:
        assert begin(calm, log).wait() == 0, (tmp_path / "log").read_text()[-3000:]
        killed = 0
        for stages in sorted(chance.sample(range(finished(calm) - 1), KILLS)):
            killed += kill_at(begin(root, log), root, stages, chance.uniform(0, 2))
            print(f"killed with {finished(root)} of {finished(calm)} stages finished", flush=True)
        assert begin(root, log).wait() == 0, (tmp_path / "log").read_text()[-3000:]
    assert killed > 0.8 * KILLS, "it ended before"
    wanted, resumed = published(calm) | content(calm), published(root) | content(root)
    assert resumed.keys() == wanted.keys() and len(wanted) > 100
    assert [name for name in wanted if resumed[name] != wanted[name]] == []
    repeats = pd.read_csv(calm / "results" / PROFILE / "tables/repeats.csv").set_index("repeated")
    assert repeats.times.to_dict() == {"drawn": 2, "trained": 2} and (repeats["std"] > 0).all(), (
        "they said other things"
    )
