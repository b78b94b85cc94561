"""Every exercise has a solution that runs from its first cell to its last, on the smoke study."""

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.conftest import checkout, start

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def headings(path: Path) -> list[str]:
    cells = nbformat.read(path, as_version=4).cells
    return [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_has_minutes_a_hint_and_a_solution(path):
    exercises = [line for line in headings(path) if re.match(r"\d\. \*\(.+\)\*", line)]
    solved = [line for line in headings(path.parent / "solutions" / path.name) if re.match(r"## \d\. ", line)]
    assert len(exercises) == len(solved) == 3
    assert all("<summary>Hint</summary>" in line and re.search(r"minutes|hour", line) for line in exercises)
    assert f"notebooks/solutions/{path.name}" in "\n".join(headings(path))


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_solution_runs(finished, tmp_path, path):
    solution, out = f"notebooks/solutions/{path.name}", tmp_path / "out.ipynb"
    options = ("-k", "dpo4rec", "-p", "PROFILE", "smoke", "--cwd", str(finished))
    process = start(finished, "-m", "papermill", solution, str(out), *options)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["04_dpo_iterations", "05_main_results", "06_ablations", "07_iteration_and_sample_analysis"]
)
def test_a_solution_that_needs_the_records_alone_runs_on_those_committed(tmp_path, name):
    root, solution = checkout(tmp_path / "checkout"), f"notebooks/solutions/{name}.ipynb"
    assert "**What you need.** Nothing but the records" in "\n".join(headings(ROOT / solution))
    shutil.copytree(ROOT / "results/ml-100k", root / "results/ml-100k")
    options = ("-k", "dpo4rec", "-p", "MAKE", "False", "--cwd", str(root))
    process = start(root, "-m", "papermill", solution, str(tmp_path / "out.ipynb"), *options)
    output, _ = process.communicate()
    assert process.returncode == 0, output[-3000:]
    assert not (root / "runs").exists()
