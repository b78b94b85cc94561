"""Tables of yours: whatever a profile's `data` section describes, brought into the shape of `Dataset`."""

import ast
import contextlib
import csv
import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from dpo4rec_utils import assets
from dpo4rec_utils.assets import VARIABLE, local_folder
from dpo4rec_utils.data.core import core_rows, hashed_ids, hashes
from dpo4rec_utils.data.dataset import LEAST_LISTED, MOST_BAD_ROWS, UNLISTED, Dataset, usable, validated
from dpo4rec_utils.data.reading import LOOSE, MISSING, read_parts
from dpo4rec_utils.data_config import ColumnsConfig, DataConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.seeds import generator

# What is read of each table, besides the attributes of items.
COLUMNS = {"interactions": ("user", "item", "rating", "timestamp", "position"), "items": ("item", "title", "year")}
MOST_UNLISTED = 0.05  # of the interactions
MOMENTS = (1e8, 1e11, 1e14, 1e17)  # where numbers begin to be seconds, milli-, micro-, nanoseconds since 1970
ENTITY = re.compile(r"&#?\w{1,32};")
SEPARATOR = re.compile(r"\s*[|;]\s*")  # between the values of one attribute


def load_tables(config: DataConfig, seed: int) -> Dataset:
    """The data set that `config` describes; raises `StudyError` in one sentence for what is missing or malformed."""
    listed = _items(pd.concat(_parts(config, "items"), ignore_index=True), config) if not config.core else None
    table, dropped = _in_core(config) if config.core else _listed(config, listed.item_id)
    inter, order = _ordered(_interactions(table, config), config, seed)
    inter, malformed = usable(inter, config.name, table)
    inter, short = _shortened(inter, config)
    if order != "arbitrary":
        _require_order(inter, config)
    if listed is None:
        item_ids = set(inter.item_id)
        listed = _items(pd.concat([part[part.item.isin(item_ids)] for part in _parts(config, "items")]), config)
    notes = (
        ("The order of a user's interactions is arbitrary (seeded): the data have none.",)
        if order == "arbitrary"
        else ()
    )
    dropped = Counter({"malformed": malformed}) + Counter(dropped) + Counter(short)
    listed, dropped = _titled(listed, dropped, config)
    dataset = validated(Dataset(config.name, inter, listed, tuple(config.columns.attributes), order, dropped, notes))
    return _met(dataset)


def _titled(items: pd.DataFrame, dropped: Counter, config: DataConfig) -> tuple[pd.DataFrame, Counter]:
    """With `missing_titles: drop` the items that have a title, and how many had none."""
    untitled = items.title.isna()
    if config.missing_titles == "error" or not untitled.any():
        return items, dropped
    rest = items[~untitled].reset_index(drop=True)
    return rest, dropped + Counter({"items without id or title": int(untitled.sum())})


def _require_listed(unlisted: int, rows: int, config: DataConfig) -> None:
    """Raise `StudyError` where more interactions than a few per cent are with items that are not listed."""
    if config.unlisted == "error" and unlisted > MOST_UNLISTED * rows:
        raise StudyError(
            f"{config.name}: {unlisted} of {rows} interactions are with items that the items table does not list; add them, "
            "mend the ids, or set data.unlisted: drop."
        )


def _met(dataset: Dataset) -> Dataset:
    """Without the items that nobody met: they are no candidates, and their texts need no vector."""
    met = dataset.items.item_id.isin(set(dataset.interactions.item_id))
    dropped = dataset.dropped + Counter({"items that nobody met": int((~met).sum())})
    return replace(dataset, items=dataset.items[met].reset_index(drop=True), dropped=dropped)


def _parts(config: DataConfig, part: str) -> Iterator[pd.DataFrame]:
    """The columns that the profile names of the interactions or of the items, as text, a part of the rows at a time."""
    name, seen = getattr(config, part), set()
    if not name:
        raise StudyError(f"data.{part} is missing; name a file, a folder, an address, or a member of data.archive.")
    source, member = (located(config.archive), name) if config.archive else (located(name), None)
    with tqdm(desc=f"read {part}", unit=" rows", unit_scale=True, delay=2) as bar:
        for table in read_parts(source, member, **_reading(config)):
            if table.attrs.get(LOOSE):
                seen |= set(table.columns)
                table = table.reindex(columns=[*table.columns, *(_named(config.columns, part) - set(table.columns))])
            yield _chosen(table, config.columns, COLUMNS[part])
            bar.update(len(table))
    for column in sorted(_named(config.columns, part) - seen) if seen else ():
        raise StudyError(
            f"data.columns names {column!r}, which is no key of any line; there are {', '.join(sorted(seen))}."
        )


