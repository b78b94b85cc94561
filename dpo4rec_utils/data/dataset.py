"""The shape every data set has, and the checks each loader ends with."""

from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from dpo4rec_utils.files import StudyError

MOST_BAD_ROWS = 0.01  # a larger share is an error: the file is of another format than it is said to be
UNLISTED = "of unlisted items"  # why an interaction is left out
LEAST_LISTED = 0.5  # of the interactions: below it the ids of the two tables are of different kinds
MOST_TAGS = 200  # values of an attribute that re-rankers read as a feature, the most frequent


@dataclass(frozen=True)
class Dataset:
    """Two tables with a fresh RangeIndex, and what is to be said about them.

    interactions: user_id, item_id (str), rating (float; 1 for implicit feedback), timestamp (a number to sort by).
    items: item_id (str), title, year (Int64, may be missing), and one column of tuples of str for each of
    `attributes`. order: what `timestamp` is: 'time', 'position', or 'arbitrary' (seeded, because the data have
    neither). dropped: reason -> rows left out. notes: sentences that stand wherever a number of this data set is
    shown. users: user_id -> words about the user (age, gender, occupation), for a catalogue that has them.
    """

    name: str
    interactions: pd.DataFrame
    items: pd.DataFrame
    attributes: tuple[str, ...] = ()
    order: str = "time"
    dropped: Counter = field(default_factory=Counter)
    notes: tuple[str, ...] = ()
    users: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def values(self, attribute: str | None) -> list[tuple[str, ...]]:
        """What an attribute says of each item; nothing of any for None or for an attribute that the catalogue lacks."""
        return list(self.items[attribute]) if attribute in self.attributes else [()] * len(self.items)


def validated(dataset: Dataset) -> Dataset:
    """Return the data set without the rows that cannot be used, or raise `StudyError` naming what is wrong with it.

    Rows without user, item or a number where one is needed, and items without id or title, are dropped and counted;
    more than 1 % of either is an error. Interactions with items that are not listed are dropped and counted apart. A
    repeated item or a repeated interaction is an error. Control characters in titles and values become spaces.
    """
    inter, items, dropped = dataset.interactions, dataset.items, Counter(dataset.dropped)
    for table, name in ((inter, "interactions"), (items, "items")):
        if table.empty:
            raise StudyError(f"{dataset.name}: the {name} table is empty; the file is cut or of another format.")
    items = _printable(items, dataset.attributes)
    inter, malformed = usable(inter, dataset.name)
    without = items.item_id.isna() | items.title.isna()
    if without.mean() > MOST_BAD_ROWS:
        raise StudyError(
            f"{dataset.name}: {without.sum()} of {len(items)} items lack an id or a title, the first in row "
            f"{without.idxmax() + 1}; give each item both."
        )
    items, untitled = items[~without].reset_index(drop=True), int(without.sum())
    if items.item_id.duplicated().any():
        raise StudyError(f"{dataset.name}: item {items.item_id[items.item_id.duplicated()].iloc[0]} is listed twice.")
    listed = inter.item_id.isin(set(items.item_id))
    if listed.mean() < LEAST_LISTED:
        some = listed.sum() or "none"
        raise StudyError(
            f"{dataset.name}: {some} of the {len(inter)} interactions is with a listed item; check the item ids."
        )
    dropped.update({"malformed": malformed, UNLISTED: int((~listed).sum()), "items without id or title": untitled})
    inter = inter[listed].reset_index(drop=True)
    if inter.duplicated(["user_id", "item_id"]).any():
        row = inter[inter.duplicated(["user_id", "item_id"])].iloc[0]
        raise StudyError(
            f"{dataset.name}: user {row.user_id} has item {row.item_id} twice; set data.duplicates to first or last."
        )
    counts = Counter({reason: count for reason, count in dropped.items() if count})
    return replace(dataset, interactions=inter, items=items, dropped=counts)


def usable(inter: pd.DataFrame, name: str, raw: pd.DataFrame | None = None) -> tuple[pd.DataFrame, int]:
    """The interactions with user, item and numbers, and how many lack one.

    Raises `StudyError` where these are more than 1 %; it shows the first as it was written, a row of `raw`.
    """
    bad = inter.isna().any(axis=1) | ~np.isfinite(inter[["rating", "timestamp"]].astype(float)).all(axis=1)
    if bad.mean() > MOST_BAD_ROWS:
        row = inter[bad].iloc[0]
        raise StudyError(
            f"{name}: {bad.sum()} of {len(inter)} interactions are malformed, the first in row {bad.idxmax() + 1}: "
            f"{_cells(row if raw is None else raw.loc[bad.idxmax()])}; user and item are needed, a rating is a number, a time is a number or a date like 2026-11-25."
        )
    return inter[~bad].reset_index(drop=True), int(bad.sum())


def _cells(row: pd.Series) -> str:
    """A row's cells, none longer than a line."""
    return ", ".join(f"{name} {str(cell)[:60]!r}" for name, cell in row.items())


CONTROL = dict.fromkeys((*range(32), *range(127, 160)), " ")  # C0 and C1: tabs, line ends, terminal escapes


def _printable(items: pd.DataFrame, attributes: tuple[str, ...]) -> pd.DataFrame:
    """Titles and values on one line without control characters: what is printed in a terminal or on a page is text."""
    texts = {"title": items.title.map(_one_line, na_action="ignore").replace("", None)}
    return items.assign(
        **texts | {name: items[name].map(lambda row: tuple(map(_one_line, row))) for name in attributes}
    )


def _one_line(text: str) -> str:
    return " ".join(text.translate(CONTROL).split())


def tag_matrix(dataset: Dataset, attribute: str | None) -> tuple[np.ndarray, list[str]]:
    """(items, G) float32 membership in the values of an attribute, the 200 most frequent, and their names, sorted.

    One column of zeros where the catalogue has no such attribute: re-rankers always have the input.
    """
    rows = dataset.values(attribute)
    frequent = Counter(value for row in rows for value in set(row)).most_common(MOST_TAGS)
    names = sorted(value for value, _ in frequent)
    place = {name: i for i, name in enumerate(names)}
    matrix = np.zeros((len(rows), max(1, len(names))), np.float32)
    for i, row in enumerate(rows):
        matrix[i, [place[value] for value in row if value in place]] = 1
    return matrix, names
