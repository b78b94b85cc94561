"""k-cores: of a table of interactions, the part where every user and every item has enough of them.

Which rows stay is found from two 64-bit hashes a row, so that a table that does not fit into memory is read twice as
a stream instead: once for the hashes, once for the rows that stay. (Two ids share a hash with a chance of one in a
million for six million ids; they would be counted as one.)
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd


def hashed_ids(parts: Iterator[pd.DataFrame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint64 hashes of users and of items, and whether both are there, of all rows of a stream of (user, item)
    tables."""
    users, items, present = [], [], []
    for part in parts:
        present.append(part[["user", "item"]].notna().all(axis=1).to_numpy())
        users.append(hashes(part.user))
        items.append(hashes(part.item))
    return np.concatenate(users), np.concatenate(items), np.concatenate(present)


def hashes(ids: pd.Series) -> np.ndarray:
    """(n,) uint64 hashes of texts; a missing one counts as an empty text."""
    return pd.util.hash_array(ids.fillna("").to_numpy(object), categorize=False)


def core_rows(users: np.ndarray, items: np.ndarray, least: tuple[int, int]) -> np.ndarray:
    """(n,) bool, True for the interactions in the largest part where each user and each item has enough of them.

    users, items: (n,) hashes; least: interactions a user and an item need. A user's repeats with an item count once,
    and stay or go together. Users and items with too few go in turns until none is left that has too few (Seidman,
    Network structure and minimum degree, Social Networks 5, 1983, https://doi.org/10.1016/0378-8733(83)90028-X).
    """
    users, items = (np.unique(ids, return_inverse=True)[1] for ids in (users, items))
    pairs = np.unique(users * (items.max(initial=0) + 1) + items)
    pair_users, pair_items = np.divmod(pairs, items.max(initial=0) + 1)
    enough = [np.ones(users.max(initial=0) + 1, bool), np.ones(items.max(initial=0) + 1, bool)]
    alive = np.ones(len(pairs), bool)
    while True:
        before = alive.sum()
        for side, codes in enumerate((pair_users, pair_items)):
            enough[side] = np.bincount(codes[alive], minlength=len(enough[side])) >= least[side]
            alive &= enough[side][codes]
        if alive.sum() == before:
            return enough[0][users] & enough[1][items]