def _named(columns: ColumnsConfig, part: str) -> set[str]:
    """The columns of a table that the profile names."""
    attributes = columns.attributes.values() if part == "items" else ()
    return {source for source in (*(getattr(columns, name) for name in COLUMNS[part]), *attributes) if source}


def _reading(config: DataConfig) -> dict:
    """How separated text is read, where the profile says it."""
    options = {"encoding": config.encoding, "sep": config.separator, "escapechar": config.escape}
    options["quoting"] = csv.QUOTE_NONE if config.quoting == "none" else None
    return {name: value for name, value in options.items() if value}


def _listed(config: DataConfig, items: pd.Series) -> tuple[pd.DataFrame, dict[str, int]]:
    """The interactions as text, without those of unlisted items, and how many these were; where most are, all of
    them."""
    table, listed = pd.concat(_parts(config, "interactions"), ignore_index=True), set(items)
    is_listed = table.item.isna() | table.item.isin(listed)
    if is_listed.mean() >= LEAST_LISTED:  # else the ids are of two kinds, which `validated` says
        _require_listed(int((~is_listed).sum()), len(table), config)
    return (table[is_listed], {UNLISTED: int((~is_listed).sum())}) if is_listed.mean() >= LEAST_LISTED else (table, {})


def _in_core(config: DataConfig) -> tuple[pd.DataFrame, dict[str, int]]:
    """The interactions with listed items in `data.core`, as text, and how many rows were left out."""
    listed = np.unique(np.concatenate([hashes(part.item) for part in _parts(config, "items")]))
    users, items, present = hashed_ids(_parts(config, "interactions"))
    if (~present).sum() > MOST_BAD_ROWS * len(present):
        raise StudyError(f"{config.name}: {(~present).sum()} of {len(present)} interactions lack a user or an item.")
    is_listed = present & np.isin(items, listed)
    if is_listed.any():
        _require_listed(int((present & ~is_listed).sum()), int(present.sum()), config)
    keep = is_listed.copy()
    keep[is_listed] = core_rows(users[is_listed], items[is_listed], (config.core.users, config.core.items))
    if not keep.any():
        raise StudyError(
            f"{config.name}: no interaction is left with data.core.users = {config.core.users} and data.core.items = "
            f"{config.core.items}; set them lower, and check the item ids: {is_listed.sum()} interactions are with listed items."
        )
    parts, begin = [], 0
    for part in _parts(config, "interactions"):
        parts.append(part[keep[begin : begin + len(part)]])
        begin += len(part)
    dropped = {"malformed": ~present, UNLISTED: present & ~is_listed, "outside the core": is_listed & ~keep}
    return pd.concat(parts, ignore_index=True), {reason: int(rows.sum()) for reason, rows in dropped.items()}


def located(name: str) -> Path:
    """A file or folder by its path, which `settings` has resolved, or by its name in the folder that DPO4REC_ASSETS
    names; an address is fetched once.

    Raises `StudyError` for one that is nowhere.
    """
    if "://" in name:
        return assets.archive(name)
    local = local_folder()
    for path in (Path(name), *([local / name] if local else [])):
        if path.exists():
            return path
    where = f"and not in {local}" if local else f"and {VARIABLE} names no folder"
    raise StudyError(f"{name} is not beside the profile's file {where}; check the path.")


def _chosen(table: pd.DataFrame, columns: ColumnsConfig, fields: tuple[str, ...]) -> pd.DataFrame:
    """The columns that the profile names, under the names used here; `StudyError` for one that is not in the table."""
    selection = {}
    named = {name: getattr(columns, name) for name in fields} | (columns.attributes if "title" in fields else {})
    for name, source in named.items():
        if source is None:
            continue
        if source not in table:
            raise StudyError(
                f"data.columns names {source!r} for {name}, which is no column; there are {', '.join(map(str, table.columns))}."
            )
        column = table[source]
        if name in ("user", "item", "title"):  # the type for text is a quarter of the size of Python's strings
            column = column.map(_one_text).astype("str")
            column = column.str.strip() if name != "title" else column
            column = column.mask(column.isin(MISSING))
        selection[name] = column
    return pd.DataFrame(selection)


def _one_text(cell):
    return " ".join(str(part) for part in cell if part is not None) if isinstance(cell, list) else cell


