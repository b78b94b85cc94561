"""Rewards: how well a user's held-out lists are ranked when a text is the knowledge.

The reward model is a knowledge-augmented re-ranker trained on a mixture of LLM samples and templated profiles, cross-
fitted over user folds (no text is scored by a model trained on that user's lists) and averaged over seeds. The paper's
rewards are NDCG and MAP; the default is the log-likelihood, which is far more reliable over a user's few lists (notebook 03).
"""

import functools
from dataclasses import replace

import numpy as np

from dpo4rec_utils.config import derive_seed, generator
from dpo4rec_utils.lists import CandidateLists
from dpo4rec_utils.metrics import average_precision, log_likelihood, ndcg, ranked_labels, user_means
from dpo4rec_utils.training import Task, Trained, load_reranker, score_texts

KINDS = ("log_likelihood", "ndcg", "map")


def list_rewards(scores: np.ndarray, labels: np.ndarray, kind: str) -> np.ndarray:
    """(L, S) reward of each text for each list from scores (L, S, C); NaN where a text is absent.

    kind: 'log_likelihood' (mean over candidates, at most 0), 'ndcg' or 'map' (at 10, in [0, 1]).
    """
    out = np.full(scores.shape[:2], np.nan)
    for sample in range(scores.shape[1]):
        there = ~np.isnan(scores[:, sample, 0])
        if not there.any():
            continue
        mine, truth = scores[there, sample], labels[there]
        if kind == "log_likelihood":
            out[there, sample] = log_likelihood(mine, truth)
        else:
            metric = {"ndcg": ndcg, "map": average_precision}[kind]
            out[there, sample] = metric(ranked_labels(mine, truth), 10)
    return out


def user_folds(users: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """A fold in [0, folds) for each of `users`, of sizes that differ by one at most."""
    fold = np.arange(len(users)) % folds
    return fold[generator(seed, "folds").permutation(len(users))]


def score_finish(task: Task, trained, lists: CandidateLists, text: np.ndarray) -> dict:
    """What a worker keeps of a scorer: rewards (L, S) of every text for every list by kind, and its weights."""
    scores = score_texts(load_reranker(task, trained), task, lists, text)
    rewards = {kind: list_rewards(scores, lists.labels, kind).astype(np.float32) for kind in KINDS}
    weights = {f"weight/{name}": array for name, array in trained.weights.items()}
    return rewards | weights


def kept_scorer(arrays: dict) -> Trained:
    """The scorer whose weights `score_finish` kept."""
    return Trained(
        {k.removeprefix("weight/"): array for k, array in arrays.items() if k.startswith("weight/")}, [], np.nan
    )


def rescore(task: Task, arrays: dict, lists: CandidateLists, text: np.ndarray) -> dict[str, np.ndarray]:
    """Rewards (L, S) by kind of other texts from a scorer that `score_finish` kept."""
    scores = score_texts(load_reranker(task, kept_scorer(arrays)), task, lists, text)
    return {kind: list_rewards(scores, lists.labels, kind) for kind in KINDS}


def reward_tasks(base: Task, train_users, unseen_users, lists: CandidateLists, text, config, seed: int):
    """The trainings of a cross-fitted reward model: name -> (task, finish), and the lists each one scores.

    `base` holds the mixture as its texts and all train users' lists; `text` (U, S, T) is what is scored. A fold's model
    scores the users of that fold and `unseen_users` (validation), who serve calibration alone.
    """
    fold = user_folds(np.asarray(train_users), config.folds, seed)
    jobs, scored = {}, {}
    for k in range(config.folds):
        held_out = np.asarray(train_users)[fold == k]
        rest = np.asarray(train_users)[fold != k]
        target = lists.of_users(np.concatenate([held_out, unseen_users]))
        for s in range(config.seeds):
            name = f"fold{k}-seed{s}"
            task = replace(base, train=base.train.of_users(rest), seed=derive_seed(seed, "reward", k, s))
            jobs[name] = (task, functools.partial(score_finish, lists=target, text=text))
            scored[name] = target
    return jobs, scored


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


def user_rewards(rewards: np.ndarray, lists: CandidateLists, users) -> np.ndarray:
    """(len(users), S): each user's mean over lists, so users weigh the same however many lists they have."""
    keep = np.isin(lists.user, users)
    return user_means(rewards[keep], lists.user[keep], np.asarray(users))


def split_half(rewards: np.ndarray, lists: CandidateLists, users) -> dict:
    """Reliability of a reward over the texts of a user, from two halves of the user's lists (even and odd).

    Returns `r`, the correlation of the halves' deviations from the user's mean over texts; `gain`, what the best text by
    one half gains on the other half over the mean text, and `half`, half of its 95 % interval over users; `users`, those
    with two lists or more; `x` and `y`, the points.
    """
    first, second = [], []
    for user in users:
        mine = rewards[lists.user == user]
        if len(mine) >= 2 and not np.isnan(mine).any():
            first.append(mine[::2].mean(axis=0))
            second.append(mine[1::2].mean(axis=0))
    if not first:
        return {"r": float("nan"), "gain": float("nan"), "half": float("nan"), "users": 0, "x": [], "y": []}
    a, b = (np.array(half) - np.array(half).mean(axis=1, keepdims=True) for half in (first, second))
    rows = np.arange(len(a))
    gain = (b[rows, a.argmax(axis=1)] + a[rows, b.argmax(axis=1)]) / 2
    interval = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
    spread = a.std() * b.std()
    r = float((a * b).mean() / spread) if spread > 0 else float("nan")
    points = {"x": a.ravel().tolist(), "y": b.ravel().tolist()}
    return {"r": r, "gain": float(gain.mean()), "half": float(interval), "users": len(a)} | points
