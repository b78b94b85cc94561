"""The evidence is made here: test users' lists, read once an arm and scorer.

Two scorers. *own* trains a re-ranker per arm on that arm's texts (the paper's way). *shared* trains one re-ranker per
backbone and seed on the arms' texts of train users together and swaps only the user's text at test time: paired by
construction. Validation users' values are kept beside, for the power analysis.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.keys import content_key, fingerprint
from dpo4rec_utils.metrics import CUTOFFS, METRICS, log_likelihood, ranked_labels, user_means
from dpo4rec_utils.registries import BACKBONES
from dpo4rec_utils.rerankers.training import Task, arm_scores, history_table, train_all
from dpo4rec_utils.seeds import derive_seed
from dpo4rec_utils.store import Stage, write_values

PAIRED = ("ndcg", "map")  # whose values by user are kept, at 7


@dataclass(frozen=True)
class ArmKnowledge:
    """What an arm gives to a re-ranker: vectors of users' texts (U, S, T), of items (I, T), and a vector of the
    history (U, T) as a second input of users, or None."""

    name: str
    user_vectors: np.ndarray
    item_vectors: np.ndarray
    history_vector: np.ndarray | None = None


class Scorers:
    """Re-rankers of one configuration: single trainings, and the own and shared scorers of the tables."""

    def __init__(self, data: Data, item_vectors: np.ndarray, config: Config):
        self.data, self.item_vectors, self.config = data, item_vectors, config
        self.seed = config.seed
        self.history = history_table(data.cohort, config.data)

    def task(self, backbone: str, protocol: str, user_vectors: np.ndarray, seed: int, item_vectors=None) -> Task:
        """A training on the train users' lists with `user_vectors` (U, S, T) as knowledge; validation calibrates."""
        return Task(
            backbone=BACKBONES[backbone],
            config=self.config.reranker,
            user_vectors=user_vectors,
            item_vectors=self.item_vectors if item_vectors is None else item_vectors,
            tags=self.data.tags[0],
            history=self.history,
            train=self.data.lists_of(protocol, "train"),
            validation=self.data.lists_of(protocol, "validation"),
            seed=seed,
        )

    def own_stage(self, protocol: str, arm: ArmKnowledge, ablation: str = "", backbones=None, **change) -> Stage:
        """Metrics of one arm with re-rankers of its own: every backbone and seed.

        `ablation` names a change of notebook 06, of `backbones` and fields of the re-ranker's configuration
        (`change`), or what else keeps the record apart from the main table's.
        """
        kind, name = (
            ("ablation", f"{ablation}-{protocol}-{arm.name}") if ablation else ("own", f"{protocol}-{arm.name}")
        )
        reranker, tasks = self.config.reranker.changed(**change), {}
        for backbone in backbones or self.config.evaluation.backbones:
            for number in range(self.config.evaluation.seeds):
                seed = derive_seed(self.seed, "own", protocol, backbone, number)
                task = self.task(backbone, protocol, arm.user_vectors, seed, arm.item_vectors)
                tasks[backbone, number] = replace(task, config=reranker, history_vector=arm.history_vector)
        return self._stage(kind, name, tasks, {arm.name: arm.user_vectors})

    def shared_stage(self, protocol: str, arms: list[ArmKnowledge], trained_on: list[str]) -> Stage:
        """Metrics of all arms with one re-ranker a backbone and seed, trained on the union of the texts of
        `trained_on`.

        Every arm has as many texts of a user in the union: one that the re-rankers read more often would be known
        better, not be better.
        """
        vectors, place = {arm.name: arm.user_vectors for arm in arms}, np.arange(self.config.llm.evaluation_samples)
        union = np.concatenate([vectors[name][:, place % vectors[name].shape[1]] for name in trained_on], axis=1)
        tasks = {
            (b, s): self.task(b, protocol, union, derive_seed(self.seed, "shared", protocol, b, s))
            for b in self.config.evaluation.backbones
            for s in range(self.config.evaluation.shared_seeds)
        }
        return self._stage("shared", protocol, tasks, vectors)

    def _stage(self, kind: str, name: str, tasks: dict[tuple[str, int], Task], user_vectors: dict) -> Stage:
        """Train every task, score the test lists with each arm's user vectors, keep metrics by arm."""
        protocol = next(iter(tasks.values())).train.protocol
        test = self.data.lists_of(protocol, "test")
        validation = next(iter(tasks.values())).validation

        def build(folder):
            finish = functools.partial(arm_scores, lists=test, arms=user_vectors)
            jobs = {f"{backbone}-{seed}": task for (backbone, seed), task in tasks.items()}
            title, workers = f"{kind} {name.replace('-', ' ')}", self.config.evaluation.workers
            done = train_all(jobs, folder / "models", workers, title, dict.fromkeys(jobs, finish))
            arms = {arm: _means(done, tasks, arm, test) for arm in user_vectors}
            values = [_test_values(done, tasks, arm, test) for arm in user_vectors]
            if protocol == "popularity":  # which the power analysis is of
                values += [_validation_values(done, tasks, arm, validation) for arm in user_vectors]
            write_values(pd.concat(values, ignore_index=True), folder)
            return {"protocol": protocol, "scorer": "shared" if kind == "shared" else "own", "arms": arms}

        depends = {
            "protocol": protocol,
            "trainings": {f"{backbone}-{seed}": task.key for (backbone, seed), task in tasks.items()},
            "texts": {arm: fingerprint(vectors) for arm, vectors in user_vectors.items()},
            "test": content_key([fingerprint(test.user, test.items, test.labels)]),
            "reranker": as_dict(next(iter(tasks.values())).config),
        }
        return Stage(kind, name, depends, build)


