"""`report.html`: one page a profile, the answer first, then every figure and the head of every table."""

import json
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader

from dpo4rec_utils.arms import label
from dpo4rec_utils.evidence.answer import answer
from dpo4rec_utils.evidence.contents import FIGURES, TABLES, write_all
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.words import shortfalls
from dpo4rec_utils.files import read_json, write_text

SECTIONS = {
    "01": "Data",
    "02": "Knowledge",
    "03": "Reward",
    "04": "Alignment",
    "05": "Main results",
    "06": "Ablations",
    "07": "Rounds and samples",
}
SHOWN_ROWS = 20


def write_report(records: Records) -> Path:
    """Draw every table and figure again and write the page about them; returns its path."""
    written, absent = write_all(records)
    environment = Environment(
        loader=PackageLoader("dpo4rec_utils.evidence", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    figures = {name: _figure(records, name) for name in FIGURES if name in written}
    page = environment.get_template("report.html.jinja").render(
        profile=records.profile,
        last=label(records.last),
        provenance=records.provenance().splitlines(),
        answer=answer(records) if "headline" in written else {},
        sections=[
            (number, title, [figure for name, figure in figures.items() if name.startswith(number)])
            for number, title in SECTIONS.items()
        ],
        tables=[_table(records, name) for name in TABLES if name in written],
        absent=absent,
        short=shortfalls(records),
    )
    path = records.folder / "report.html"
    write_text(path, page + "\n")
    return path


def copy_prose(results: Path, sources: Path) -> list[Path]:
    """Give executed copies the prose of their sources, where the sources have it; returns the copies that changed.

    Code and outputs stay those of the run.
    """
    changed = []
    for path in sorted((results / "notebooks").glob("*.ipynb")):
        copy = read_json(path)
        cells = _with_prose(copy["cells"], read_json(sources / path.name)["cells"])
        if cells != copy["cells"]:
            write_text(path, json.dumps(copy | {"cells": cells}, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
            changed.append(path)
    return changed


def _with_prose(copy: list[dict], source: list[dict]) -> list[dict]:
    """The code cells of a copy between the prose of its source, aligned by the code cells' ids; a run adds a cell of
    parameters of its own."""
    ran, written = [cell for cell in copy if cell["cell_type"] == "code"], {cell["id"]: cell for cell in copy}
    cells: list[dict] = []
    for cell in source:
        if cell["cell_type"] == "markdown":
            before = written.get(cell["id"], cell)
            metadata = before.get("metadata", {}) | cell.get("metadata", {})  # where a slide begins, for one
            cells.append(before | {"source": cell["source"], "metadata": metadata})
        elif cell["id"] in (ids := [code["id"] for code in ran]):  # not where a cell was moved since
            end = ids.index(cell["id"]) + 1
            cells, ran = [*cells, *ran[:end]], ran[end:]
    return [*cells, *ran]


def prose(notebook: dict) -> list[str]:
    """The markdown cells of a notebook, as JSON holds it."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def _figure(records: Records, name: str) -> dict:
    return {"name": name, "finding": (records.folder / "figures" / f"{name}.txt").read_text(encoding="utf-8").strip()}


def _table(records: Records, name: str) -> dict:
    """The head of a table as HTML, escaped, and how many rows the CSV has."""
    table = pd.read_csv(records.folder / "tables" / f"{name}.csv")
    body = table.head(SHOWN_ROWS).to_html(index=False, float_format=lambda x: f"{x:.4f}", border=0, na_rep="")
    return {"name": name, "rows": len(table), "shown": min(SHOWN_ROWS, len(table)), "html": body}
