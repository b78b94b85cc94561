"""Controls of DPO: the same texts and rules, each text with a reward that says nothing of its user."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from dpo4rec_utils.alignment.pairs import RewardedTexts

CONTROL_REWARDS: dict[str, Callable[[RewardedTexts, np.random.Generator], np.ndarray]] = {
    "random": lambda rewarded, rng: rng.random(rewarded.rewards.shape),
    "length": lambda rewarded, _: rewarded.features.tokens,
}


def rewarded_otherwise(rewarded: RewardedTexts, rewards: str, rng: np.random.Generator) -> RewardedTexts:
    """The same texts rewarded by `CONTROL_REWARDS[rewards]`: 'random' numbers in [0, 1), or their 'length' in tokens.

    What may be chosen, what counts as the worst and what may not be paired stay as they are. Such a reward is as
    certain of a user with few lists as of one with many, so the largest gaps are kept whoever's they are.
    """
    values = np.where(np.isfinite(rewarded.rewards), CONTROL_REWARDS[rewards](rewarded, rng), np.nan)
    return replace(rewarded, rewards=values, list_counts=np.ones(len(rewarded.users)))
