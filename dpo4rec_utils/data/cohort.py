"""Users with their histories and futures, and the user split; the protocol is asserted while they are built.

Each user's interactions are sorted stably by time; the first min(ceil(n/2), limit) are the history (KAR, arXiv
2306.10933, section 5.1). Users, not rows, are split.
"""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo4rec_utils.config import SPLITS
from dpo4rec_utils.data.dataset import Dataset
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.seeds import generator


@dataclass(frozen=True)
class Cohort:
    """Users with their history and future, positions for ids.

    users: (U,) ids; split: (U,) one of SPLITS; history and future: a list a user of (item position, rating, timestamp)
    frames in time order; met: a list a user of all item positions, those after `first_interactions` too.
    """

    users: np.ndarray
    split: np.ndarray
    history: list[pd.DataFrame]
    future: list[pd.DataFrame]
    met: list[np.ndarray]

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
    """Sort, cut and split. Users too short for one list are left out, and do not count as skipped.

    Raises `StudyError` if fewer than ten users are left or a history is empty.
    """
    position = pd.Series(np.arange(len(dataset.items)), index=dataset.items.item_id)
    table = dataset.interactions.assign(item=position[dataset.interactions.item_id].to_numpy())
    table = table.sort_values("timestamp", kind="stable")
    users, history, future, met = [], [], [], []
    groups, skipped = dict(list(table.groupby("user_id", sort=False))), 0
    for user in _hash_order(groups):
        everything = groups[user][["item", "rating", "timestamp"]].reset_index(drop=True)
        rows = everything[: config.first_interactions]
        cut = history_length(len(rows), config.history_limit)
        if len(rows) - cut < config.positives_per_list:
            continue
        if skipped < config.skip_users:
            skipped += 1
            continue
        users.append(user)
        history.append(rows[:cut])
        future.append(rows[cut:].reset_index(drop=True))
        met.append(everything.item.to_numpy())
        if config.max_users and len(users) == config.max_users:
            break
    if len(users) < 10:
        raise StudyError(
            f"{dataset.name}: only {len(users)} users are long enough for a list{' and not skipped' if skipped else ''}; ten are "
            "needed at least."
        )
    cohort = Cohort(np.array(users), _split(len(users), config, seed), history, future, met)
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
    if set(cohort.split) != set(SPLITS):
        missing = ", ".join(sorted(set(SPLITS) ^ set(cohort.split)))
        raise StudyError(f"No user is in split {missing}; give more users or change data.train_share.")
    for user, past, later in zip(cohort.users, cohort.history, cohort.future, strict=True):
        if past.empty:
            raise StudyError(f"User {user} has an empty history; give at least one interaction before the lists.")
        if len(later) and past.timestamp.max() > later.timestamp.min():
            raise StudyError(f"User {user} has an interaction in the history that is later than the lists.")
        if set(past.item) & set(later.item):
            raise StudyError(f"User {user} has an item both in the history and in the lists.")
