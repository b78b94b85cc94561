"""The profiles whose records are committed: what pages speak of."""

import functools
from pathlib import Path

from dpo4rec_utils.evidence import loops
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.settings import profile_names

MAIN = "ml-100k"  # the default study
ABLATIONS = "ml-100k-ablations"  # what the variants are read from
NO_LOOPS = "No loop of Table 1 is committed; `make study PROFILE=ml-100k-loop-1` makes one."


@functools.cache
def read_records(folder: Path) -> Records:
    """The records of a folder, one object a folder, so that what is computed from them is computed once."""
    return Records(folder)


def committed(results: Path) -> list[str]:
    """The built-in profiles that have records, smoke apart: what pages speak of."""
    return [
        name for name in profile_names() if not name.startswith("smoke") and (results / name / "manifest.json").exists()
    ]


def has(results: Path, name: str, kind: str) -> bool:
    """Whether a profile is committed and has records of a kind: one that was run in parts may lack them."""
    return name in committed(results) and any(r.startswith(kind) for r in read_records(results / name).listed)


@functools.cache
def read_loops(results: Path) -> tuple[loops.Loops, ...]:
    """The loops of Table 1 that are committed."""
    return tuple(loops.read_loops(results, [name for name in committed(results) if has(results, name, "own-")]))
