"""What a text is worth: rewards of lists from scores, and their means by user."""

import numpy as np

from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.metrics import average_precision, log_likelihood, ndcg, ranked_labels, user_means

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
        sample_scores, truth = scores[there, sample], labels[there]
        if kind == "log_likelihood":
            out[there, sample] = log_likelihood(sample_scores, truth)
        else:
            metric = {"ndcg": ndcg, "map": average_precision}[kind]
            out[there, sample] = metric(ranked_labels(sample_scores, truth), 10)
    return out


def half_rewards(rewards: np.ndarray, lists: CandidateLists, users, half: int) -> np.ndarray:
    """(len(users), S): each user's mean over every second list, from the first (`half` 0) or the second (1) on; NaN
    where there is none."""
    rows = [np.flatnonzero(lists.user == user)[half::2] for user in users]
    empty = np.full(rewards.shape[1], np.nan)
    return np.array([rewards[row].mean(axis=0) if len(row) else empty for row in rows]).reshape(len(rows), -1)


def user_rewards(rewards: np.ndarray, lists: CandidateLists, users) -> np.ndarray:
    """(len(users), S): each user's mean over lists, so users weigh the same however many lists they have."""
    keep = np.isin(lists.user, users)
    return user_means(rewards[keep], lists.user[keep], np.asarray(users))
