"""One writer at a time: locks that the system frees when their process ends, however it ends."""

import math
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from dpo4rec_utils.files import StudyError, public_text, read_json, write_json

LOCKS = ".locks"  # the folder of locks, in runs/ of stages and in results/ of profiles
MOMENT = 2.0  # seconds
HOLDS = "DPO4REC_HOLDS"  # the profile whose results folder a parent process writes, for the kernels that it starts


@contextmanager
def alone(lock: Path, what: str, wait: float = 0.0):
    """Hold `lock`, a file's path, for a block that writes `what`.

    Where another process holds it: wait up to `wait` seconds, then raise a `StudyError` that names the holder. Who
    waits for longer than a moment says so.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held, holder = FileLock(lock), lock.with_suffix(".holder.json")
    try:
        try:
            held.acquire(timeout=min(wait, MOMENT))
        except Timeout:
            if wait <= MOMENT:
                raise
            print(f"waiting for {_named(holder)}, which makes {what}", flush=True)
            held.acquire(timeout=-1 if math.isinf(wait) else wait)
    except Timeout:
        raise StudyError(f"{what} is being written by {_named(holder)}; wait for it, or stop it.") from None
    try:
        command = public_text(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))[:120]
        write_json(holder, {"pid": os.getpid(), "what": what, "command": command, "since": time.strftime("%H:%M")})
        yield
    finally:
        holder.unlink(missing_ok=True)
        held.release()


@contextmanager
def results_alone(root: Path, profile: str, wait: float = 0.0):
    """Hold the results folder of a profile, unless a parent process does; raises as `alone`."""
    if os.environ.get(HOLDS) == profile:
        yield
        return
    with alone(root / "results" / LOCKS / f"{profile}.lock", f"results/{profile}", wait):
        yield


def stage_lock(root: Path, name: str) -> Path:
    """The lock of a stage."""
    return root / "runs" / LOCKS / f"{name}.lock"


def _named(holder: Path) -> str:
    try:
        process = read_json(holder)
        return f"process {process['pid']} ({process['command']}, since {process['since']})"
    except (OSError, StudyError, KeyError, TypeError):
        return "another process"


def left_unfinished(root: Path) -> str | None:
    """What a process that ended without a word was making, the latest; None where nothing is left."""
    left = []
    for path in root.glob(f"*/{LOCKS}/*.holder.json"):
        try:
            process = read_json(path)
            if not psutil.pid_exists(process["pid"]):
                left.append((path.stat().st_mtime, process["what"]))
        except (OSError, StudyError, KeyError, TypeError):
            continue
    return max(left)[1] if left else None
