"""Paired differences by user: bootstrap intervals, p-values, Holm's correction, power, t of a mean."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.stats import t as student


def paired_differences(
    differences: np.ndarray, bootstrap: int, rng: np.random.Generator, seeds: np.ndarray | None = None
) -> list[dict]:
    """Mean of each column of per-user differences (U, n) with its 95 % percentile interval and a two-sided bootstrap p.

    Users are resampled, the same resamples for every column. `seeds` (S, n), the mean difference of each training
    seed, has seeds resampled as well, their deviations widened by sqrt(S / (S - 1)) as S is small: without it an
    interval would hold for these trained re-rankers only. The p-value is the share of centred resamples at least as
    far from zero as the mean (Efron and Tibshirani, 1993, ch. 16), with one added to both counts. Raises `ValueError`
    for fewer than two users or a missing value.
    """
    differences = np.asarray(differences, dtype=float)
    users = len(differences)
    if users < 2 or np.isnan(differences).any():
        raise ValueError("paired differences need two users at least and a value for each")
    means = _resampled_means(differences, bootstrap, rng)
    if seeds is not None and len(seeds) > 1:
        deviations = (seeds - np.mean(seeds, axis=0)) * np.sqrt(len(seeds) / (len(seeds) - 1))
        means += _resampled_means(deviations, bootstrap, rng)
    mean = differences.mean(axis=0)
    extreme = (np.abs(means - mean) >= np.abs(mean) - 1e-15).sum(axis=0)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return [
        {
            "users": users,
            "difference": float(d),
            "ci_low": float(lo),
            "ci_high": float(hi),
            "p": (e + 1) / (bootstrap + 1),
        }
        for d, lo, hi, e in zip(mean, low, high, extreme.tolist(), strict=True)
    ]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values (1979), in the order given."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1)
    return out


def detectable_difference(differences: np.ndarray, users: int, rng: np.random.Generator, alphas=(0.05,)) -> list[float]:
    """Smallest true mean difference that a study of `users` users finds with probability 0.8, at each two-sided alpha.

    Simulated from the differences (seeds, U) of a pilot: 2,000 studies draw seeds and users with replacement, average
    over seeds, and test the mean with the noise of users and of seeds, as `paired_differences` does; the pilot's own
    mean is taken out.
    """
    differences = np.asarray(differences, dtype=float)
    differences = differences - differences.mean()
    count, pilot = differences.shape
    errors, means = [], []
    for _ in range(20):
        seeds, drawn_users = rng.integers(count, size=(100, count)), rng.integers(pilot, size=(100, users))
        drawn = differences[seeds[:, :, None], drawn_users[:, None, :]]
        variance = drawn.mean(axis=1).var(axis=1, ddof=1) / users
        if count > 1:
            variance += drawn.mean(axis=2).var(axis=1, ddof=1) / count
        errors.append(np.sqrt(variance))
        means.append(drawn.mean(axis=(1, 2)))
    error, mean = np.concatenate(errors), np.concatenate(means)
    return [float(np.quantile(NormalDist().inv_cdf(1 - alpha / 2) * error - mean, 0.8)) for alpha in alphas]


def t_of_mean(values: np.ndarray) -> float:
    """Student's t of the mean of `values` against 0; NaN for fewer than two values or no spread."""
    values = values[~np.isnan(values)]
    if len(values) < 2 or values.std() == 0:
        return float("nan")
    return float(values.mean() / (values.std(ddof=1) / np.sqrt(len(values))))


