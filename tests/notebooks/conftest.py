"""The smoke study, run once for all tests that read it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dpo4rec_utils.keys import content_key

ROOT = Path(__file__).parents[2]


def checkout(folder: Path) -> Path:
    """A folder that looks like a checkout to the study, with runs and results of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("notebooks", "dpo4rec_utils", "requirements.txt"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def start(root: Path, *command: str, log=subprocess.PIPE) -> subprocess.Popen:
    """A Python command in a checkout, offline, with what it prints in one pipe, or in a file."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=root,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory, request):
    """A checkout in which the smoke study has run; `make test` leaves it in build/study for the long tests."""
    kept = os.environ.get("DPO4REC_TEST_STUDY")
    root = Path(kept).resolve() if kept else tmp_path_factory.mktemp("study")
    books = [path.read_text() for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    sources = [
        path for path in sorted((ROOT / "dpo4rec_utils").rglob("*")) if path.suffix in (".py", ".yaml", ".jinja")
    ]
    texts = [path.read_text() for path in (*sources, ROOT / "requirements.txt")]
    code, made = content_key([*texts, *books]), root / "code.txt"
    if request.config.option.markexpr == "long" and made.exists() and made.read_text() == code:
        return root
    shutil.rmtree(root, ignore_errors=True)
    process = start(checkout(root), "-m", "dpo4rec_utils", "study", "--profile", "smoke")
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    (root / "output.txt").write_text(output)
    made.write_text(code)
    return root
