"""Facts of a history: what a prompt states and a templated profile repeats, and how many of them a text names."""

import functools
import re
from collections import Counter
from dataclasses import dataclass

import pandas as pd

from dpo4rec_utils.config import Config
from dpo4rec_utils.data.dataset import Dataset
from dpo4rec_utils.data.domain import Domain
from dpo4rec_utils.data.feedback import disliked, liked
from dpo4rec_utils.files import StudyError

LIMITS = {"liked": 5, "disliked": 3, "decades": 2}


@dataclass(frozen=True)
class Facts:
    """What a prompt says of a history, most frequent first: titles without year; (name, count) for values of the
    attribute and decades; `items`, the positions of the items whose titles these are. `demographics`: words about the
    user, for a template that asks for them.

    A prompt is most of what a text costs, and a tokenizer that splits numbers into digits spends seven tokens on "
    (1995)".
    """

    titles: tuple[str, ...]
    liked: tuple[tuple[str, int], ...]
    disliked: tuple[tuple[str, int], ...]
    decades: tuple[tuple[str, int], ...]
    items: tuple[int, ...] = ()
    demographics: tuple[str, ...] = ()

    @property
    def avoided(self) -> tuple[str, ...]:
        """The disliked values: disliked more often than liked, so none of them is among `liked`."""
        return tuple(name for name, _ in self.disliked)


def _most(counts: Counter, limit: int) -> tuple[tuple[str, int], ...]:
    """The `limit` most frequent, by name where they are equally frequent."""
    return tuple(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit])


class FactReader:
    """Reads the facts of histories (item, rating, timestamp) over one catalogue.

    A prompt shows `llm.titles` titles of a history, the best rated first, of these the latest. `tidy` brings a title
    or value into the shape that prompts can hold: no control words, not too long.
    """

    def __init__(self, dataset: Dataset, domain: Domain, config: Config, tidy=lambda text: text):
        self.config, self.shown, attribute = config.data, config.llm.titles, domain.attribute
        tidied = functools.cache(tidy)
        self.values = [tuple(tidied(value) for value in row) for row in dataset.values(attribute)]
        self.titles = [tidied(plain_title(title)) for title in dataset.items.title]
        self.years = dataset.items.year.to_list()

    def facts(self, history: pd.DataFrame) -> Facts:
        """Facts of one user's history; raises `StudyError` if it is empty.

        Titles are the best rated, latest first. A value is disliked where it was disliked more often than liked,
        counted over the whole history, and liked elsewhere. A user who liked nothing has the best rated third taken
        as liked: the prompt must say something.
        """
        if history.empty:
            raise StudyError("An empty history has no facts; leave the user out or give one interaction.")
        liked_rows = history[liked(history.rating, self.config)]
        if liked_rows.empty:
            liked_rows = history.nlargest(max(1, len(history) // 3), "rating", keep="first")
        best = liked_rows.iloc[::-1].sort_values("rating", ascending=False, kind="stable")
        likes = self._count(liked_rows.item)
        dislikes = self._count(history.item[disliked(history.rating, self.config)])
        avoided = {value for value, count in dislikes.items() if count > likes[value]}
        years = [self.years[i] for i in liked_rows.item]
        return Facts(
            titles=tuple(self.titles[i] for i in best.item[: self.shown]),
            liked=_most(Counter({v: n for v, n in likes.items() if v not in avoided}), LIMITS["liked"]),
            disliked=_most(Counter({v: n for v, n in dislikes.items() if v in avoided}), LIMITS["disliked"]),
            decades=_most(Counter(f"{y // 10 * 10}s" for y in years if not pd.isna(y)), LIMITS["decades"]),
            items=tuple(int(i) for i in best.item[: self.shown]),
        )

    def _count(self, items) -> Counter:
        return Counter(value for item in items for value in self.values[item])


def plain_title(title: str) -> str:
    """The title, a trailing article put first: 'Net, The' becomes 'The Net'."""
    for article in (", The", ", A", ", An"):
        if title.endswith(article):
            title = f"{article[2:]} {title[: -len(article)]}"
    return title


def words_of(text: str) -> list[str]:
    """The words of a text, lower case."""
    return re.findall(r"[\w'-]+", text.lower())


def holds(text: str, name: str) -> bool:
    """Whether a text holds a name as whole words, in capitals or not: no *M* in *many*."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


def named_facts(text: str, facts: Facts) -> tuple[int, int, int, int, int]:
    """How many of the prompt's titles, liked values, disliked values and decades a text names, and its words."""
    parts = (facts.titles, *([name for name, _ in pairs] for pairs in (facts.liked, facts.disliked, facts.decades)))
    return (*(sum(holds(text, name) for name in names) for names in parts), len(words_of(text)))
