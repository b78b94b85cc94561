"""A fresh clone is read without runs/, LLM, encoder or data: reports and notebooks 05 to 07 from the committed
records."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from dpo4rec_utils.evidence import across
from dpo4rec_utils.evidence.committed import committed
from dpo4rec_utils.evidence.loops import PROFILE
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.report import prose
from dpo4rec_utils.settings import load_config

ROOT = Path(__file__).parents[2]
PROFILES = committed(ROOT / "results")
MAKERS = ("torch", "transformers", "trl", "peft", "openvino_genai", "gguf", "datasets", "accelerate")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A checkout with records and no tables, figures or reports, on a machine where nothing that makes can be
    imported."""
    root = tmp_path_factory.mktemp("clone")
    (root / "dpo4rec_utils").symlink_to(ROOT / "dpo4rec_utils")
    for name in ("notebooks", "docs", "README.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, root / name)
    for profile in PROFILES:
        shutil.copytree(ROOT / "results" / profile / "records", root / "results" / profile / "records")
        shutil.copyfile(ROOT / "results" / profile / "manifest.json", root / "results" / profile / "manifest.json")
        for name in ("notebooks.csv", "setup.csv"):  # what a run leaves besides records
            if (ROOT / "results" / profile / "tables" / name).exists():
                (root / "results" / profile / "tables").mkdir(exist_ok=True)
                shutil.copyfile(
                    ROOT / "results" / profile / "tables" / name, root / "results" / profile / "tables" / name
                )
    shutil.copyfile(ROOT / "results" / "benchmarks.json", root / "results" / "benchmarks.json")
    (root / "blocked").mkdir()
    for name in MAKERS:
        (root / "blocked" / f"{name}.py").write_text("raise ImportError('reading makes nothing')\n")
    return root


def run(root: Path, *command: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": f"{root / 'blocked'}{os.pathsep}{ROOT}",
        "XDG_CACHE_HOME": str(root / "no-cache"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture
def records_of_head():
    """Pages are of the records that were committed: a study of one's own changes records, `make report` the pages."""
    command = ["git", "status", "--porcelain", "--", *(f"results/{profile}/records" for profile in PROFILES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.stdout.strip():
        pytest.skip("records were made anew; make report draws the pages from them")


@pytest.fixture(scope="module")
def reported(clone):
    return run(clone, "-m", "dpo4rec_utils", "report")


@pytest.mark.parametrize("profile", PROFILES)
def test_tables_findings_and_report_are_byte_for_byte_those_committed(clone, reported, profile):
    """Of a loop figures, report and the largest table are not committed."""
    folders, loop = [root / "results" / profile for root in (ROOT, clone)], PROFILE.fullmatch(profile)
    drawn_anew = {"main_results.csv"} if loop else set()
    for part, pattern in (("tables", "*.csv"), ("figures", "*.txt"), (".", "report.html"))[: 1 if loop else 3]:
        committed, drawn = (
            {p.name: p.read_bytes() for p in (f / part).glob(pattern) if p.name not in drawn_anew} for f in folders
        )
        assert committed and committed == drawn, part
    pictures = [{path.name for path in (folder / "figures").glob("*.png")} for folder in folders]
    assert pictures[1] and (loop or pictures[0] == pictures[1])


each_copy = pytest.mark.parametrize(
    "path",
    sorted(path for profile in PROFILES for path in (ROOT / "results" / profile).glob("notebooks/*.ipynb")),
    ids=lambda p: "/".join(p.parts[-3::2]),
)


@each_copy
def test_links_in_outputs_of_executed_copies_lead_somewhere(path):
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
    text = "".join(line for output in outputs for line in output.get("data", {}).get("text/markdown", []))
    missing = [link for link in re.findall(r"\]\(([^)#:]+)\)", text) if not (path.parent / link).exists()]
    assert not missing, "made outside `study`? execute the notebook again"


@each_copy
def test_executed_copies_have_the_prose_of_their_sources(path):
    copy, source = (prose(json.loads(book.read_text())) for book in (path, ROOT / "notebooks" / path.name))
    assert copy == source, "run make report, or the notebook"


@pytest.mark.parametrize("profile", PROFILES)
def test_committed_records_are_of_the_settings_that_their_profile_has(profile):
    Records(ROOT / "results" / profile).require(load_config(profile))


@pytest.mark.parametrize("profile", ["games", "ml-100k"])
def test_executed_copies_hold_todays_findings_over_all_loops(profile):
    for book, names in {"05_main_results": set(across.FIGURES) - {"length"}, "06_ablations": {"length"}}.items():
        copy = json.loads((ROOT / "results" / profile / f"notebooks/{book}.ipynb").read_text())
        outputs = [output for cell in copy["cells"] for output in cell.get("outputs", [])]
        text = "".join(line for output in outputs for line in output.get("text", []))
        for name in names:
            assert (ROOT / f"results/figures/{name}.txt").read_text() in text, f"{name}: execute {book} again"


def test_reading_prints_commit_date_machine_and_versions(reported):
    for words in ("commit ", "date 2026-", "machine ", "versions ", "torch "):
        assert words in reported


def test_pages_are_written_from_the_records(clone, reported, records_of_head):
    for page in ("README.md", "docs/results.md"):
        assert (clone / page).read_text() == (ROOT / page).read_text(), f"{page}: run make report"
    for book in (ROOT / "notebooks").glob("*.ipynb"):
        assert (clone / "notebooks" / book.name).read_bytes() == book.read_bytes(), f"{book.name}: run make report"
    files = ("docs/loop.svg", "results/claims.csv", "results/table_one.csv")
    for path in (*files, *(f"results/figures/{name}.txt" for name in across.FIGURES)):
        assert (clone / path).read_bytes() == (ROOT / path).read_bytes(), f"{path}: run make report"


@pytest.mark.parametrize("name", ["05_main_results", "06_ablations", "07_iteration_and_sample_analysis"])
def test_notebooks_are_read_without_making(clone, name):
    out = clone / f"{name}.ipynb"
    run(clone, "-m", "papermill", f"notebooks/{name}.ipynb", str(out), "-k", "dpo4rec", "--cwd", str(clone))
    book = nbformat.read(out, as_version=4)
    text = "".join(o.get("text", "") for c in book.cells if c.cell_type == "code" for o in c.outputs)
    assert "records | commit" in text and "versions" in text
    assert name != "06_ablations" or "ml-100k asks for no variant that is trained" in text
    assert not (clone / "runs").exists() and not (clone / "no-cache" / "dpo4rec").exists()
    for table in (clone / "results/ml-100k/tables").glob("*.csv"):
        assert table.read_bytes() == (ROOT / "results/ml-100k/tables" / table.name).read_bytes(), table.name


def test_a_notebook_that_has_to_make_says_so_in_one_sentence(clone):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "papermill", "notebooks/01_data_preparation.ipynb", "-", "-k", "dpo4rec"]
    done = subprocess.run([*command, "--cwd", str(clone)], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode and "data cohort is not made for this configuration; set MAKE = True" in done.stderr
