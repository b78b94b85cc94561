"""How reliable a reward is: two halves of a user's lists, read against each other."""

import numpy as np

from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.rewards.values import half_rewards


def split_half(rewards: np.ndarray, lists: CandidateLists, users) -> dict:
    """Reliability of a reward over the texts of a user, from two halves of the user's lists (even and odd).

    Returns `r`, the correlation of the halves' deviations from the user's mean over texts; `gain`, what the best text
    by one half gains on the other half over the mean text, and `ci_half`, half the width of its 95 % interval over
    users; `users`, those with two lists or more; `x` and `y`, the points.
    """
    halves = np.array([half_rewards(rewards, lists, users, half) for half in (0, 1)])
    halves = halves[:, ~np.isnan(halves).any(axis=(0, 2))]
    if not halves.size:
        return {"r": float("nan"), "gain": float("nan"), "ci_half": float("nan"), "users": 0, "x": [], "y": []}
    a, b = halves - halves.mean(axis=2, keepdims=True)
    rows = np.arange(len(a))
    gain = (b[rows, a.argmax(axis=1)] + a[rows, b.argmax(axis=1)]) / 2
    interval = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
    spread = a.std() * b.std()
    r = float((a * b).mean() / spread) if spread > 0 else float("nan")
    points = {"x": a.ravel().tolist(), "y": b.ravel().tolist()}
    return {"r": r, "gain": float(gain.mean()), "ci_half": float(interval), "users": len(a)} | points


BINS = 41


def density(x, y) -> dict:
    """The points of `split_half` as a square histogram: `edges` (BINS + 1) on both axes, `counts` (BINS, BINS), y by x.

    The edges reach as far as the 99th percentile of both; points beyond stand in the outermost cells. Empty without
    points.
    """
    if not len(x):
        return {"edges": [], "counts": []}
    limit = float(np.percentile(np.abs([x, y]), 99)) or 1.0
    edges = np.linspace(-limit, limit, BINS + 1)
    inside = [np.clip(values, -limit, limit) for values in (y, x)]
    counts = np.histogram2d(*inside, bins=(edges, edges))[0]
    return {"edges": edges.round(6).tolist(), "counts": counts.astype(int).tolist()}
