"""Histories, the user split and candidate lists, with the protocol asserted while they are built.

Protocol (KAR, arXiv 2306.10933, section 5.1, for the lists of ten): each user's interactions are sorted stably by
time; the first min(ceil(n/2), limit) are the history; later ones, four at a time, form lists with six negatives the user
never interacted with; the label is 1 where rating >= 4. Users, not rows, are split.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo4rec_utils.artifacts import StudyError
from dpo4rec_utils.config import DataConfig, generator
from dpo4rec_utils.datasets import Dataset

SPLITS = ("train", "validation", "test")


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
class Cohort:
    """Users with their history and future, positions for ids.

    users: (U,) ids; split: (U,) one of SPLITS; history and future: a list a user of (item position, rating, timestamp)
    frames in time order.
    """

    users: np.ndarray
    split: np.ndarray
    history: list[pd.DataFrame]
    future: list[pd.DataFrame]

    def of(self, *splits: str) -> np.ndarray:
        """Positions of the users of these splits, ascending."""
        return np.flatnonzero(np.isin(self.split, splits))


def history_length(n: int, limit: int) -> int:
    """min(ceil(n/2), limit): how many of n interactions are history."""
    return min(math.ceil(n / 2), limit)


def _hash_order(ids) -> list:
    """Ids in an order that depends on them alone, so `max_users` keeps the same users on any machine."""
    return sorted(ids, key=lambda u: hashlib.sha256(str(u).encode()).hexdigest())


def build_cohort(dataset: Dataset, config: DataConfig, seed: int) -> Cohort:
    """Sort, cut and split. Users too short for one list are left out.

    Raises `StudyError` if fewer than ten users are left or a history is empty.
    """
    position = pd.Series(np.arange(len(dataset.items)), index=dataset.items.item_id)
    table = dataset.interactions.assign(item=position[dataset.interactions.item_id].to_numpy())
    table = table.sort_values("timestamp", kind="stable")
    users, history, future = [], [], []
    groups = dict(list(table.groupby("user_id", sort=False)))
    for user in _hash_order(groups):
        rows = groups[user][["item", "rating", "timestamp"]].reset_index(drop=True)
        cut = history_length(len(rows), config.history_limit)
        if len(rows) - cut < config.positives_per_list:
            continue
        users.append(user)
        history.append(rows[:cut])
        future.append(rows[cut:].reset_index(drop=True))
        if config.max_users and len(users) == config.max_users:
            break
    if len(users) < 10:
        raise StudyError(
            f"{dataset.name}: only {len(users)} users are long enough for a list; ten are needed at least."
        )
    cohort = Cohort(np.array(users), _split(len(users), config, seed), history, future)
    check_cohort(cohort)
    return cohort


def _split(count: int, config: DataConfig, seed: int) -> np.ndarray:
    """(count,) of SPLITS. Validation users are the same in every fold and never test; the others rotate."""
    order = generator(seed, "split").permutation(count)
    train, validation = round(count * config.train_share), max(1, round(count * config.validation_share))
    fixed, others = order[train : train + validation], np.delete(order, np.s_[train : train + validation])
    tested = len(others) - train
    if config.fold and (config.fold + 1) * tested > len(others):
        raise StudyError(
            f"data.fold = {config.fold}: {config.fold + 1} folds of {tested} test users are more than the {len(others)} that "
            "are not for validation; set data.max_users a little lower or change the shares."
        )
    others = np.roll(others, config.fold * tested)
    split = np.full(count, "test", dtype="<U10")
    split[others[:train]] = "train"
    split[fixed] = "validation"
    return split


def check_cohort(cohort: Cohort) -> None:
    """Assert the protocol: users once, disjoint splits, no empty history, no future in a history."""
    if len(set(cohort.users)) != len(cohort.users):
        raise StudyError("A user stands twice in the cohort.")
    if not set(cohort.split) <= set(SPLITS):
        raise StudyError(f"Unknown split among {sorted(set(cohort.split))}.")
    for user, past, later in zip(cohort.users, cohort.history, cohort.future, strict=True):
        if past.empty:
            raise StudyError(f"User {user} has an empty history; give at least one interaction before the lists.")
        if len(later) and past.timestamp.max() > later.timestamp.min():
            raise StudyError(f"User {user} has an interaction in the history that is later than the lists.")
        if set(past.item) & set(later.item):
            raise StudyError(f"User {user} has an item both in the history and in the lists.")


def build_lists(
    dataset: Dataset, cohort: Cohort, protocol: str, config: DataConfig, seed: int, later: bool = False
) -> CandidateLists:
    """Candidate lists for every user of the cohort.

    protocol 'uniform' draws negatives uniformly (KAR's), 'popularity' from the empirical item distribution; both without
    replacement from items the user never interacted with. A user's negatives depend on (seed, protocol, user) alone.
    `later` gives the next `max_lists` lists of a user instead of the first, which no stage of the loop ever sees.
    """
    counts = dataset.interactions.item_id.value_counts().reindex(dataset.items.item_id, fill_value=0).to_numpy(float)
    size, skip = config.positives_per_list, config.max_lists if later else 0
    rows = []
    for index, (user, past, future) in enumerate(zip(cohort.users, cohort.history, cohort.future, strict=True)):
        rng = generator(seed, "later negatives" if later else "negatives", protocol, user)
        weight = (counts > 0).astype(float) if protocol == "uniform" else counts.copy()
        weight[np.concatenate([past.item, future.item])] = 0
        if np.count_nonzero(weight) < config.negatives_per_list:
            raise StudyError(
                f"User {user} interacted with nearly every item: no {config.negatives_per_list} negatives."
            )
        for number in range(len(future) // size)[skip : skip + config.max_lists]:
            seen = future.iloc[number * size : (number + 1) * size]
            drawn = rng.choice(len(weight), config.negatives_per_list, replace=False, p=weight / weight.sum())
            items = np.concatenate([seen.item.to_numpy(), drawn])
            label = np.concatenate([seen.rating.to_numpy() >= config.like_threshold, np.zeros(len(drawn), bool)])
            order = rng.permutation(len(items))
            rows.append((index, items[order], label[order], (np.arange(len(items)) < size)[order]))
    if not rows and not later:
        raise StudyError(f"No user has {size} interactions after the history, so there is no list to rank.")
    empty = np.empty((0, size + config.negatives_per_list))
    columns = zip(*rows, strict=True) if rows else ((), empty, empty, empty.astype(bool))
    user, items, labels, observed = (np.array(column) for column in columns)
    lists = CandidateLists(protocol, user.astype(np.int64), items.astype(np.int64), labels.astype(np.float32), observed)
    check_lists(lists, cohort)
    return lists


def check_lists(lists: CandidateLists, cohort: Cohort) -> None:
    """Assert the protocol: unique candidates, none from the history, negatives never interacted with, labels observed."""
    ordered = np.sort(lists.items, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise StudyError("A candidate list holds an item twice.")
    if (lists.labels.astype(bool) & ~lists.observed).any():
        raise StudyError("A negative has label 1.")
    for index in np.unique(lists.user):
        mine = lists.user == index
        past, later = set(cohort.history[index].item), set(cohort.future[index].item)
        if set(lists.items[mine].ravel()) & past:
            raise StudyError(f"User {cohort.users[index]} has a history item among the candidates.")
        if set(lists.items[mine][~lists.observed[mine]]) & later:
            raise StudyError(f"User {cohort.users[index]} has an own item among the negatives.")


def genre_matrix(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """(items, genres) float32 membership and the genre names, sorted."""
    names = sorted({g for row in dataset.items.genres for g in row})
    matrix = np.array([[g in row for g in names] for row in dataset.items.genres], dtype=np.float32)
    return matrix, names
