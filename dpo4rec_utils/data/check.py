"""`data check`: what a profile's data are, before anything is run on them."""

from collections.abc import Iterator

import numpy as np

from dpo4rec_utils.config import Config
from dpo4rec_utils.data.data import Data


def described(config: Config) -> Iterator[str]:
    """Sentences about the data of a configuration: what was read and dropped, users, lists, how long histories are."""
    data = Data(config)
    tables, cohort = data.dataset, data.cohort
    inter, users = tables.interactions, tables.interactions.user_id.nunique()
    yield f"{tables.name}: {len(inter)} interactions of {users} users with {len(tables.items)} items, in order of {tables.order}"
    for reason, count in tables.dropped.items():
        yield f"dropped: {count} rows {reason}"
    yield from tables.notes
    counts = inter.user_id.value_counts().to_numpy()
    shown = ", ".join(f"{share} % have {int(np.percentile(counts, 100 - share))} or more" for share in (90, 50, 10))
    yield f"interactions a user: {shown}"
    sizes = {split: len(cohort.of(split)) for split in ("train", "validation", "test")}
    yield f"users with a list: {len(cohort.users)} ({', '.join(f'{n} {split}' for split, n in sizes.items())})"
    lists = data.lists("popularity")
    yield f"candidate lists: {len(lists)}, {lists.labels.sum(axis=1).mean():.2f} liked items of {lists.items.shape[1]} each"
    attributes = ", ".join(f"{name} of {sum(map(bool, tables.values(name)))} items" for name in tables.attributes)
    yield f"attributes: {attributes or 'none'}; years of {int(tables.items.year.notna().sum())} items"
