"""Ranking metrics for lists with binary labels; all take (L, C) arrays and return one value a list.

Candidates are ranked by descending score, ties by position in the list (which is random, see lists.py).
NDCG after Jaervelin and Kekaelaeinen (2002), AP@k normalised by min(k, positives).
"""

import numpy as np

CUTOFFS = (1, 3, 5, 7, 10)


def ranked_labels(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Labels (L, C) in rank order of `scores` (L, C). A NaN score raises `ValueError`."""
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN: a ranking of them means nothing")
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(labels, order, axis=1)


def ndcg(ranked: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k in [0, 1]: DCG@k = sum_{i<=k} y_i / log2(i + 1) over its ideal; 0 for a list without a positive."""
    discount = 1 / np.log2(np.arange(2, ranked.shape[1] + 2))
    discount[k:] = 0
    gain = ranked @ discount
    ideal = -np.sort(-ranked, axis=1) @ discount
    return np.divide(gain, ideal, out=np.zeros(len(ranked)), where=ideal > 0)


def _precision_at_hits(ranked: np.ndarray, k: int) -> np.ndarray:
    top = ranked[:, :k]
    return (np.cumsum(top, axis=1) / np.arange(1, top.shape[1] + 1) * top).sum(axis=1)


def average_precision(ranked: np.ndarray, k: int) -> np.ndarray:
    """AP@k in [0, 1]: sum_{i<=k} P@i y_i / min(k, positives); 0 for a list without a positive."""
    positives = np.minimum(ranked.sum(axis=1), k)
    return np.divide(_precision_at_hits(ranked, k), positives, out=np.zeros(len(ranked)), where=positives > 0)


def average_precision_kar(ranked: np.ndarray, k: int) -> np.ndarray:
    """KAR's AP@k (arXiv 2306.10933, released code): divided by the hits within k, so one early hit scores 1.

    Here to compare with other definitions; no table of the study uses it.
    """
    hits = ranked[:, :k].sum(axis=1)
    return np.divide(_precision_at_hits(ranked, k), hits, out=np.zeros(len(ranked)), where=hits > 0)


METRICS = {"ndcg": ndcg, "map": average_precision}


def log_likelihood(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Mean over a list's candidates of log p(label), p = sigmoid(score); (L,), at most 0."""
    return -np.logaddexp(0, np.where(labels > 0, -scores, scores)).mean(axis=1)


def user_means(values: np.ndarray, user: np.ndarray, users: np.ndarray) -> np.ndarray:
    """Mean of per-list values (L, ...) for each of `users`; NaN where a user has no list."""
    position = {u: i for i, u in enumerate(users)}
    rows = np.array([position[u] for u in user])
    total = np.zeros((len(users), *values.shape[1:]))
    np.add.at(total, rows, values)
    count = np.bincount(rows, minlength=len(users)).astype(float)
    count[count == 0] = np.nan
    return total / count.reshape(-1, *[1] * (values.ndim - 1))


def rightly_ordered(differences) -> np.ndarray:
    """1 where a chosen text has more than the rejected one (a difference above 0), 0 where it has less, 0.5 where
    both have the same."""
    return (np.sign(np.asarray(differences, dtype=float)) + 1) / 2