def clustered_mean(values: np.ndarray, users: np.ndarray) -> tuple[float, float, float]:
    """Mean of `values` (n,) with the ends of its 95 % interval, in which the values of a user count as one draw.

    The variance of a ratio of sums by user (Cochran, Sampling Techniques, 1977, ch. 6); NaN without values.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    mean, (_, place) = values.mean(), np.unique(users, return_inverse=True)
    clusters = np.bincount(place, weights=values - mean)
    count = len(clusters)
    error = np.sqrt((clusters**2).sum() * count / max(1, count - 1)) / len(values)
    return float(mean), float(mean - 1.96 * error), float(mean + 1.96 * error)


def clustered_share(right: np.ndarray, users: np.ndarray) -> tuple[float, float, float]:
    """`clustered_mean` of values between 0 and 1, whose interval keeps to them."""
    mean, low, high = clustered_mean(right, users)
    return mean, *map(float, np.clip((low, high), 0, 1))


@dataclass(frozen=True)
class LoopNoise:
    """What means of loops differ by beside their users and seeds: a variance, and the degrees of freedom with which it
    is known."""

    variance: float
    freedom: float


def loop_noise(loops: list[np.ndarray]) -> LoopNoise:
    """The noise of training again, one for n comparisons, of L loops (S, U, n) as in `looped_differences`; L above 1.

    variance: that of the loops' means less the part of users and seeds, mean over comparisons, 0 at least. One
    comparison of two loops knows its noise with one degree of freedom; n of them know a noise in common with
    (tr C)^2 / tr C^2 as many, C the covariance of their differences by user (Box, 1954, on sums of squares that are
    not independent). A noise in common is an assumption: a control that is trained too has more of it than one that is
    not.
    """
    means = np.array([loop.mean(axis=(0, 1)) for loop in loops])
    variance = max(float((means.var(axis=0, ddof=1) - _within(loops)).mean()), 0.0)
    by_user = [loop.mean(axis=0) for loop in loops]
    covariance = np.atleast_2d(np.cov(np.concatenate([x - x.mean(axis=0) for x in by_user]), rowvar=False))
    squares = float((covariance**2).sum())
    independent = np.trace(covariance) ** 2 / squares if squares > 0 else 1.0
    return LoopNoise(variance, float((len(loops) - 1) * independent))


def looped_differences(
    loops: list[np.ndarray], bootstrap: int, rng: np.random.Generator, noise: LoopNoise | None = None
) -> list[dict]:
    """Mean difference of n comparisons over L loops, each trained anew and tested on other users, with its 95 %
    interval and two-sided p.

    loops: (S, U, n) differences of a loop by training seed and user; U may differ. The interval of a single loop is
    that of `paired_differences`: it is for this loop alone. That of more is Student's t: the variance of a loop's mean
    is what its users and seeds explain and, beside that, `noise.variance`, over L; degrees of freedom `noise.freedom`.
    Without `noise` it is the `loop_noise` of these comparisons. loop_sd: standard deviation of the loops' means, users
    and seeds in it (NaN of one); detectable: the true difference that a test at 0.05 finds four times out of five.
    Raises `ValueError` for no loop, fewer than two users or a missing value.
    """
    loops = [np.asarray(loop, dtype=float) for loop in loops]
    if not loops or any(loop.shape[1] < 2 or np.isnan(loop).any() for loop in loops):
        raise ValueError("differences need a loop at least, two users in each and a value for each")
    count, within = len(loops), _within(loops)
    sizes = {"loops": count, "users": sum(loop.shape[1] for loop in loops)}
    if count == 1:
        (loop,) = loops
        rows = paired_differences(loop.mean(axis=0), bootstrap, rng, loop.mean(axis=1))
        extra = {"loop_sd": float("nan")}
        seen = (NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)) * np.sqrt(within)
        return [row | sizes | extra | {"detectable": float(s)} for row, s in zip(rows, seen, strict=True)]
    means = np.array([loop.mean(axis=(0, 1)) for loop in loops])
    noise = noise or loop_noise(loops)
    mean, error = means.mean(axis=0), np.sqrt((within + noise.variance) / count)
    half = student.ppf(0.975, noise.freedom) * error
    p = 2 * student.sf(np.abs(mean) / np.maximum(error, 1e-300), noise.freedom)
    columns = {"difference": mean, "ci_low": mean - half, "ci_high": mean + half, "p": np.where(mean == 0, 1.0, p)}
    columns |= {"loop_sd": means.std(axis=0, ddof=1), "detectable": half + student.ppf(0.8, noise.freedom) * error}
    return [sizes | {name: float(values[i]) for name, values in columns.items()} for i in range(len(mean))]


def _within(loops: list[np.ndarray]) -> np.ndarray:
    """(n,) the variance of a loop's mean that is of its users and seeds, mean over loops."""
    return np.mean([_variance(loop.mean(axis=0)) + _variance(loop.mean(axis=1)) for loop in loops], axis=0)


def _variance(values: np.ndarray) -> np.ndarray:
    """(n,) variances of the means of values (rows, n); nothing of a single row."""
    return values.var(axis=0, ddof=1) / len(values) if len(values) > 1 else np.zeros(values.shape[1])


DRAWS = 1000  # at once, so that memory does not grow with the bootstrap


def _resampled_means(values: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, n) means of values (rows, n) whose rows are drawn with replacement."""
    rows, means = len(values), np.empty((draws, values.shape[1]))
    for begin in range(0, draws, DRAWS):
        part = means[begin : begin + DRAWS]
        part[:] = rng.multinomial(rows, np.full(rows, 1 / rows), size=len(part)) / rows @ values
    return means
