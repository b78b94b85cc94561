"""What a text can expect: rewards denoised by a linear model of the text and its fit to the history, at equal length.

A user's own ten lists say little about one text: most of a realised reward is noise, which no loss can learn from a
prompt (notebook 03 measures it). The amortised reward is the part that a ridge regression, cross-fitted over users,
predicts.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.linear_model import RidgeCV

from dpo4rec_utils.config import RewardConfig
from dpo4rec_utils.knowledge.facts import named_facts
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.knowledge.vectors import TextVectors
from dpo4rec_utils.registries import ESTIMATES

FOLDS = 5
PENALTIES = np.logspace(0, 6, 13)  # of the ridge; generalised cross-validation chooses


@dataclass(frozen=True)
class TextFeatures:
    """What a linear model may read of P users' N texts each.

    facts: (P, N, 6) how many of the prompt's titles, liked and disliked values and decades a text names, its words,
    its tokens; vector: (P, N, T); history: (P, T) the history mean; fold: (P,) of cross-fitting, -1 for users whom no
    model is fitted on.
    """

    facts: np.ndarray
    vector: np.ndarray
    history: np.ndarray
    fold: np.ndarray

    def of_rows(self, rows: np.ndarray) -> "TextFeatures":
        """Some rows of every part."""
        return TextFeatures(self.facts[rows], self.vector[rows], self.history[rows], self.fold[rows])

    @property
    def tokens(self) -> np.ndarray:
        """(P, N) tokens of the texts."""
        return self.facts[..., -1]

    @cached_property
    def direction(self) -> np.ndarray:
        """(P, T) the history mean at unit length."""
        return self.history / np.maximum(np.linalg.norm(self.history, axis=1, keepdims=True), 1e-9)

    @property
    def cosine(self) -> np.ndarray:
        """(P, N, 1) cosine of each text with its user's history mean."""
        return np.einsum("pnt,pt->pn", self.vector, self.direction)[..., None]

    def of(self, name: str) -> np.ndarray:
        """(P, N, F) features by name: facts, vector, cosine, or fit (facts, cosine, and vector times history)."""
        if name == "fit":
            return np.concatenate([self.facts, self.cosine, self.vector * self.direction[:, None]], axis=2)
        return {"facts": self.facts, "vector": self.vector, "cosine": self.cosine}[name]


def read_features(vectors: TextVectors, policy: Policy, users, fold: np.ndarray, samples: int | None) -> TextFeatures:
    """The features of a policy's texts for `users`, who all have as many, or of their first `samples`."""
    knowledge = vectors.knowledge
    table = knowledge.texts(policy)
    table = table[table.user.isin(users) & (table["sample"] < (samples or np.inf))]
    facts = [(*named_facts(row.text, knowledge.facts[row.user]), row.tokens) for row in table.itertuples()]
    facts = np.array(facts, float).reshape(len(users), -1, 6)
    return TextFeatures(facts, vectors.policy_vectors(policy, samples)[users], vectors.history_mean[users], fold)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=1, keepdims=True)


def cross_fitted(features: np.ndarray, rewards: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(P, N) rewards less the user's mean as a ridge of `features` (P, N, F) predicts them, fitted on users of other
    folds.

    Users of fold -1 are predicted from all others. Features are centred by user and brought to one scale.
    """
    out = np.zeros(rewards.shape)
    inputs, target = _centred(features), _centred(rewards)
    for number in np.unique(fold):
        fit_users = (fold != number) & (fold >= 0)
        rows = inputs[fit_users].reshape(-1, features.shape[2])
        scale = rows.std(axis=0) + 1e-9
        model = RidgeCV(PENALTIES).fit(rows / scale, target[fit_users].ravel())
        fold_inputs = inputs[fold == number] / scale
        out[fold == number] = model.predict(fold_inputs.reshape(-1, features.shape[2])).reshape(len(fold_inputs), -1)
    return out


def at_equal_length(rewards: np.ndarray, tokens: np.ndarray, fit_users: np.ndarray) -> np.ndarray:
    """Rewards (P, N) less what `tokens` (P, N) explain of them within a user, by one slope for the users in
    `fit_users` (P,).

    Without it the longer text wins most pairs, and a policy learns to write on until the limit.
    """
    x, y = _centred(tokens)[fit_users], _centred(rewards)[fit_users]
    spread = (x**2).sum()
    return rewards - (x * y).sum() / spread * tokens if spread else rewards


def amortised(features: TextFeatures, rewards: np.ndarray) -> np.ndarray:
    """What a text like this can expect: `rewards` (P, N) as a ridge of facts and fit predicts them, fitted on other
    users."""
    return cross_fitted(features.of("fit"), rewards, features.fold)


def realised(features: TextFeatures, rewards: np.ndarray) -> np.ndarray:
    """The rewards (P, N) by the users' lists, as they are."""
    return rewards


def embedding(features: TextFeatures, rewards: np.ndarray) -> np.ndarray:
    """(P, N) cosines of the texts with the history mean, whatever the rewards: no re-ranker."""
    return features.cosine[..., 0]


def estimated_rewards(features: TextFeatures, rewards: np.ndarray, config: RewardConfig) -> np.ndarray:
    """(P, N) what pairs are ordered by, from realised rewards (P, N): see `RewardConfig.estimate` and
    `equal_length`."""
    estimate = ESTIMATES[config.estimate].load()(features, rewards)
    return at_equal_length(estimate, features.tokens, features.fold >= 0) if config.equal_length else estimate