def _seeds(cells) -> dict[str, list[int]]:
    """backbone -> its training seeds, in order."""
    seeds: dict[str, list[int]] = {}
    for backbone, seed in cells:
        seeds.setdefault(backbone, []).append(seed)
    return seeds


def _means(done: dict, cells, arm: str, lists: CandidateLists) -> dict:
    """Means of every metric: 'backbone/metric' -> `list` and `user` means, a value a training seed; `lists`, how
    many."""
    users, means = np.unique(lists.user), {}
    for backbone, seed in cells:
        scores = done[f"{backbone}-{seed}"][f"scores/{arm}"]
        ranked = ranked_labels(scores, lists.labels)
        values = {f"{m}@{k}": f(ranked, k) for m, f in METRICS.items() for k in CUTOFFS}
        values["log_likelihood@10"] = log_likelihood(scores, lists.labels)
        for name, value in values.items():
            cell = means.setdefault(f"{backbone}/{name}", {"list": [], "user": []})
            cell["list"].append(round(float(value.mean()), 6))
            cell["user"].append(round(float(user_means(value, lists.user, users).mean()), 6))
    return {"means": means, "lists": len(lists)}


def _test_values(done: dict, cells, arm: str, lists: CandidateLists) -> pd.DataFrame:
    """Test users' values of the paired metrics: of NDCG under popularity negatives a training seed each, so that seeds
    can be resampled; of all else averaged over seeds (seed -1)."""
    users, frames = np.unique(lists.user), []
    for backbone, seeds in _seeds(cells).items():
        ranked = {seed: ranked_labels(done[f"{backbone}-{seed}"][f"scores/{arm}"], lists.labels) for seed in seeds}
        for metric in PAIRED:
            values = {s: user_means(METRICS[metric](labels, 7), lists.user, users) for s, labels in ranked.items()}
            if (metric, lists.protocol) != ("ndcg", "popularity"):
                values = {-1: np.mean(list(values.values()), axis=0)}
            names = {"arm": arm, "backbone": backbone, "metric": f"{metric}@7", "split": "test"}
            frames += [_frame(names, seed, users, value) for seed, value in values.items()]
    return pd.concat(frames)


def _validation_values(done: dict, cells, arm: str, lists: CandidateLists) -> pd.DataFrame:
    """Validation users' NDCG@7, a training seed each, for recipe choices and the power analysis."""
    users, frames = np.unique(lists.user), []
    for backbone, seed in cells:
        ranked = ranked_labels(done[f"{backbone}-{seed}"][f"validation/{arm}"], lists.labels)
        value = user_means(METRICS["ndcg"](ranked, 7), lists.user, users)
        names = {"arm": arm, "backbone": backbone, "metric": "ndcg@7", "split": "validation"}
        frames.append(_frame(names, seed, users, value))
    return pd.concat(frames)


def _frame(names: dict[str, str], seed: int, users: np.ndarray, value: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(names | {"seed": np.int8(seed), "user": users.astype(np.int32), "value": value})
