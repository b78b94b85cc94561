"""Own tables: whatever a profile's `data` section describes, brought into the shape of `Dataset`."""

import html
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from dpo4rec_utils import assets
from dpo4rec_utils.assets import VARIABLE, local_folder
from dpo4rec_utils.config import ColumnsConfig, DataConfig
from dpo4rec_utils.data.core import core_rows, hashed_ids
from dpo4rec_utils.data.dataset import MOST_BAD_ROWS, Dataset, validated
from dpo4rec_utils.data.reading import read_parts
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.seeds import generator

# What is read of each table, besides the attributes of items.
COLUMNS = {"interactions": ("user", "item", "rating", "timestamp", "position"), "items": ("item", "title", "year")}
SEPARATOR = re.compile(r"\s*[|;]\s*")  # between the values of one attribute


def load_own(config: DataConfig, seed: int) -> Dataset:
    """The data set that `config` describes; raises `StudyError` in one sentence for what is missing or malformed."""
    columns = config.columns
    table, dropped = _in_core(config)
    inter, order = _ordered(_interactions(table, config), config, seed)
    inter, short = _shortened(inter, config)
    listed = pd.concat(_parts(config, "items"), ignore_index=True)
    if config.core:
        listed = listed[listed.item.isin(set(inter.item_id))].reset_index(drop=True)
    listed = _items(listed, config)
    notes = (
        ("The order of a user's interactions is arbitrary (seeded): the data have none.",)
        if order == "arbitrary"
        else ()
    )
    return validated(
        Dataset(config.name, inter, listed, tuple(columns.attributes), order, Counter(dropped) + Counter(short), notes)
    )


def _parts(config: DataConfig, part: str) -> Iterator[pd.DataFrame]:
    """The columns that the profile names of the interactions or of the items, as text, a part of the rows at a time."""
    given, first = getattr(config, part), None
    if not given:
        raise StudyError(f"data.{part} is missing; name a file, a folder, an address, or a member of data.archive.")
    options = {"encoding": config.encoding, "sep": config.separator, "escapechar": config.escape}
    options = {name: value for name, value in options.items() if value}
    source, member = (located(config.archive), given) if config.archive else (located(given), None)
    with tqdm(desc=f"read {part}", unit=" rows", unit_scale=True, delay=2) as bar:
        for table in read_parts(source, member, **options):
            first = table.columns if first is None else first  # a JSON line may lack what others have
            yield _chosen(table.reindex(columns=first), config.columns, COLUMNS[part])
            bar.update(len(table))


def _in_core(config: DataConfig) -> tuple[pd.DataFrame, dict[str, int]]:
    """The interactions as text, those of `data.core` where it is given, and how many rows were left out for it."""
    if not config.core:
        return pd.concat(_parts(config, "interactions"), ignore_index=True), {}
    users, items, present = hashed_ids(_parts(config, "interactions"))
    if 1 - present.mean() > MOST_BAD_ROWS:
        raise StudyError(f"{config.name}: {(~present).sum()} of {len(present)} interactions lack a user or an item.")
    keep = present.copy()
    keep[present] = core_rows(users[present], items[present], (config.core.users, config.core.items))
    if not keep.any():
        raise StudyError(
            f"{config.name}: no interaction is left with data.core.users = {config.core.users} and data.core.items = "
            f"{config.core.items}; set them lower."
        )
    kept, begin = [], 0
    for part in _parts(config, "interactions"):
        kept.append(part[keep[begin : begin + len(part)]])
        begin += len(part)
    dropped = {"outside the core": int((present & ~keep).sum()), "malformed": int((~present).sum())}
    return pd.concat(kept, ignore_index=True), dropped


def located(name: str) -> Path:
    """A file or folder by its path, or by its name in the folder that DPO4REC_ASSETS names; an address is fetched once.

    Raises `StudyError` for one that is nowhere.
    """
    if "://" in name:
        return assets.archive(name)
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
        compact = name in ("user", "item", "title")  # the type for text is a quarter of the size of Python's strings
        found[name] = table[source].astype("str") if compact else table[source]
    return pd.DataFrame(found)


