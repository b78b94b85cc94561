"""Own tables: whatever a profile's `data` section describes, brought into the shape of `Dataset`."""

import html
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from dpo4rec_utils import assets
from dpo4rec_utils.assets import VARIABLE, local_folder
from dpo4rec_utils.config import ColumnsConfig, DataConfig
from dpo4rec_utils.data.dataset import Dataset, validated
from dpo4rec_utils.data.reading import read_table
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.seeds import generator

SEPARATOR = re.compile(r"\s*[|;]\s*")  # between the values of one attribute


def load_own(config: DataConfig, seed: int) -> Dataset:
    """The data set that `config` describes; raises `StudyError` in one sentence for what is missing or malformed."""
    interactions, items = (_table(config, part) for part in ("interactions", "items"))
    columns = config.columns
    inter = _interactions(_chosen(interactions, columns, ("user", "item", "rating", "timestamp", "position")), config)
    inter, order = _ordered(inter, config, seed)
    inter, repeated = _without_duplicates(inter, config.duplicates)
    listed = _items(_chosen(items, columns, ("item", "title", "year")), tuple(columns.attributes))
    notes = (
        ("The order of a user's interactions is arbitrary (seeded): the data have none.",)
        if order == "arbitrary"
        else ()
    )
    dropped = Counter({"repeated": repeated})
    return validated(Dataset(config.name, inter, listed, tuple(columns.attributes), order, dropped, notes))


def _table(config: DataConfig, part: str) -> pd.DataFrame:
    """The interactions or the items, as text."""
    given = getattr(config, part)
    if not given:
        raise StudyError(f"data.{part} is missing; name a file, a folder, or a member of data.archive.")
    options = {"encoding": config.encoding, "sep": config.separator, "escapechar": config.escape}
    options = {name: value for name, value in options.items() if value}
    if config.archive:
        archive = assets.archive(config.archive, config.archive_url) if config.archive_url else located(config.archive)
        return read_table(archive, given, **options)
    return read_table(located(given), **options)


def located(name: str) -> Path:
    """A file or folder by its path, or by its name in the folder that DPO4REC_ASSETS names; `StudyError` if it is in neither."""
    local = local_folder()
    for path in (Path(name), *([local / name] if local else [])):
        if path.exists():
            return path
    where = f"and not in {local}" if local else f"and {VARIABLE} names no folder"
    raise StudyError(f"{name} is not in {os.getcwd()} {where}; check the path.")


def _chosen(table: pd.DataFrame, columns: ColumnsConfig, wanted: tuple[str, ...]) -> pd.DataFrame:
    """The columns that the profile names, under the names used here; `StudyError` for one that is not in the table."""
    found = {}
    named = {name: getattr(columns, name) for name in wanted} | (columns.attributes if "title" in wanted else {})
    for name, source in named.items():
        if source is None:
            continue
        if source not in table:
            raise StudyError(
                f"data.columns names {source!r} for {name}, which is no column; there are {', '.join(map(str, table.columns))}."
            )
        found[name] = table[source]
    return pd.DataFrame(found)


def _interactions(table: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """user_id, item_id, rating, timestamp; what is no number becomes missing."""
    if config.feedback == "explicit" and "rating" not in table:
        raise StudyError(
            "data.feedback is explicit and data.columns names no rating; name one or set feedback: implicit."
        )
    found = pd.DataFrame({"user_id": table.user, "item_id": table.item})
    found["rating"] = (
        pd.to_numeric(table.rating, errors="coerce").astype(float) if config.feedback == "explicit" else 1.0
    )
    if config.implicit_rating is not None:
        found.loc[found.rating == config.implicit_rating, "rating"] = config.like_threshold
    for name in ("position", "timestamp"):
        if name in table:
            found["timestamp"] = pd.to_numeric(table[name], errors="coerce")
    return found


def _ordered(table: pd.DataFrame, config: DataConfig, seed: int) -> tuple[pd.DataFrame, str]:
    """The interactions with something to sort by, and what that is."""
    if "timestamp" in table:
        return table, "position" if config.columns.position else "time"
    if config.order != "seeded":
        raise StudyError("data.columns names neither a timestamp nor a position; name one, or set data.order: seeded.")
    return table.assign(timestamp=generator(seed, "order").permutation(len(table))), "arbitrary"


def _without_duplicates(table: pd.DataFrame, keep: str) -> tuple[pd.DataFrame, int]:
    """One interaction of a user with an item, the first or last in order; 'error' leaves them to `validated`."""
    if keep == "error":
        return table, 0
    kept = table.sort_values("timestamp", kind="stable").drop_duplicates(["user_id", "item_id"], keep=keep).sort_index()
    return kept.reset_index(drop=True), len(table) - len(kept)


def _items(table: pd.DataFrame, attributes: tuple[str, ...]) -> pd.DataFrame:
    """item_id, title, year and a tuple of values for each attribute."""
    year = pd.to_numeric(table.year, errors="coerce") if "year" in table else pd.Series(np.nan, table.index)
    title = table.title.map(html.unescape, na_action="ignore").str.strip()  # catalogues from the web hold "&amp;"
    found = pd.DataFrame({"item_id": table.item, "title": title.replace("", None)})
    found["year"] = year.where(year.between(1000, 2100)).round().astype("Int64")
    for name in attributes:
        found[name] = [_values(cell) for cell in table[name]]
    return found


def _values(cell) -> tuple[str, ...]:
    """The values of an attribute's cell: a list as it is, text split at | and ;, nothing for a missing one."""
    if isinstance(cell, (list, tuple, np.ndarray)):
        return tuple(str(value) for value in cell)
    if cell is None or cell != cell:
        return ()
    return tuple(value for value in SEPARATOR.split(str(cell).strip()) if value)


def read_interactions(path: Path, config: DataConfig, dataset: Dataset, seed: int) -> pd.DataFrame:
    """Interactions of other users with the items of `dataset`: user_id, item (position), rating, timestamp, in order.

    Columns as the profile names them. Rows of unlisted items are left out; `StudyError` where none is left.
    """
    wanted = ("user", "item", "rating", "timestamp", "position")
    given = config.columns
    if config.interactions is None:  # a built-in data set, whose loader names the columns
        given = given.changed(rating="rating", timestamp="timestamp")
    table = _interactions(_chosen(read_table(Path(path)), given, wanted), config)
    table, order = _ordered(table, config.changed(columns=given), seed)
    table = validated(Dataset(Path(path).name, table, dataset.items, dataset.attributes, order)).interactions
    place = pd.Series(np.arange(len(dataset.items)), index=dataset.items.item_id)
    return table.assign(item=place[table.item_id].to_numpy()).sort_values("timestamp", kind="stable")
