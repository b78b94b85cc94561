"""Paired differences by user: bootstrap intervals, p-values, Holm's correction, t of a mean."""

import numpy as np


def paired_difference(a: np.ndarray, b: np.ndarray, bootstrap: int, rng: np.random.Generator) -> dict:
    """Mean difference a - b over users with its 95 % percentile interval and a two-sided bootstrap p.

    a, b: (U,) a value a user, NaN where a user has none (left out). The p-value is the share of centred resamples at
    least as far from zero as the mean (Efron and Tibshirani, 1993, ch. 16), with one added to both counts.
    """
    difference = (a - b)[~np.isnan(a - b)]
    if len(difference) < 2:
        raise ValueError("a paired difference needs two users at least")
    weights = rng.multinomial(len(difference), np.full(len(difference), 1 / len(difference)), size=bootstrap)
    means = weights @ difference / len(difference)
    mean = difference.mean()
    extreme = np.count_nonzero(np.abs(means - mean) >= abs(mean) - 1e-15)
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "users": len(difference),
        "difference": float(mean),
        "ci_low": float(low),
        "ci_high": float(high),
        "p": (extreme + 1) / (bootstrap + 1),
    }


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values (1979), in the order given."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1)
    return out


def t_of_mean(values: np.ndarray) -> float:
    """Student's t of the mean of `values` against 0; NaN for fewer than two values or no spread."""
    values = values[~np.isnan(values)]
    if len(values) < 2 or values.std() == 0:
        return float("nan")
    return float(values.mean() / (values.std(ddof=1) / np.sqrt(len(values))))


def minimal_detectable_difference(spread: float, users: int, power: float = 0.8) -> float:
    """The difference that `users` paired users with per-user deviation `spread` show at alpha 0.05 (two-sided)."""
    from scipy.stats import norm

    return float((norm.ppf(0.975) + norm.ppf(power)) * spread / np.sqrt(users))
