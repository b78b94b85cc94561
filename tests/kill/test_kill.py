"""A round of the loop, killed without warning at seeded moments and resumed, against one that nobody disturbed."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.made_models import made_model

ROOT = Path(__file__).parents[2]
SEED, KILLS = 2026, 2
ROUND = """
import sys
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.study import Study
model = {"model": sys.argv[1], "engine": "transformers", "shard_users": 4}
study = Study(load_config("smoke", {"llm": model, "device": {"sampling": "float32"}, "alignment": {"checkpoint_steps": 1}}))
study.knowledge.texts(study.round(1).after)
study.vectors.policy_vectors(study.round(1).after)
"""


def checkout(folder: Path) -> Path:
    folder.mkdir()
    for name in ("notebooks", "dpo4rec_utils"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def begin(root: Path, model: str) -> subprocess.Popen:
    """A run, which writes its log beside the checkout: a pipe that nobody reads would stop it when it is full."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with open(root.with_suffix(".log"), "a") as log:
        command = [sys.executable, "-c", ROUND, model]
        return subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT)


def run_to_its_end(root: Path, model: str) -> None:
    assert begin(root, model).wait() == 0, root.with_suffix(".log").read_text()[-3000:]


def kill_tree(process: subprocess.Popen) -> None:
    """The process and all that it started, kernels and workers included."""
    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def finished(root: Path) -> int:
    """How many stages are finished."""
    return len(list(root.glob("runs/*/*/record.json")))


def kill_at(process: subprocess.Popen, root: Path, stages: int, seconds: float = 0.0) -> bool:
    """Kill a run so many seconds after it has finished so many stages; False where it had ended before."""
    while process.poll() is None and finished(root) < stages:
        time.sleep(0.02)
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    kill_tree(process)
    return True


def content(root: Path) -> dict:
    """What a run leaves, but for when and how long: shards, adapters, vectors, tables and metrics by hash. Which texts'
    vectors share a file is by when they came."""
    hashes = {}
    for folder in sorted((root / "runs/encoder").glob("*")):
        vectors = {}
        for path in folder.glob("vectors-*.npz"):
            saved = np.load(path)
            vectors |= dict(zip(saved["keys"].tolist(), map(np.ndarray.tobytes, saved["vectors"]), strict=True))
        hashes[folder.name] = hashlib.sha256(repr(sorted(vectors.items())).encode()).hexdigest()
    for path in sorted((root / "runs").rglob("*")):
        name = path.relative_to(root).as_posix()
        if (
            path.is_file()
            and path.suffix in (".jsonl", ".safetensors", ".npz", ".parquet")
            and "checkpoints" not in name
            and "runs/encoder/" not in name
        ):
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return made_model("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory):
    root = checkout(tmp_path_factory.mktemp("undisturbed") / "checkout")
    run_to_its_end(root, model)
    return content(root), finished(root)


def test_killed_at_seeded_moments_it_makes_the_same(model, undisturbed, tmp_path):
    wanted, stages = undisturbed
    root, chance = checkout(tmp_path / "checkout"), random.Random(SEED)
    for number in sorted(chance.sample(range(1, 2 * stages // 3), KILLS)):  # the last stages take no time
        assert kill_at(begin(root, model), root, number), f"it ended before stage {number} of {stages}"
    run_to_its_end(root, model)
    resumed = content(root)
    assert resumed.keys() == wanted.keys() and len(wanted) > 10
    assert [name for name in wanted if resumed[name] != wanted[name]] == []
    assert not list((root / "runs").rglob(".partial-*"))  # `study` sweeps results, too
