"""The reward model: how well a user's later lists are ranked when a text is the knowledge.

It is a knowledge-augmented re-ranker trained on a mixture of LLM samples and templated profiles, cross-fitted over
train users (no text is scored by a model trained on that user's lists) and averaged over seeds. The paper's rewards
are NDCG and MAP; the default is the log-likelihood, which is far more reliable over a user's few lists (notebook 03).
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.keys import fingerprint
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.knowledge.vectors import TextVectors, as_read, means_without
from dpo4rec_utils.rerankers.scorers import Scorers
from dpo4rec_utils.rerankers.training import Task, Trained, load_reranker, score_texts, train_all
from dpo4rec_utils.rewards.reliability import density, split_half
from dpo4rec_utils.rewards.values import KINDS, list_rewards
from dpo4rec_utils.seeds import derive_seed, generator
from dpo4rec_utils.store import Stage


@dataclass(frozen=True)
class ScoredTask:
    """One training of a cross-fitted reward model and the lists that it scores."""

    task: Task
    scored: CandidateLists


@dataclass(frozen=True)
class RewardInputs:
    """What a reward model reads. Its texts are those of the policies and templates, each by itself.

    residual: the history mean beside the text, so that a text earns what it adds to it. llm_only: no template.
    addition: instead of a text the mean vector of its user's others, so that a text earns what the mean of all would
    lack without it.
    """

    residual: bool = False
    llm_only: bool = False
    addition: bool = False

    @property
    def suffix(self) -> str:
        """What names of such models end with."""
        names = ("residual", "llm_only", "addition")
        return "".join(f"-{name.replace('_', '-')}" for name in names if getattr(self, name))

    @property
    def sign(self) -> int:
        """-1 where a score is of what a text is left out of."""
        return -1 if self.addition else 1

    def asked(self, user_vectors: np.ndarray) -> np.ndarray:
        """The vectors that stand for texts' vectors (U, S, T)."""
        return means_without(user_vectors) if self.addition else user_vectors


@dataclass(frozen=True)
class RewardModel:
    """The trained models of one cross-fit and the rewards they gave. L lists of train and validation users.

    rewards: (L, N) by kind of the texts that the model was asked about; lists: those rewarded; fold: user (position) ->
    fold of every train user; folder: the weights of every training; inputs: what the models read.
    """

    rewards: dict[str, np.ndarray]
    lists: CandidateLists
    trainings: dict[str, ScoredTask]
    fold: dict[int, int]
    folder: Path
    inputs: RewardInputs = RewardInputs()

    @property
    def key(self) -> str:
        """Name and key of the artefact."""
        return self.folder.parent.name

    def rescore(self, user_vectors: np.ndarray) -> dict[str, np.ndarray]:
        """Rewards (L, S) by kind of other texts, of vectors (U, S, T), NaN where absent, by models trained without a
        user's lists."""
        results = {}
        for name, training in self.trainings.items():
            model = self._load(name)
            scores = score_texts(model, training.task, training.scored, self.inputs.asked(user_vectors))
            results[name] = {kind: list_rewards(scores, training.scored.labels, kind) for kind in KINDS}
        scored = {name: training.scored for name, training in self.trainings.items()}
        return {kind: self.inputs.sign * merge_scored(results, scored, self.lists, kind) for kind in KINDS}

    def model_without(self, user: int):
        """A model that was trained without this train user's lists, and its task."""
        name = f"fold{self.fold[user]}-seed0"
        return self._load(name), self.trainings[name].task

    def _load(self, name: str):
        with np.load(self.folder / f"{name}.npz") as arrays:
            weights = {k.removeprefix("weight/"): arrays[k] for k in arrays.files if k.startswith("weight/")}
        return load_reranker(self.trainings[name].task, Trained(weights, [], np.nan))