def _interactions(table: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """user_id, item_id, rating, timestamp; what is no number or date becomes missing."""
    if config.feedback == "explicit" and "rating" not in table:
        raise StudyError(
            "data.feedback is explicit and data.columns names no rating; name one or set feedback: implicit."
        )
    out = pd.DataFrame({"user_id": table.user, "item_id": table.item})
    out["rating"] = pd.to_numeric(table.rating, errors="coerce").astype(float) if config.feedback == "explicit" else 1.0
    if config.implicit_rating is not None:
        out.loc[out.rating == config.implicit_rating, "rating"] = config.like_threshold
    if "position" in table:  # where both are named, the position counts
        out["timestamp"] = pd.to_numeric(table.position, errors="coerce").astype(float)
    elif "timestamp" in table:
        out["timestamp"] = _moments(table.timestamp)
    return out


def _moments(column: pd.Series) -> pd.Series:
    """Numbers as they are; dates as ISO 8601 writes them in seconds since 1970; missing where it is neither, or of
    another kind than nearly all others: dates, seconds, milli-, micro- or nanoseconds, smaller numbers.

    A date before 1900 or after 2100 stands for a missing one in most databases. Raises `StudyError` where kinds are
    mixed.
    """
    number = pd.to_numeric(column, errors="coerce").astype(float)
    text = column.astype("str").where(number.isna() & column.notna())
    dates = pd.to_datetime(text, errors="coerce", utc=True, format="ISO8601")
    dates = dates.where(dates.dt.year.between(1900, 2100))
    kinds = pd.Series(np.searchsorted(MOMENTS, number), column.index).where(number.notna())
    kinds = kinds.mask(dates.notna(), len(MOMENTS) + 1)
    counts = kinds.value_counts()
    if counts[1:].sum() > MOST_BAD_ROWS * len(column):
        examples = (repr(column[kinds == kind].iloc[0]) for kind in counts.index[:2])
        raise StudyError(
            f"Times are written in two ways, such as {' and '.join(examples)}; write all as dates, or all in seconds."
        )
    moments = number.where(dates.isna(), (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta("1s"))
    return moments.where(kinds == counts.index[0]) if len(counts) else moments


def _ordered(table: pd.DataFrame, config: DataConfig, seed: int) -> tuple[pd.DataFrame, str]:
    """The interactions with something to sort by, and what that is."""
    if "timestamp" in table and config.order != "seeded":
        return table, "position" if config.columns.position else "time"
    if config.order != "seeded":
        raise StudyError("data.columns names neither a timestamp nor a position; name one, or set data.order: seeded.")
    return table.assign(timestamp=generator(seed, "order").permutation(len(table))), "arbitrary"


def _require_order(table: pd.DataFrame, config: DataConfig) -> None:
    """Raise `StudyError` where the times of most users are all the same: then the order of the file would decide."""
    users = table.groupby("user_id").timestamp.agg(["size", "nunique"])
    users = users[users["size"] > 1]
    if len(users) and (users["nunique"] == 1).mean() > 0.5:
        column = config.columns.position or config.columns.timestamp or "timestamp"
        raise StudyError(
            f"{config.name}: {column} is the same for all interactions of {int((users['nunique'] == 1).sum())} of {len(users)} users, "
            "so it orders nothing; name another column, or set data.order: seeded (arbitrary, and every page says so)."
        )


def _shortened(table: pd.DataFrame, config: DataConfig) -> tuple[pd.DataFrame, dict[str, int]]:
    """The interactions without repeats and without users who have too few, and how many were left out for each.

    Of repeats the first or last in order is kept; 'error' leaves them to `validated`.
    """
    dropped, order = {}, table.sort_values("timestamp", kind="stable")
    if config.duplicates != "error":
        rest = order.drop_duplicates(["user_id", "item_id"], keep=config.duplicates)
        order, dropped["repeated"] = rest, len(order) - len(rest)
    if config.min_interactions:
        rest = order[order.groupby("user_id").item_id.transform("size") >= config.min_interactions]
        order, dropped[f"of users with fewer than {config.min_interactions}"] = rest, len(order) - len(rest)
    if order.empty:
        raise StudyError(f"{config.name}: no user has data.min_interactions = {config.min_interactions}; set it lower.")
    return order.sort_index().reset_index(drop=True), dropped


def _items(table: pd.DataFrame, config: DataConfig) -> pd.DataFrame:
    """item_id, title, year and a tuple of values for each attribute."""
    table = table.reset_index(drop=True)
    if config.duplicates != "error":
        table = table[table.item.isna() | ~table.item.duplicated(config.duplicates)].reset_index(drop=True)
    text = table.year.astype("str") if "year" in table else pd.Series(None, table.index, dtype="str")
    year = pd.to_numeric(text.str.extract(r"^\s*([0-9]{4})(?![0-9])")[0])  # "1999", "1999.0", "1999-05-01"
    # Catalogues from the web hold "&amp;", and runs of blanks that a pattern would try in every way.
    title = table.title.map(lambda text: " ".join(_unescaped(str(text)).split()), na_action="ignore").astype("str")
    if config.broken_title:
        title = title.mask(title.str.contains(config.broken_title, na=False))
    out = pd.DataFrame({"item_id": table.item, "title": title.replace("", None)})
    out["year"] = year.where(year.between(1000, 2100)).astype("Int64")
    repeated = out.title.str.extract(
        r"^(.+?)\s*\(([0-9]{4})\)$"
    )  # "Heat (1995)" where the year has a column of its own
    same = pd.to_numeric(repeated[1]).astype("Int64").eq(out.year).fillna(False).astype(bool)
    out["title"] = out.title.mask(same, repeated[0])
    for name in config.columns.attributes:
        try:
            out[name] = [_values(cell) for cell in table[name]]
        except TypeError as error:
            raise StudyError(f'{config.name}: {name} {error}; write the values as texts, a|b or ["a", "b"].') from None
    return out


def _values(cell) -> tuple[str, ...]:
    """The values of an attribute's cell, each once: those of a list, also of one written as JSON or by Python, text
    split at | and ;, nothing for a missing one. `TypeError` for a list of anything but texts and numbers."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        parsed = _written_list(cell)
        cell = cell if parsed is None else parsed
    if isinstance(cell, dict) or isinstance(cell, list) and any(isinstance(value, (list, dict)) for value in cell):
        raise TypeError(f"holds no list of texts, but {str(cell)[:60]}")
    if cell is None or not isinstance(cell, list) and cell != cell:
        return ()
    values = cell if isinstance(cell, list) else SEPARATOR.split(_unescaped(str(cell)))
    texts = (_unescaped(str(value)).strip() for value in values if isinstance(value, (str, int, float)))
    return tuple(dict.fromkeys(text for text in texts if text not in MISSING))


def _written_list(text: str) -> list | None:
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            parsed = read(text)
            return parsed if isinstance(parsed, list) else None
    return None


def _unescaped(text: str) -> str:
    """Entities with their semicolon alone: in "Q&parameter" none is meant."""
    return ENTITY.sub(lambda match: html.unescape(match[0]), text)


@dataclass(frozen=True)
class LeftOut:
    """What of new users' interactions was not read: users of whom nothing is left, and rows, by reason."""

    users: dict[str, list[str]]
    rows: Counter


def read_interactions(path: Path, config: DataConfig, dataset: Dataset, seed: int) -> tuple[pd.DataFrame, LeftOut]:
    """Interactions of other users with the items of `dataset`: user_id, item (position), rating, timestamp, in
    order; and what was left out.

    Columns as the profile names them. Raises `StudyError` as `load_tables` does: too many rows malformed or with
    unlisted items, times that order nothing.
    """
    columns = config.columns
    if config.interactions is None:  # a built-in data set, whose loader names the columns
        columns = columns.changed(rating="rating", timestamp="timestamp")
    raw = pd.concat(read_parts(Path(path), **_reading(config)), ignore_index=True)
    raw, config = _chosen(raw, columns, COLUMNS["interactions"]), config.changed(columns=columns, min_interactions=None)
    unlisted = raw.item.notna() & ~raw.item.isin(set(dataset.items.item_id))
    if unlisted.mean() <= 1 - LEAST_LISTED:  # else the ids are of two kinds, which `validated` says
        _require_listed(int(unlisted.sum()), len(raw), config)
    table, order = _ordered(_interactions(raw, config), config, seed)
    whole, malformed = usable(table, Path(path).name, raw)
    table, short = _shortened(whole, config)
    if order != "arbitrary":
        _require_order(table, config)
    dropped = Counter({"malformed": malformed}) + Counter(short)
    read = validated(Dataset(Path(path).name, table, dataset.items, dataset.attributes, order, dropped))
    place = pd.Series(np.arange(len(dataset.items)), index=dataset.items.item_id)
    users = {
        "without a row that can be read": sorted(set(raw.user.dropna()) - set(whole.user_id)),
        "without a listed item": sorted(set(whole.user_id) - set(read.interactions.user_id)),
    }
    table = read.interactions.assign(item=place[read.interactions.item_id].to_numpy())
    return table.sort_values("timestamp", kind="stable"), LeftOut(users, read.dropped)
