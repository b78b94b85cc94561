"""Can it be learned at all? A linear probe, cross-validated over users, guesses which text of a pair is preferred.

What probes cannot tell from texts and histories is most likely the noise of a user's few lists. What the longer text
wins by itself is length.
"""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd

from dpo4rec_utils.alignment.pairs import RewardedTexts, build_pairs
from dpo4rec_utils.config import AlignmentConfig, RewardConfig
from dpo4rec_utils.keys import content_key, fingerprint
from dpo4rec_utils.metrics import rightly_ordered
from dpo4rec_utils.registries import ESTIMATES
from dpo4rec_utils.rewards.estimates import cross_fitted, estimated_rewards
from dpo4rec_utils.store import Stage, write_values

PROBES = ("facts", "vector", "cosine", "fit")  # what a probe reads, rewards/estimates.py
HELDOUT_PROBES = ("facts", "vector", "fit")  # those that held-out pairs are shown to, too
LONGER = "longer wins"  # the rule beside the probes


def pair_differences(values: np.ndarray, rewarded: RewardedTexts, pairs: pd.DataFrame) -> np.ndarray:
    """(n,) value of the chosen text less that of the rejected one; `values`: (P, N), in the order of `rewarded`."""
    row = np.searchsorted(rewarded.users, pairs.user)
    return values[row, pairs.chosen_sample] - values[row, pairs.rejected_sample]


def described_pairs(rewarded: RewardedTexts, pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs with what is known of them beside the order: `tokens`, `unseen` (what lists that gave no reward say) and a
    column for each of `HELDOUT_PROBES`, each of the chosen text less that of the rejected one. Probes were not fitted
    on users of fold -1."""
    features, columns = rewarded.features, {"tokens": rewarded.features.tokens, "unseen": rewarded.unseen}
    # A text that may not be paired says nothing: it has the mean of its user's others, and 0 where there are none.
    rewards = rewarded.order
    allowed = np.isfinite(rewards)
    total = np.where(allowed, rewards, 0).sum(axis=1, keepdims=True)
    order = np.where(allowed, rewards, total / np.maximum(allowed.sum(axis=1, keepdims=True), 1))
    columns |= {f"probe_{name}": cross_fitted(features.of(name), order, features.fold) for name in HELDOUT_PROBES}
    return pairs.assign(**{name: pair_differences(values, rewarded, pairs) for name, values in columns.items()})


def probe_stage(name: str, rewarded: RewardedTexts, config: AlignmentConfig, reward: RewardConfig) -> Stage:
    """How often each probe orders pairs rightly, for pairs by realised and by amortised rewards, as they are and at
    equal length.

    `name`: the policy whose texts these are. Values: estimate, equal_length, probe, user, value (see
    `metrics.rightly_ordered`).
    """

    def build(folder):
        features, frames, sizes = rewarded.features, [], {}
        for estimate, equal in itertools.product(("realised", "amortised"), (False, True)):
            changed = reward.changed(estimate=estimate, equal_length=equal)
            rewards = estimated_rewards(features, rewarded.realised, changed)
            pairs = build_pairs(_reordered(rewarded, rewards, estimate), config)
            sizes[f"{estimate}/{equal}"] = {"pairs": len(pairs), "users": pairs.user.nunique()}
            guesses = {probe: cross_fitted(features.of(probe), rewards, features.fold) for probe in PROBES}
            for probe, values in ({LONGER: features.tokens} | guesses).items():
                right = rightly_ordered(pair_differences(values, rewarded, pairs))
                row = {
                    "estimate": estimate,
                    "equal_length": str(equal),
                    "probe": probe,
                    "user": pairs.user,
                    "value": right,
                }
                frames.append(pd.DataFrame(row))
        write_values(pd.concat(frames, ignore_index=True), folder)
        return {"texts": name, "sizes": sizes}

    parts = (rewarded.users, rewarded.rewards, rewarded.realised, rewarded.features.facts)
    masks = [mask for mask in (rewarded.choosable, rewarded.lowest) if mask is not None]
    depends = {
        "texts": content_key(rewarded.texts),
        "rewards": fingerprint(
            *parts, *masks, rewarded.features.vector, rewarded.features.history, rewarded.features.fold
        ),
        "pairs": [config.pairs, config.pairs_per_user],
    }
    return Stage("probe", name, depends, build)


def _reordered(rewarded: RewardedTexts, rewards: np.ndarray, estimate: str) -> RewardedTexts:
    counts = rewarded.list_counts if ESTIMATES[estimate].of_lists else np.ones(len(rewarded.users))
    return replace(rewarded, rewards=np.where(np.isfinite(rewarded.rewards), rewards, np.nan), list_counts=counts)
