"""Data sets as three tables: interactions, items, users."""

from dpo4rec_utils.datasets.base import Dataset
from dpo4rec_utils.datasets.movielens import load_ml_1m, load_ml_100k

LOADERS = {"ml-100k": load_ml_100k, "ml-1m": load_ml_1m}


def load_dataset(name: str) -> Dataset:
    """Load a data set by name, fetching it if need be.

    Raises `StudyError` in one sentence for a missing file, a wrong hash, malformed rows or no network.
    """
    return LOADERS[name]()


__all__ = ["Dataset", "LOADERS", "load_dataset"]
