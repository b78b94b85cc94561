"""Words: variables and parameters are nouns, a function's name stands for one thing, imports are covered by the
layers."""

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "dpo4rec_utils").rglob("*.py"))}
APART = {path: ast.parse(path.read_text()) for part in ("tests", "benchmarks") for path in (ROOT / part).rglob("*.py")}
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
# Participles and pronouns that say nothing of what a variable holds.
VAGUE = {"found", "asked", "mine", "shown", "known", "given", "kept", "said", "told", "one", "learnt", "own"}


def names(tree: ast.AST) -> set[str]:
    """Variables and parameters."""
    variables = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return variables | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}


def test_variables_are_nouns():
    vague = {path.stem: names(tree) & VAGUE for path, tree in MODULES.items()}
    vague |= {path.stem: names(tree) & {"found", "mine", "given"} for path, tree in APART.items()}
    assert not {name: words for name, words in vague.items() if words}


def test_variables_of_notebooks_are_nouns():
    import nbformat

    for path in NOTEBOOKS:
        code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert (
            not set().union(*(names(ast.parse(re.sub(r"^%.*", "", source, flags=re.M))) for source in code)) & VAGUE
        ), path.stem


def test_public_functions_of_the_making_side_have_one_meaning():
    """No two modules outside `evidence/`, where a table and its figure share a name, define one public name."""
    defined = Counter(
        node.name
        for path, tree in MODULES.items()
        if "evidence" not in path.parts
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    )
    assert not {name for name, count in defined.items() if count > 1}


def test_every_module_has_a_layer_and_stands_on_the_page():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = {name.strip() for line in contract["layers"] for name in line.split("|")}
    top = {path.stem if path.parent.name == "dpo4rec_utils" else path.parent.name for path in MODULES}
    top -= {"__init__"} | {path.name for path in (ROOT / "dpo4rec_utils/knowledge").iterdir() if path.is_dir()}
    assert top == layers and contract["exhaustive"]
    page = (ROOT / "docs/architecture.md").read_text()
    assert not [name for name in layers - {"__main__"} if f"`{name}`" not in page and f"`{name}/`" not in page]
