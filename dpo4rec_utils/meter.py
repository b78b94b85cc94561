"""What a block of work costs: seconds, kept through interruptions, and peak memory."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dpo4rec_utils.files import read_json, write_json


@dataclass
class Cost:
    """Wall time in seconds and peak resident memory of this process and its children in MiB.

    Seconds of a stage that is built inside another's block count for that stage alone.
    """

    seconds: float = 0.0
    peak_rss_mib: float = 0.0
    journal: Path | None = field(default=None, repr=False)
    started: float = field(default_factory=time.perf_counter, repr=False)
    elsewhere: float = field(default=0.0, repr=False)
    stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self):
        before = read_json(self.journal) if self.journal and self.journal.exists() else {}
        self.before, self.peak_rss_mib = before.get("seconds", 0.0), before.get("peak_rss_mib", 0.0)

    def count(self) -> None:
        """Bring `seconds` up to date and keep them in the journal, so that they outlive whatever ends this process."""
        self.seconds = self.before + time.perf_counter() - self.started - self.elsewhere
        if self.journal:
            write_json(self.journal, {"seconds": self.seconds, "peak_rss_mib": self.peak_rss_mib})

    def watch(self) -> None:
        """Follow the memory until the measured block ends."""
        process, ticks = psutil.Process(), 0
        while True:
            total = 0
            for member in (process, *process.children(recursive=True)):
                try:
                    total += member.memory_info().rss
                except psutil.Error:
                    continue
            self.peak_rss_mib = max(self.peak_rss_mib, total / 2**20)
            if self.stop.wait(0.5):
                return
            ticks += 1
            if ticks % JOURNAL_TICKS == 0:
                self.count()


JOURNAL_TICKS = 6  # half seconds between two entries
_OPEN: list[Cost] = []  # blocks that are measured now, the innermost last


@contextmanager
def measure(journal: Path | None = None):
    """Measure a block as `Cost`; with `journal`, seconds spent before an interruption are kept there and added."""
    cost = Cost(journal=journal)
    thread = threading.Thread(target=cost.watch, daemon=True)
    thread.start()
    _OPEN.append(cost)
    try:
        yield cost
    finally:
        _OPEN.remove(cost)
        cost.stop.set()
        thread.join()
        cost.count()
        if _OPEN and journal:
            _OPEN[-1].elsewhere += time.perf_counter() - cost.started
