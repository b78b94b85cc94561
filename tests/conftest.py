"""Shared fixtures: a tiny data set made here, and the embedded assets (fetched by `make setup`, read offline)."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.data.dataset import Dataset
from dpo4rec_utils.data_config import DataConfig

settings.register_profile("study", deadline=None, derandomize=True)  # a busy machine is slow, and no fault
settings.load_profile("study")


def made_dataset(users=30, items=60, seed=0) -> Dataset:
    """A made data set: every user rates 12 to 30 distinct items at distinct times."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        count = int(rng.integers(12, 31))
        chosen = rng.choice(items, count, replace=False)
        times = rng.permutation(count)
        rows += [
            (f"u{user}", f"i{item}", float(rng.integers(1, 6)), int(t)) for item, t in zip(chosen, times, strict=True)
        ]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "rating", "timestamp"])
    genres = [("Drama", "Comedy"), ("Horror",), ("Action", "Drama"), ()]
    table = pd.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(items)],
            "title": [f"Film {i}" for i in range(items)],
            "year": pd.array([1950 + i for i in range(items)], dtype="Int64"),
            "genres": [genres[i % 4] for i in range(items)],
        }
    )
    return Dataset("made", interactions, table, ("genres",))


def made_study(config: Config, folder):
    """A study whose artefacts and records go to `folder`."""
    from dpo4rec_utils.store import Store  # here, because tests of pages need no torch
    from dpo4rec_utils.study import Study

    return Study(config, Store(folder, as_dict(config)))


def pytest_collection_modifyitems(items):
    """The smoke study first: it takes longest, and other files run beside it."""
    items.sort(key=lambda item: "notebooks" not in item.path.parts)


@pytest.fixture
def dataset():
    return made_dataset()


@pytest.fixture
def data_config():
    return DataConfig()
