"""The data of one configuration: tables, users, lists, and the records about them."""

import functools
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from dpo4rec_utils.config import PROTOCOLS, SPLITS, Config, as_dict
from dpo4rec_utils.data.cohort import Cohort, build_cohort
from dpo4rec_utils.data.dataset import Dataset, tag_matrix
from dpo4rec_utils.data.domain import Domain, load_domain
from dpo4rec_utils.data.lists import CandidateLists, Draw, build_lists
from dpo4rec_utils.data.tables import load_tables
from dpo4rec_utils.keys import fingerprint
from dpo4rec_utils.metrics import METRICS, ranked_labels
from dpo4rec_utils.registries import DATASETS
from dpo4rec_utils.seeds import generator
from dpo4rec_utils.store import Stage


class Data:
    """Tables, users and candidate lists of one configuration. U users, I items, L lists of C candidates."""

    def __init__(self, config: Config):
        self.config = config.data
        self.seed = config.seed if config.data.seed is None else config.data.seed

    @cached_property
    def dataset(self) -> Dataset:
        """The data set's tables, fetched if need be; `StudyError` in one sentence for what is wrong with them."""
        name = self.config.name
        dataset = DATASETS[name].load()() if name in DATASETS else load_tables(self.config, self.seed)
        return replace(dataset, notes=(*self.config.notes, *dataset.notes))

    @cached_property
    def fingerprint(self) -> str:
        """The tables by content."""
        return fingerprint(self.dataset.interactions, self.dataset.items)

    @cached_property
    def cohort(self) -> Cohort:
        """Users, split, histories and futures."""
        return build_cohort(self.dataset, self.config, self.seed)

    @functools.cache
    def lists(self, protocol: str, later: bool = False) -> CandidateLists:
        """Candidate lists of all users under a protocol; `later` ones come after those that the loop learns from."""
        return build_lists(self.dataset, self.cohort, self.config, Draw(protocol, self.seed, later))

    def lists_of(self, protocol: str, *splits: str) -> CandidateLists:
        """The candidate lists of the users of these splits."""
        return self.lists(protocol).of_users(self.cohort.of(*splits))

    @cached_property
    def domain(self) -> Domain:
        """The words of this catalogue: prompts, templates, item text."""
        return load_domain(self.config.domain)

    @cached_property
    def tags(self) -> tuple[np.ndarray, list[str]]:
        """(I, G) float32 membership in the values of the domain's attribute, and their names."""
        return tag_matrix(self.dataset, self.domain.attribute)

    def shuffled_users(self) -> np.ndarray:
        """(U,) another user of the same split for each user; the only user of a split is their own."""
        other = np.arange(len(self.cohort.users))
        for split in SPLITS:
            order = generator(self.seed, "shuffle", split).permutation(self.cohort.of(split))
            other[order] = np.roll(order, 1)
        return other

    def depends(self) -> dict:
        """What decides users, split and lists."""
        return {"tables": self.fingerprint, "data": as_dict(self.config), "seed": self.seed}


def cohort_stage(data: Data) -> Stage:
    """How many users, interactions and items there are, how long histories are and how popularity is spread."""

    def build(_):
        cohort, tables = data.cohort, data.dataset
        lengths = [len(past) for past in cohort.history]
        popularity = np.sort(tables.interactions.item_id.value_counts().to_numpy())[::-1]
        ranks = np.unique(np.geomspace(1, len(popularity), 200).round().astype(int))
        top = popularity[: len(popularity) // 10].sum() / popularity.sum()
        return {
            "users": {split: int((cohort.split == split).sum()) for split in SPLITS},
            "interactions": len(tables.interactions),
            "items": len(tables.items),
            "order": tables.order,
            "dropped": dict(tables.dropped),
            "notes": list(tables.notes),
            "history_mean": float(np.mean(lengths)),
            "history_lengths": np.bincount(lengths).tolist(),
            "popularity": {"rank": ranks.tolist(), "interactions": popularity[ranks - 1].tolist()},
            "top_tenth_share": round(float(top), 4),
        }

    return Stage("data", "cohort", data.depends(), build)


def sanity_stage(data: Data) -> Stage:
    """NDCG and MAP of random, popularity and mean-rating rankers on validation lists: numbers with a known order.

    Popularity and mean rating count train users' interactions only. Rows: protocol, ranker, metric, k, mean, lists.
    """

    def build(_):
        users = set(data.cohort.users[data.cohort.of("train")])
        table = data.dataset.interactions[data.dataset.interactions.user_id.isin(users)]
        order, grouped = data.dataset.items.item_id, table.groupby("item_id").rating
        popularity = grouped.size().reindex(order, fill_value=0).to_numpy(float)
        rating = grouped.mean().reindex(order, fill_value=0).to_numpy(float)
        rng, rows = generator(data.seed, "random ranker"), []
        for protocol in PROTOCOLS:
            lists = data.lists_of(protocol, "validation")
            rankers = {
                "random": rng.random(lists.items.shape),
                "popularity": popularity[lists.items],
                "mean rating": rating[lists.items],
            }
            for name, scores in rankers.items():
                ranked = ranked_labels(scores, lists.labels)
                for metric, k in (("ndcg", 7), ("ndcg", 10), ("map", 7), ("map", 10)):
                    value = METRICS[metric](ranked, k).mean()
                    row = {"protocol": protocol, "ranker": name, "metric": metric, "k": k}
                    rows.append(row | {"mean": round(float(value), 6), "lists": len(lists)})
        return {"rows": rows}

    return Stage("data", "sanity", data.depends(), build)


def user_facts_stage(data: Data) -> Stage:
    """Facts about the test users that have popularity lists, to break a difference down by.

    user (position), interactions in all, mean popularity of the items liked later (train users' interactions), liked
    items a list.
    """

    def build(_):
        lists = data.lists_of("popularity", "test")
        return user_facts(data, np.unique(lists.user)).to_dict("list")

    return Stage("data", "test_users", data.depends(), build)


def user_facts(data: Data, users: np.ndarray) -> pd.DataFrame:
    """user, interactions, popularity of liked items and positives a list of these users (positions), one row each.

    All interactions are counted: most histories have the length that the protocol cuts them to.
    """
    train = set(data.cohort.users[data.cohort.of("train")])
    counts = data.dataset.interactions[data.dataset.interactions.user_id.isin(train)].item_id.value_counts()
    popularity = counts.reindex(data.dataset.items.item_id, fill_value=0).to_numpy()
    lists, rows = data.lists("popularity"), []
    for user in users:
        rows_of_user = lists.user == user
        liked = lists.items[rows_of_user][lists.labels[rows_of_user] > 0]
        rows.append(
            {
                "user": int(user),
                "interactions": len(data.cohort.history[user]) + len(data.cohort.future[user]),
                "popularity of liked items": float(popularity[liked].mean()) if len(liked) else 0.0,
                "positives a list": float(lists.labels[rows_of_user].sum(axis=1).mean()),
            }
        )
    return pd.DataFrame(rows)
