"""What can be chosen by name: backbones, engines, estimates of the reward, built-in data sets. One entry each.

An entry is plain data: a name, words for people, and where its code is, 'module:name', which is imported when it is
first used. So settings, tables and pages know every name without importing torch. To add one, write its module and
add its entry here; code outside this package calls `add` before it reads a profile (docs/adapting.md).
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(frozen=True)
class Entry:
    """A name as profiles write it, its label in figures and pages, and its code as 'module:name'."""

    name: str
    label: str
    code: str

    @property
    def module(self) -> str:
        """The module that its code is in: a part of the key of whatever is made with it."""
        return self.code.partition(":")[0]

    def load(self):
        """The class or function; raises `ImportError` or `AttributeError` where there is none."""
        return getattr(importlib.import_module(self.module), self.code.partition(":")[2])


@dataclass(frozen=True)
class Backbone(Entry):
    """A re-ranker's core: a module of (hidden, heads, dropout) whose forward(x (B, C, H)) gives scores (B, C).

    reads_history: its forward takes (x, history) and scores with the history's items, rerankers/mir.py; such a
    backbone stands beside the mean of the others and never inside it. Raises `ValueError` for a name that tables could
    not tell from their own words.
    """

    reads_history: bool = False

    def __post_init__(self):
        if self.name == "mean" or not self.name.isidentifier():
            raise ValueError(
                f"{self.name!r} names no backbone; use letters, digits and _, and not 'mean', which tables use."
            )


@dataclass(frozen=True)
class Engine(Entry):
    """What samples texts: a class of (policy, config, workspace) with the method of `knowledge.engines.Sampler`.

    settings: what decides its texts besides policy, prompts, seeds and the decoding of `llm`. package: what it needs
    that is not installed everywhere.
    """

    settings: tuple[str, ...] = ()
    package: str | None = None


@dataclass(frozen=True)
class Estimate(Entry):
    """What pairs are ordered by: a function of (features, realised rewards (P, N)) that gives (P, N),
    rewards/estimates.py.

    of_lists: it is a mean over a user's lists, so a gap counts more where there are more lists.
    """

    of_lists: bool = False


EntryType = TypeVar("EntryType", bound=Entry)


class Registry(Mapping[str, EntryType], Generic[EntryType]):
    """Entries by name, in the order they were added; an unknown name is a `LookupError` that lists what there is."""

    def __init__(self, kind: str, entries: Iterable[EntryType]):
        self.kind, self._entries = kind, {}
        for entry in entries:
            self.add(entry)

    def add(self, entry: EntryType) -> EntryType:
        """Add an entry; raises `ValueError` for a name that there is already."""
        if entry.name in self._entries:
            raise ValueError(f"There is a {self.kind} {entry.name!r} already; choose another name.")
        self._entries[entry.name] = entry
        return entry

    def remove(self, name: str) -> None:
        """Take an entry out again."""
        del self._entries[name]

    def __getitem__(self, name: str) -> EntryType:
        if name not in self._entries:
            raise LookupError(f"There is no {self.kind} {name!r}; there are {', '.join(self)}.")
        return self._entries[name]

    def __contains__(self, name) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


_RERANKERS, _ENGINES = "dpo4rec_utils.rerankers", "dpo4rec_utils.knowledge.engines"
_ESTIMATES, _MOVIELENS = "dpo4rec_utils.rewards.estimates", "dpo4rec_utils.data.movielens"

BACKBONES = Registry(
    "backbone",
    (
        Backbone("dlcm", "DLCM", f"{_RERANKERS}.dlcm:DLCM"),
        Backbone("prm", "PRM", f"{_RERANKERS}.prm:PRM"),
        Backbone("setrank", "SetRank", f"{_RERANKERS}.setrank:SetRank"),
        Backbone("mir", "MIR", f"{_RERANKERS}.mir:MIR", reads_history=True),
        Backbone("dasalc", "DASALC", f"{_RERANKERS}.dasalc:DASALC"),
    ),
)
ENGINES = Registry(
    "engine",
    (
        Engine("openvino", "OpenVINO GenAI", f"{_ENGINES}.openvino:OpenVINOSampler", package="openvino_genai"),
        Engine(
            name="transformers",
            label="transformers",
            code=f"{_ENGINES}.transformers:TransformersSampler",
            settings=("device.sampling",),
        ),
        Engine(
            name="server",
            label="OpenAI-compatible server",
            code=f"{_ENGINES}.server:ServerSampler",
            settings=("llm.server.names", "llm.server.extra"),
        ),
    ),
)
ESTIMATES = Registry(
    "estimate of the reward",
    (
        Estimate("amortised", "amortised", f"{_ESTIMATES}:amortised"),
        Estimate("realised", "realised", f"{_ESTIMATES}:realised", of_lists=True),
        Estimate("embedding", "fit to the history mean", f"{_ESTIMATES}:embedding"),
    ),
)
# Loaders without arguments that give a `data.dataset.Dataset`. Tables of your own need none: a profile describes them.
DATASETS = Registry(
    "built-in data set",
    (
        Entry("ml-100k", "MovieLens-100K", f"{_MOVIELENS}:load_ml_100k"),
        Entry("ml-1m", "MovieLens-1M", f"{_MOVIELENS}:load_ml_1m"),
    ),
)
# What `llm.model` and `encoder.model` may name instead of a folder or a Hub id, and the asset that it stands for.
EMBEDDED = {"llm": {"embedded": "smollm2", "gemma-3-270m": "gemma-3-270m"}, "encoder": {"embedded": "minilm"}}
