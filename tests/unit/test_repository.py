"""The repository itself: versions agree, pages are short and true, paths exist, profiles are light."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from dpo4rec_utils.evidence.committed import committed

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / "README.md", ROOT / "START.md", *sorted((ROOT / "docs").rglob("*.md"))]


def lock() -> dict[str, str]:
    """Normalised name -> exact version of requirements.txt."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines), "exact pins only"
    return {normal(name): version for name, version in (line.split("==") for line in lines)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, Requirement]:
    extras = PROJECT["optional-dependencies"]
    assert set(extras) == {"cpu", "dev"}
    every = [Requirement(text) for text in (*PROJECT["dependencies"], *extras["cpu"], *extras["dev"])]
    return {normal(one.name): one for one in every}


def test_the_study_has_one_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert cited == PROJECT["version"] == metadata.version(PROJECT["name"])


def test_ranges_lock_and_conda_agree():
    pins = lock()
    for name, requirement in declared().items():
        assert requirement.specifier and requirement.specifier.contains(pins[name]), name
    text = (ROOT / "requirements.txt").read_text().split("# What those bring")[0]
    assert {normal(line.split("==")[0]) for line in text.splitlines() if "==" in line} == set(declared())
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(part["pip"] for part in conda["dependencies"] if isinstance(part, dict))
    assert pip == ["-r requirements.txt", "-e ."]


def test_the_lock_is_whole_and_what_is_installed():
    pins = lock()
    for name, version in pins.items():
        assert metadata.version(name).split("+")[0] == version, name
    for name in declared():
        for text in metadata.requires(name) or ():
            needed = Requirement(text)
            if not needed.marker or needed.marker.evaluate({"extra": ""}):
                known = normal(needed.name) in pins or normal(needed.name) in ("setuptools", "pip")
                assert known or normal(needed.name).startswith(("nvidia-", "cuda-", "triton")), (name, needed.name)


def test_everything_that_the_package_imports_is_declared():
    wanted = set()
    for path in (ROOT / "dpo4rec_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            wanted |= {name.split(".")[0] for name in [*names, getattr(node, "module", None) or ""] if name}
    providers = metadata.packages_distributions()
    outside = {name for name in wanted if name in providers} - set(sys.stdlib_module_names) - {"dpo4rec_utils"}
    assert outside and all({normal(d) for d in providers[name]} & set(declared()) for name in outside), outside


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    words = re.sub(r"\]\([^)]*\)|<!--.*?-->", "]", text)
    assert len(re.findall(r"[\w'’.-]*\w", words)) <= 1000 and len(text.encode()) <= 12_000


def test_the_first_screen_says_what_it_is_in_120_words():
    """All above the first heading: what it is, what was found, how to run it."""
    screen = (ROOT / "README.md").read_text().split("\n## ")[0]
    words = re.findall(r"[\w'’.@+-]*\w", re.sub(r"\]\([^)]*\)|<!--.*?-->|^# .*", "]", screen, flags=re.M))
    assert len(words) <= 120, len(words)
    assert "make study" in screen and "NDCG@7" in screen
    assert not re.search(r"\bless\b|nats|unseen", screen)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_in_a_page_exists(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) + re.findall(r'src="([^"]+)"', text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_profiles_are_light():
    listed = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / path for path in listed.stdout.splitlines()]
    sizes = {
        name: sum(path.stat().st_size for path in paths if path.is_relative_to(ROOT / "results" / name))
        for name in ("figures", *committed(ROOT / "results"))
    }
    assert sizes and all(size <= 3 * 2**20 for size in sizes.values()), sizes
    assert sum(sizes.values()) <= 30 * 2**20


def test_the_evidence_imports_nothing_that_makes():
    """import-linter holds the contract; this one is against a lazy import, at run time."""
    import subprocess

    code = "import dpo4rec_utils.evidence.pages, sys; print([m for m in ('torch', 'transformers', 'trl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
