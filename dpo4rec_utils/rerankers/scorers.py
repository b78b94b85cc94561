"""The evidence is made here: test users' lists, read once an arm and scorer.

Two scorers. *own* trains a re-ranker per arm on that arm's texts (the paper's way). *shared* trains one re-ranker per
backbone and seed on the arms' texts of train users together and swaps only the user's text at test time: paired by
construction. Validation users' differences are kept beside, for the power analysis.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.keys import content_key, fingerprint
from dpo4rec_utils.metrics import CUTOFFS, METRICS, log_likelihood, ranked_labels, user_means
from dpo4rec_utils.rerankers.training import Task, arm_scores, history_table, train_all
from dpo4rec_utils.seeds import derive_seed
from dpo4rec_utils.store import Stage


@dataclass(frozen=True)
class ArmKnowledge:
    """What an arm gives to a re-ranker: users' text vectors (U, S, T) and items' (I, T)."""

    name: str
    user: np.ndarray
    item: np.ndarray


class Scorers:
    """Re-rankers of one configuration: single trainings, and the own and shared scorers of the tables."""

    def __init__(self, data: Data, item_vectors: np.ndarray, config: Config):
        self.data, self.item_vectors, self.config = data, item_vectors, config
        self.seed = config.seed
        self.history = history_table(data.cohort, like_threshold=config.data.like_threshold)

    def task(self, backbone: str, protocol: str, text: np.ndarray, seed: int, item_text=None) -> Task:
        """A training on the train users' lists with `text` (U, S, T) as user knowledge; validation calibrates."""
        train, validation = (self.data.lists_of(protocol, split) for split in ("train", "validation"))
        items = self.item_vectors if item_text is None else item_text
        return Task(
            *(backbone, self.config.reranker, text, items, self.data.genres[0], self.history, train, validation, seed)
        )

    def own_stage(self, protocol: str, arm: ArmKnowledge, ablation: str = "", backbones=None, **change) -> Stage:
        """Metrics of one arm with re-rankers of its own: every backbone and seed.

        `ablation` names a variant: `backbones` and fields of the re-ranker's configuration (`change`) differ, the texts do
        not, and the record is kept apart from the main table's.
        """
        kind, name = (
            ("ablation", f"{ablation}-{protocol}-{arm.name}") if ablation else ("own", f"{protocol}-{arm.name}")
        )
        reranker, tasks = replace(self.config.reranker, **change), {}
        for backbone in backbones or self.config.evaluation.backbones:
            for number in range(self.config.evaluation.seeds):
                seed = derive_seed(self.seed, "own", protocol, backbone, number)
                task = self.task(backbone, protocol, arm.user, seed, arm.item)
                tasks[backbone, number] = replace(task, config=reranker)
        return self._stage(kind, name, tasks, {arm.name: arm.user})

    def shared_stage(self, protocol: str, arms: list[ArmKnowledge], learnt: list[str]) -> Stage:
        """Metrics of all arms with one re-ranker a backbone and seed, trained on the union of the texts of `learnt`.

        Every arm has as many texts of a user in the union: one that the re-rankers read more often would be known better,
        not be better.
        """
        texts, place = {arm.name: arm.user for arm in arms}, np.arange(self.config.llm.evaluation_samples)
        union = np.concatenate([texts[name][:, place % texts[name].shape[1]] for name in learnt], axis=1)
        tasks = {
            (b, s): self.task(b, protocol, union, derive_seed(self.seed, "shared", protocol, b, s))
            for b in self.config.evaluation.backbones
            for s in range(self.config.evaluation.shared_seeds)
        }
        return self._stage("shared", protocol, tasks, texts)

    def _stage(self, kind: str, name: str, tasks: dict[tuple[str, int], Task], texts: dict) -> Stage:
        """Train every task, score the test lists with each arm's text, keep metrics by arm."""
        protocol = next(iter(tasks.values())).train.protocol
        test = self.data.lists_of(protocol, "test")
        validation = next(iter(tasks.values())).validation

        def build(folder):
            finish = functools.partial(arm_scores, lists=test, texts=texts)
            jobs = {f"{backbone}-{seed}": task for (backbone, seed), task in tasks.items()}
            title, workers = f"{kind} {name.replace('-', ' ')}", self.config.evaluation.workers
            done = train_all(jobs, folder / "models", workers, title, dict.fromkeys(jobs, finish))
            arms = {
                arm: _summary(done, tasks, arm, test) | {"validation": _validation(done, tasks, arm, validation)}
                for arm in texts
            }
            return {"protocol": protocol, "scorer": "shared" if kind == "shared" else "own", "arms": arms}

        depends = {
            "protocol": protocol,
            "trainings": {f"{backbone}-{seed}": task.key for (backbone, seed), task in tasks.items()},
            "texts": {arm: fingerprint(text) for arm, text in texts.items()},
            "test": content_key([fingerprint(test.user, test.items, test.labels)]),
            "reranker": as_dict(next(iter(tasks.values())).config),
        }
        return Stage(kind, name, depends, build)


def _validation(done: dict, cells, arm: str, lists: CandidateLists) -> dict:
    """Validation users' NDCG@7 a backbone: (seeds, users), for recipe choices and the power analysis."""
    users, out = np.unique(lists.user), {}
    for backbone, seed in cells:
        ranked = ranked_labels(done[f"{backbone}-{seed}"][f"validation/{arm}"], lists.labels)
        value = user_means(METRICS["ndcg"](ranked, 7), lists.user, users)
        out.setdefault(backbone, []).append(value.round(6).tolist())
    return out


def _summary(done: dict, cells, arm: str, lists: CandidateLists) -> dict:
    """Metrics from test scores (L, C): list and user means a seed, user values averaged over seeds."""
    users = np.unique(lists.user)
    seeds: list[dict] = []
    by_user: dict[str, list] = {}
    for backbone, seed in cells:
        scores = done[f"{backbone}-{seed}"][f"scores/{arm}"]
        ranked = ranked_labels(scores, lists.labels)
        values = {f"{m}@{k}": f(ranked, k) for m, f in METRICS.items() for k in CUTOFFS}
        values["log_likelihood@10"] = log_likelihood(scores, lists.labels)
        for name, value in values.items():
            mean = user_means(value, lists.user, users)
            by_user.setdefault(f"{backbone}/{name}", []).append(mean)
            seeds.append(
                {"backbone": backbone, "seed": seed, "metric": name, "list": value.mean(), "user": mean.mean()}
            )
    averaged = {name: np.mean(values, axis=0).round(6).tolist() for name, values in by_user.items()}
    return {"seeds": seeds, "by_user": averaged, "users": users.tolist(), "lists": len(lists)}
