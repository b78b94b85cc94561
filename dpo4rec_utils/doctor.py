"""Checks of the machine: packages, assets, disk, memory, kernel."""

import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil

from dpo4rec_utils.assets import ASSETS, DEFAULTS, fetch
from dpo4rec_utils.execute import KERNEL
from dpo4rec_utils.files import StudyError, project_root

DISK_GIB, MEMORY_GIB = 5, 8


def checks() -> Iterator[tuple[bool, str, str]]:
    """(passed, what, detail) of every check."""
    yield from _packages()
    for name in DEFAULTS:
        try:
            yield True, f"asset {name}", str(fetch(name, log=lambda _: None).name)
        except StudyError as error:
            yield False, f"asset {name} ({ASSETS[name].requirements})", str(error)
    free = shutil.disk_usage(project_root()).free / 2**30
    yield free >= DISK_GIB, "disk", f"{free:.0f} GiB free, {DISK_GIB} needed"
    memory = psutil.virtual_memory().available / 2**30
    yield memory >= MEMORY_GIB, "memory", f"{memory:.1f} GiB available, {MEMORY_GIB} needed"
    spec = Path(sys.prefix) / "share/jupyter/kernels" / KERNEL / "kernel.json"
    yield spec.exists(), "kernel", f"'{KERNEL}'" if spec.exists() else "not installed; run make setup"


def _packages() -> Iterator[tuple[bool, str, str]]:
    """The packages that the study itself imports or runs, as requirements.txt pins them."""
    for line in (project_root() / "requirements.txt").read_text().splitlines():
        if line.startswith("# What those bring"):
            return
        if match := re.match(r"([\w.-]+)==(\S+)", line):
            name, pinned = match.groups()
            try:
                installed = metadata.version(name).split("+")[0]
            except metadata.PackageNotFoundError:
                installed = "missing"
            yield (
                installed == pinned,
                f"package {name}",
                installed if installed == pinned else f"{installed}, wanted {pinned}",
            )
