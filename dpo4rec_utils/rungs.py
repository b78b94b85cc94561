"""The rungs of the ladder: ways to bring a user's texts, or history, into re-rankers; one entry each, plain data.

The ladder says before any training what the selection, the length and the number of texts can give (notebook 03). To
add a rung, add its entry here and name it in a profile's `evaluation.ladder`; `ladder.py` makes it.
"""

from dataclasses import dataclass
from typing import Literal

from dpo4rec_utils.arms import Choices


@dataclass(frozen=True)
class Rung(Choices):
    """One rung.

    label: its words in tables and figures. group: what its group asks. against: the rung it is compared with. source:
    the zero-shot LLM's texts, templated profiles, or a mean of item vectors. count: texts of a user. pick: which of
    those that a user has: 'drawn' (a random `count`), or the first by an order. together: their mean vector as one
    input, instead of each by itself. titles: how many a template states, whatever its length; None: as much as a text
    of the LLM may hold. shuffled: another user's. history: the history mean is a second input.
    """

    name: str
    label: str
    group: Literal["number", "selection", "length", "history", "on top"]
    against: str
    source: Literal["texts", "template", "shown_mean", "history_mean"] = "texts"
    count: int = 1
    pick: Literal["drawn", "longest", "shortest", "nearest", "amortised", "equal_length", "least_amortised"] = "drawn"
    together: bool = False
    titles: int | None = None
    shuffled: bool = False
    history: bool = False

    @property
    def rewarded(self) -> bool:
        """Whether it takes its texts by a reward model."""
        return self.pick in ("amortised", "equal_length", "least_amortised")


FEW = 2  # texts of a user that a selection takes, as many as it is compared with
FIRST = "texts_2"  # what most rungs are compared with: two texts at random, each by itself
WORDS = {1: "one", 2: "two", 4: "four", 8: "eight"}


def _number() -> list[Rung]:
    rungs = [
        Rung(f"texts_{n}", f"{word} text{'s, each by itself' if n > 1 else ''}", "number", FIRST, count=n)
        for n, word in WORDS.items()
    ]
    return rungs + [
        Rung(f"mean_{n}", f"mean vector of {word}", "number", FIRST, count=n, together=True)
        for n, word in WORDS.items()
        if n > 1
    ]


def _selection() -> list[Rung]:
    orders = {
        "longest": "longest",
        "shortest": "shortest",
        "nearest": "nearest to the history mean",
        "amortised": "best by amortised reward",
        "equal_length": "best by it at equal length",
        "least_amortised": "worst by it",
    }
    return [
        Rung(f"pick_{pick}", f"of all, the two {words}", "selection", FIRST, count=FEW, pick=pick)
        for pick, words in orders.items()
    ]


def _length() -> list[Rung]:
    rungs = [
        Rung(f"template_{n}", f"template, {n} title{'s' * (n > 1)}", "length", FIRST, "template", FEW, titles=n)
        for n in (1, 2, 3, 5, 10)
    ]
    return [*rungs, Rung("template", "template within the limit", "length", FIRST, "template", FEW)]


def _on_top(added: str, label: str, **how) -> Rung:
    return Rung(f"history_mean+{added}", f"history mean + {label}", "on top", "history_mean", history=True, **how)


RUNGS = {
    rung.name: rung
    for rung in (
        *_number(),
        *_selection(),
        *_length(),
        Rung("shown_mean", "mean of items shown", "history", FIRST, "shown_mean"),
        Rung("history_mean", "history mean", "history", FIRST, "history_mean"),
        _on_top("texts_2", "two texts, each by itself", count=2),
        _on_top("mean_2", "mean vector of two", count=2, together=True),
        _on_top("mean_8", "mean vector of eight", count=8, together=True),
        _on_top("mean_8_shuffled", "another user's eight", count=8, together=True, shuffled=True),
        _on_top("template", "template", source="template", count=FEW),
        _on_top("shown_mean", "mean of items shown", source="shown_mean"),
    )
}


def with_compared(names) -> list[Rung]:
    """The rungs of these names, and those that they are compared with."""
    return [RUNGS[name] for name in dict.fromkeys([*names, *(RUNGS[name].against for name in names)])]
