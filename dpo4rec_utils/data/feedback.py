"""What counts as liked: labels, facts and weights of one interaction, for explicit and for implicit feedback."""

import numpy as np
import pandas as pd

from dpo4rec_utils.data_config import DataConfig


def liked(rating: pd.Series, config: DataConfig) -> np.ndarray:
    """(n,) bool: the rating is at least `like_threshold`; with implicit feedback everything is liked."""
    values = rating.to_numpy(float)
    return np.ones(len(values), bool) if config.feedback == "implicit" else values >= config.like_threshold


def disliked(rating: pd.Series, config: DataConfig) -> np.ndarray:
    """(n,) bool: the rating is at most `dislike_threshold`; with implicit feedback nothing is disliked."""
    values = rating.to_numpy(float)
    return np.zeros(len(values), bool) if config.feedback == "implicit" else values <= config.dislike_threshold
