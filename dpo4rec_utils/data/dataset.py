"""The shape every data set has, and the checks each loader ends with."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo4rec_utils.files import StudyError


@dataclass(frozen=True)
class Dataset:
    """Three tables, each with a fresh RangeIndex.

    interactions: user_id, item_id (str), rating (float), timestamp (int, seconds), in file order.
    items: item_id (str), title, year (Int64, may be missing), genres (tuple of str).
    users: user_id (str), age, gender, occupation (str).
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    users: pd.DataFrame


def validated(dataset: Dataset) -> Dataset:
    """Return the data set, or raise `StudyError` naming the first thing that is wrong with it."""
    inter, items = dataset.interactions, dataset.items
    for table, name in ((inter, "interactions"), (items, "items"), (dataset.users, "users")):
        if table.empty:
            raise StudyError(f"{dataset.name}: the {name} table is empty; the file is cut or of another format.")
    bad = inter[inter.isna().any(axis=1)]
    if len(bad):
        raise StudyError(f"{dataset.name}: interaction row {bad.index[0] + 1} is malformed: {bad.iloc[0].to_dict()}.")
    if items.item_id.duplicated().any():
        raise StudyError(f"{dataset.name}: item {items.item_id[items.item_id.duplicated()].iloc[0]} is listed twice.")
    if inter.duplicated(["user_id", "item_id"]).any():
        row = inter[inter.duplicated(["user_id", "item_id"])].iloc[0]
        raise StudyError(f"{dataset.name}: user {row.user_id} rated item {row.item_id} twice; remove one row.")
    unknown = set(inter.item_id) - set(items.item_id)
    if unknown:
        raise StudyError(f"{dataset.name}: {len(unknown)} rated items are not in the item table, first {min(unknown)}.")
    return dataset


def genre_matrix(dataset: Dataset) -> tuple[np.ndarray, list[str]]:
    """(items, genres) float32 membership and the genre names, sorted."""
    names = sorted({g for row in dataset.items.genres for g in row})
    matrix = np.array([[g in row for g in names] for row in dataset.items.genres], dtype=np.float32)
    return matrix, names