class RewardModels:
    """The reward models of one configuration."""

    def __init__(self, vectors: TextVectors, scorers: Scorers):
        self.vectors, self.knowledge, self.scorers = vectors, vectors.knowledge, scorers
        self.config, self.seed = self.knowledge.config, self.knowledge.seed
        self.cohort = self.knowledge.data.cohort

    @functools.cached_property
    def lists(self) -> CandidateLists:
        """The popularity lists of train and validation users, which all rewards are of."""
        return self.knowledge.data.lists_of("popularity", "train", "validation")

    def mixture(self, policies: list[Policy]) -> np.ndarray:
        """(U, S, T): as many texts of every user of each of these policies, and the randomised templated profiles."""
        return np.concatenate(self._mixed(policies), axis=1)

    def read_mixture(self, policies: list[Policy]) -> np.ndarray:
        """The mixture as re-rankers of the tables read it: `as_read` of each policy's texts, and of the templates."""
        return np.concatenate([as_read(part, self.config.reranker.texts) for part in self._mixed(policies)], axis=1)

    def _mixed(self, policies: list[Policy]) -> list[np.ndarray]:
        return [*self._texts(policies), self.vectors.template_vectors(self.config.reward.templates, full=False)]

    def _texts(self, policies: list[Policy]) -> list[np.ndarray]:
        return [self.vectors.equal_vectors(policy, self.config.llm.evaluation_samples) for policy in policies]

    def of(self, policy: Policy, sources: list[Policy], inputs: RewardInputs | None = None) -> RewardModel:
        """The reward model of a policy's texts, trained on the texts of `sources`, oldest first, and templates."""
        inputs = inputs or RewardInputs()
        name, vectors = policy.name + inputs.suffix, inputs.asked(self.vectors.policy_vectors(policy))
        texts = self._texts(sources) if inputs.llm_only else self._mixed(sources)
        train, seed = self.cohort.of("train"), derive_seed(self.seed, "reward", name)
        fold = assigned_folds(train, self.config.reward.folds, seed)
        history_vector = self.vectors.history_mean if inputs.residual else None
        mixture = np.concatenate([inputs.asked(part) for part in texts], axis=1)
        trainings = self._trainings(mixture, fold, seed, history_vector)

        def build(folder):
            tasks = {key: training.task for key, training in trainings.items()}
            finish = {
                key: functools.partial(score_finish, lists=t.scored, user_vectors=vectors)
                for key, t in trainings.items()
            }
            workers = self.config.evaluation.workers
            done = train_all(tasks, folder / "models", workers, f"reward model of {name}", finish)
            scored = {key: training.scored for key, training in trainings.items()}
            merged = {kind: inputs.sign * merge_scored(done, scored, self.lists, kind) for kind in KINDS}
            np.savez_compressed(folder / "rewards.npz", **merged)
            return {"reliability": self._reliability(merged), "split_half": self._densities(merged)}

        def read(folder):
            with np.load(folder / "rewards.npz") as saved:
                by_user = dict(zip(train.tolist(), fold.tolist(), strict=True))
                return RewardModel(dict(saved), self.lists, trainings, by_user, folder / "models", inputs)

        depends = {
            "trainings": {key: training.task.key for key, training in trainings.items()},
            "text": fingerprint(vectors),
        }
        return self.knowledge.store.make(Stage("reward", name, depends, build, read))

    def _trainings(self, mixture: np.ndarray, fold: np.ndarray, seed: int, history_vector) -> dict[str, ScoredTask]:
        """A fold's model scores the users of that fold and validation users, who serve calibration alone."""
        base = self.scorers.task(self.config.reward.backbone, "popularity", mixture, 0)
        base = replace(base, history_vector=history_vector)
        train, unseen, trainings = self.cohort.of("train"), self.cohort.of("validation"), {}
        for k in range(self.config.reward.folds):
            scored = self.lists.of_users(np.concatenate([train[fold == k], unseen]))
            for s in range(self.config.reward.seeds):
                rest = base.train.of_users(train[fold != k])
                task = replace(base, train=rest, seed=derive_seed(seed, "reward", k, s))
                trainings[f"fold{k}-seed{s}"] = ScoredTask(task, scored)
        return trainings

    def _reliability(self, merged: dict) -> dict:
        out, llm = {}, self.config.llm
        for split, samples in (("train", llm.train_samples), ("validation", llm.evaluation_samples)):
            for kind in KINDS:
                halves = split_half(merged[kind][:, :samples], self.lists, self.cohort.of(split))
                out[f"{split}/{kind}"] = {key: halves[key] for key in ("r", "gain", "users")}
        return out

    def _densities(self, merged: dict) -> dict:
        """What notebook 03 draws of train users: the halves' deviations as a histogram, a kind of reward each."""
        train = self.cohort.of("train")
        halves = {kind: split_half(merged[kind], self.lists, train) for kind in KINDS}
        return {
            kind: {"r": half["r"], "users": half["users"]} | density(half["x"], half["y"])
            for kind, half in halves.items()
        }


def assigned_folds(users: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold in [0, folds) for each of `users`, of sizes that differ by one at most."""
    fold = np.arange(len(users)) % folds
    return fold[generator(seed, "folds").permutation(len(users))]


def score_finish(task: Task, trained: Trained, lists: CandidateLists, user_vectors: np.ndarray) -> dict:
    """What a worker keeps of a scorer: rewards (L, S) of every text for every list by kind, and its weights."""
    scores = score_texts(load_reranker(task, trained), task, lists, user_vectors)
    rewards = {kind: list_rewards(scores, lists.labels, kind).astype(np.float32) for kind in KINDS}
    return rewards | {f"weight/{name}": array for name, array in trained.weights.items()}


def merge_scored(results: dict[str, dict], scored: dict[str, CandidateLists], lists: CandidateLists, kind: str):
    """(L, S) rewards for `lists`: the mean over the models that scored each list; NaN where none did."""
    keys = {(u, *row): i for i, (u, row) in enumerate(zip(lists.user, lists.items.tolist(), strict=True))}
    shape = next(iter(results.values()))[kind].shape[1]
    total, count = np.zeros((len(lists), shape)), np.zeros((len(lists), 1))
    for name, result in results.items():
        part = scored[name]
        rows = np.array([keys[(u, *r)] for u, r in zip(part.user, part.items.tolist(), strict=True)])
        total[rows] += result[kind]
        count[rows] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
