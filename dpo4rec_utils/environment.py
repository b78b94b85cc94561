"""Where and with what a record was made: date, versions, commit, machine."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from dpo4rec_utils.files import project_root
from dpo4rec_utils.keys import installed_versions

VERSIONED = ("torch", "transformers", "trl", "peft", "openvino-genai", "gguf", "numpy", "pandas", "papermill")


def _commit() -> str:
    """The checked-out commit, '-dirty' behind it where a tracked file outside results/ differs from it."""
    root = project_root()
    git = ["git", "-C", str(root)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True)
        if Path(top.stdout.strip()).resolve() != root.resolve():
            return "unknown"  # a copy inside another repository is not at that repository's commit
        head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        same = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":(exclude)results"], capture_output=True)
        return head.stdout.strip() + ("-dirty" if same.returncode else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def environment() -> dict:
    """Date (UTC), versions, commit and machine, for records."""
    versions = {"python": platform.python_version()} | installed_versions(VERSIONED)
    cpu = platform.processor() or platform.machine()
    if sys.platform == "linux":
        text = Path("/proc/cpuinfo").read_text()
        lines = [line for line in text.splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
        cpu += " with AVX-512" * (" avx512f " in text)  # twice the speed, and other arithmetic
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    date = time.strftime("%Y-%m-%d", time.gmtime())
    torch = sys.modules.get("torch")  # a process that never imported it computed nothing on a GPU
    gpu = f", {torch.cuda.get_device_name()}" if torch and torch.cuda.is_available() else ""
    device = {"device": f"{cpu}, {cores} cores{gpu}", "threads": torch.get_num_threads() if torch else cores}
    return {"date": date, "versions": versions, "commit": _commit()} | device