def _interactions(table: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """user_id, item_id, rating, timestamp; what is no number or date becomes missing."""
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
            found["timestamp"] = _moments(table[name])
    return found


def _moments(column: pd.Series) -> pd.Series:
    """Numbers as they are; dates as ISO 8601 writes them in seconds since 1970; missing where it is neither."""
    number = pd.to_numeric(column, errors="coerce")
    if number.notna().any():
        return number
    dates = pd.to_datetime(column.astype("str"), errors="coerce", utc=True, format="ISO8601")
    return (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta("1s")


def _ordered(table: pd.DataFrame, config: DataConfig, seed: int) -> tuple[pd.DataFrame, str]:
    """The interactions with something to sort by, and what that is."""
    if "timestamp" in table:
        return table, "position" if config.columns.position else "time"
    if config.order != "seeded":
        raise StudyError("data.columns names neither a timestamp nor a position; name one, or set data.order: seeded.")
    return table.assign(timestamp=generator(seed, "order").permutation(len(table))), "arbitrary"


def _shortened(table: pd.DataFrame, config: DataConfig) -> tuple[pd.DataFrame, dict[str, int]]:
    """The interactions without repeats and with as many a user as the profile wants, and how many were left out for each.

    Of repeats the first or last in order is kept; 'error' leaves them to `validated`.
    """
    dropped, order = {}, table.sort_values("timestamp", kind="stable")
    if config.duplicates != "error":
        kept = order.drop_duplicates(["user_id", "item_id"], keep=config.duplicates)
        order, dropped["repeated"] = kept, len(order) - len(kept)
    if config.min_interactions:
        kept = order[order.groupby("user_id").item_id.transform("size") >= config.min_interactions]
        order, dropped[f"of users with fewer than {config.min_interactions}"] = kept, len(order) - len(kept)
    if config.first_interactions:
        kept = order[order.groupby("user_id").cumcount() < config.first_interactions]
        order, dropped[f"after a user's first {config.first_interactions}"] = kept, len(order) - len(kept)
    if order.empty:
        raise StudyError(f"{config.name}: no user has data.min_interactions = {config.min_interactions}; set it lower.")
    return order.sort_index().reset_index(drop=True), dropped


def _items(table: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """item_id, title, year and a tuple of values for each attribute."""
    if config.duplicates != "error":
        table = table.drop_duplicates("item", keep=config.duplicates).reset_index(drop=True)
    year = pd.to_numeric(table.year, errors="coerce") if "year" in table else pd.Series(np.nan, table.index)
    title = table.title.map(html.unescape, na_action="ignore").str.strip()  # catalogues from the web hold "&amp;"
    if config.broken_title:
        title = title.mask(title.str.contains(config.broken_title, na=False))
    found = pd.DataFrame({"item_id": table.item, "title": title.replace("", None)})
    found["year"] = year.where(year.between(1000, 2100)).round().astype("Int64")
    repeated = found.title.str.extract(r"^(.+?)\s*\((\d{4})\)$")  # "Heat (1995)" where the year has a column of its own
    same = pd.to_numeric(repeated[1]).astype("Int64").eq(found.year).fillna(False).astype(bool)
    found["title"] = found.title.mask(same, repeated[0])
    for name in config.columns.attributes:
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
    given = config.columns
    if config.interactions is None:  # a built-in data set, whose loader names the columns
        given = given.changed(rating="rating", timestamp="timestamp")
    found = pd.concat(read_parts(Path(path)), ignore_index=True)
    table = _interactions(_chosen(found, given, COLUMNS["interactions"]), config)
    table, order = _ordered(table, config.changed(columns=given), seed)
    table = validated(Dataset(Path(path).name, table, dataset.items, dataset.attributes, order)).interactions
    place = pd.Series(np.arange(len(dataset.items)), index=dataset.items.item_id)
    return table.assign(item=place[table.item_id].to_numpy()).sort_values("timestamp", kind="stable")
