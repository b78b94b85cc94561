"""Candidate lists, with the protocol asserted while they are built.

Later interactions, by default four at a time, form lists with six negatives the user never interacted with; the label
is 1 where the item is liked, by default rated 4 or more (KAR, arXiv 2306.10933, section 5.1, for the lists of ten).
"""

from dataclasses import dataclass

import numpy as np

from dpo4rec_utils.data.cohort import Cohort
from dpo4rec_utils.data.dataset import Dataset
from dpo4rec_utils.data.feedback import liked
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.seeds import generator

TRIES = 50  # rejections in a row before what is left is drawn from directly


@dataclass(frozen=True)
class CandidateLists:
    """Candidate lists of one protocol, as arrays over L lists of C candidates.

    user: (L,) int64 position in `Cohort.users`; items: (L, C) int64 position in `Dataset.items`, in random order;
    labels: (L, C) float32 in {0, 1}; observed: (L, C) bool, True where the user did interact.
    """

    protocol: str
    user: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    observed: np.ndarray

    def of_users(self, users) -> "CandidateLists":
        """The lists of these users (positions)."""
        keep = np.isin(self.user, np.asarray(users))
        return CandidateLists(self.protocol, self.user[keep], self.items[keep], self.labels[keep], self.observed[keep])

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Draw:
    """Which lists are drawn: `protocol` names the negatives, `seed` is the root seed, `later` takes a user's later
    lists."""

    protocol: str
    seed: int
    later: bool = False


def build_lists(dataset: Dataset, cohort: Cohort, config: DataConfig, draw: Draw) -> CandidateLists:
    """Candidate lists for the users of the cohort.

    protocol 'uniform' draws negatives uniformly (KAR's), 'popularity' from the empirical item distribution; both
    without replacement from items the user never interacted with. A user's negatives depend on (seed, protocol,
    user) alone. `later` gives the next `max_lists` lists of a user instead of the first, which no stage of the loop
    ever sees. Raises `StudyError` for a user who met nearly every item, or where nobody has a list.
    """
    counts = dataset.interactions.item_id.value_counts().reindex(dataset.items.item_id, fill_value=0).to_numpy(float)
    size, skip = config.positives_per_list, config.max_lists if draw.later else 0
    sampler, rows = NegativeSampler(counts if draw.protocol == "popularity" else counts > 0), []
    for index, (user, met, future) in enumerate(zip(cohort.users, cohort.met, cohort.future, strict=True)):
        rng = generator(draw.seed, "later negatives" if draw.later else "negatives", draw.protocol, user)
        met_items = set(met)
        likes = liked(future.rating, config)
        for number in range(len(future) // size)[skip : skip + config.max_lists]:
            place = slice(number * size, (number + 1) * size)
            drawn = sampler.draw(config.negatives_per_list, met_items, rng)
            if drawn is None:
                raise StudyError(
                    f"User {user} met nearly every item, as robots do: there are no {config.negatives_per_list} negatives for a "
                    "list; take the user out of the table, or set data.negatives_per_list lower."
                )
            items = np.concatenate([future.item.to_numpy()[place], drawn])
            label = np.concatenate([likes[place], np.zeros(len(drawn), bool)])
            order = rng.permutation(len(items))
            rows.append((index, items[order], label[order], (np.arange(len(items)) < size)[order]))
    if not rows and not draw.later:
        raise StudyError(f"No user has {size} interactions after the history, so there is no list to rank.")
    empty = np.empty((0, size + config.negatives_per_list))
    columns = zip(*rows, strict=True) if rows else ((), empty, empty, empty.astype(bool))
    user, items, labels, observed = (np.array(column) for column in columns)
    lists = CandidateLists(
        draw.protocol, user.astype(np.int64), items.astype(np.int64), labels.astype(np.float32), observed
    )
    check_lists(lists, cohort)
    if len(lists) and not lists.labels.any():
        raise StudyError("No list holds a liked item; set data.like_threshold lower.")
    return lists


class NegativeSampler:
    """Draws items in proportion to a weight, without replacement and none that a user has met, by rejection.

    The cost of a draw does not depend on the number of items. Drawing one after the other and throwing away what is not
    allowed has the distribution of drawing from the allowed items alone, one after the other without replacement.
    """

    def __init__(self, weight: np.ndarray):
        self.ends = np.cumsum(weight, dtype=float)
        self.possible = np.flatnonzero(weight)

    def draw(self, count: int, met: set, rng: np.random.Generator) -> np.ndarray | None:
        """(count,) distinct item positions outside `met`, or None where there are too few."""
        if len(self.possible) - len(met) < count and len(set(self.possible.tolist()) - met) < count:
            return None
        drawn: dict[int, None] = {}
        for _ in range(TRIES):
            places = np.searchsorted(self.ends, rng.random(2 * count) * self.ends[-1], side="right")
            for item in places.tolist():
                if item not in met and len(drawn) < count:
                    drawn.setdefault(item)
            if len(drawn) == count:
                return np.array(list(drawn))
        # A user who met nearly everything: the same draw from what is left, one after the other.
        weight = np.diff(self.ends, prepend=0.0)
        weight[[*met, *drawn]] = 0
        rest = rng.choice(len(weight), count - len(drawn), replace=False, p=weight / weight.sum())
        return np.array([*drawn, *rest])


def check_lists(lists: CandidateLists, cohort: Cohort) -> None:
    """Assert the protocol: unique candidates, none from the history, negatives never interacted with, labels
    observed."""
    ordered = np.sort(lists.items, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise StudyError("A candidate list holds an item twice.")
    if (lists.labels.astype(bool) & ~lists.observed).any():
        raise StudyError("A negative has label 1.")
    starts = np.searchsorted(lists.user, np.arange(len(cohort.users) + 1))  # lists are in the order of users
    for index, (begin, end) in enumerate(zip(starts, starts[1:], strict=False)):
        items, observed = lists.items[begin:end], lists.observed[begin:end]
        if set(items.ravel()) & set(cohort.history[index].item):
            raise StudyError(f"User {cohort.users[index]} has a history item among the candidates.")
        if set(items[~observed]) & set(cohort.met[index]):
            raise StudyError(f"User {cohort.users[index]} has an item among the negatives that the user met.")
