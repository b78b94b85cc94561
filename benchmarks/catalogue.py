"""Memory of reading a large catalogue: the profile `amazon` on five million generated reviews (about three minutes).

The shape is that of Video Games in Amazon Reviews 2023: two people in five wrote one review, a 5-core keeps about a
sixth. Prints seconds and peak memory of a process of its own, and keeps them in `results/benchmark_catalogue.json`.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from dpo4rec_utils.environment import environment
from dpo4rec_utils.files import project_root, write_json

READER = """
import json, resource, time
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.settings import load_config
start = time.time()
tables = Data(load_config("amazon")).dataset
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
users, items = tables.interactions.user_id.nunique(), len(tables.items)
found = {"interactions": len(tables.interactions), "users": users, "items": items, "dropped": dict(tables.dropped)}
print(json.dumps(found | {"seconds": round(time.time() - start), "peak_mib": peak // 1024}))
"""
TEXT = "It plays well and looks good, and the second half is better than the first. " * 3


def generate(folder: Path, lines: int) -> None:
    """Reviews and metadata with the fields and names of the official files; words and people are made up."""
    rng = np.random.default_rng(0)
    active = rng.random(lines) < 0.18
    users = np.where(active, rng.integers(95_000, size=lines), 95_000 + rng.integers(2_700_000, size=lines))
    items = np.where(active, rng.integers(26_000, size=lines), rng.integers(137_000, size=lines))
    with gzip.open(folder / "Video_Games.jsonl.gz", "wt", compresslevel=1) as file:
        for number, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
            review = {
                "rating": float(1 + number % 5),
                "title": "Good",
                "text": TEXT,
                "images": [],
                "asin": f"B{item:09d}",
            }
            review |= {"parent_asin": f"B{item:09d}", "user_id": f"A{user:027d}", "timestamp": 1600000000000 + number}
            file.write(json.dumps(review | {"helpful_vote": 0, "verified_purchase": True}) + "\n")
    with gzip.open(folder / "meta_Video_Games.jsonl.gz", "wt", compresslevel=1) as file:
        for item in range(137_000):
            about = {"main_category": "Video Games", "title": f"Game {item}", "store": f"Brand {item % 50}"}
            about |= {"features": [TEXT] * 4, "description": [TEXT] * 4, "parent_asin": f"B{item:09d}"}
            file.write(json.dumps(about) + "\n")


def main() -> None:
    """Generate, read in a process of its own, print and keep what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=5_000_000)
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder), lines)
        command, setting = [sys.executable, "-c", READER], os.environ | {"DPO4REC_ASSETS": folder}
        answer = subprocess.run(command, env=setting, stdout=subprocess.PIPE, text=True, check=True)
    measured = json.loads(answer.stdout)
    print(f"{lines} reviews: {measured}")
    write_json(
        project_root() / "results" / "benchmark_catalogue.json", {"reviews": lines, "found": measured, **environment()}
    )


if __name__ == "__main__":
    main()
