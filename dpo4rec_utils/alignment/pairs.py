"""Preference pairs from rewards: best and worst of N (paper, section 3.3)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo4rec_utils.config import ENOUGH, AlignmentConfig, RewardConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.knowledge.repetition import repetitive_texts
from dpo4rec_utils.knowledge.vectors import TextVectors
from dpo4rec_utils.registries import ESTIMATES
from dpo4rec_utils.rewards.estimates import FOLDS, TextFeatures, estimated_rewards, read_features
from dpo4rec_utils.rewards.model import RewardModel, assigned_folds
from dpo4rec_utils.rewards.values import half_rewards, user_rewards
from dpo4rec_utils.seeds import derive_seed

COLUMNS = ["user", "prompt", "chosen", "rejected", "chosen_sample", "rejected_sample", "gap"]
# What to do about too few pairs, of a round and of held-out users.
MORE_PAIRS = "raise alignment.pair_users or llm.train_samples, or ask for fewer with alignment.pairs"
MORE_HELDOUT = "raise llm.train_samples, or ask for fewer a user with alignment.pairs_per_user"


@dataclass(frozen=True)
class RewardedTexts:
    """What pairs are chosen from: P users with N texts each.

    users: (P,) positions; prompts: one a user; texts: (P, N) completions; rewards: (P, N), NaN where a text may not
    be paired; list_counts: (P,) how many lists a user has (half of them give the reward of a held-out user), 1
    where rewards are estimated from texts;
    features and realised, (P, N): what the rewards were estimated from; choosable: (P, N), False for a text that may
    be rejected alone, None: all may be chosen; lowest: (P, N), True for a text that counts as its user's worst whatever
    its reward, None: none does; unseen: (P, N), the realised reward by the half of a held-out user's
    lists that gave none, NaN for all others.
    """

    users: np.ndarray
    prompts: list[str]
    texts: list[list[str]]
    rewards: np.ndarray
    list_counts: np.ndarray
    features: TextFeatures | None = None
    realised: np.ndarray | None = None
    choosable: np.ndarray | None = None
    lowest: np.ndarray | None = None
    unseen: np.ndarray | None = None

    def of(self, users) -> "RewardedTexts":
        """The texts of these users alone."""
        keep = np.flatnonzero(np.isin(self.users, users))
        return RewardedTexts(
            users=self.users[keep],
            prompts=[self.prompts[row] for row in keep],
            texts=[self.texts[row] for row in keep],
            rewards=self.rewards[keep],
            list_counts=self.list_counts[keep],
            features=self.features and self.features.of_rows(keep),
            **{name: None if part is None else part[keep] for name, part in self._optional().items()},
        )

    def _optional(self) -> dict[str, np.ndarray | None]:
        return {name: getattr(self, name) for name in ("realised", "choosable", "lowest", "unseen")}

    @property
    def order(self) -> np.ndarray:
        """(P, N): what texts are ordered by: their rewards, of `lowest` ones the smallest of their user; NaN where a
        text may not be paired."""
        if self.lowest is None:
            return self.rewards
        lowest = self.lowest & np.isfinite(self.rewards)
        return np.where(lowest, np.fmin.reduce(self.rewards, axis=1, keepdims=True), self.rewards)

    def most_pairs(self, config: AlignmentConfig) -> int:
        """How many pairs there are if every text may be paired."""
        return len(self.users) * min(config.pairs_per_user, self.rewards.shape[1] // 2)


@dataclass(frozen=True)
class PairRules:
    """What pairs are ordered by, what becomes of texts that were cut or repeat themselves (`AlignmentConfig.unfinished`
    and `.repetitive`), and how many texts of a user there are to choose from, the first ones (None: all)."""

    reward: RewardConfig
    unfinished: str
    repetitive: str
    samples: int | None = None


def rewarded_texts(vectors: TextVectors, policy: Policy, model: RewardModel, rules: PairRules) -> RewardedTexts:
    """A policy's texts for its `pair_users` and the held-out users with what pairs are ordered by.

    Held-out users are rewarded by every second of their lists; the others measure what was learnt.
    """
    knowledge, heldout = vectors.knowledge, vectors.knowledge.heldout_users
    paired = knowledge.pair_users(policy)
    users = np.sort(np.concatenate([paired, heldout]))
    fold = np.full(len(users), -1)
    fold[np.isin(users, paired)] = assigned_folds(paired, FOLDS, derive_seed(knowledge.seed, "amortised"))
    rewards = model.rewards[rules.reward.kind][:, : rules.samples]
    realised, unseen = user_rewards(rewards, model.lists, users), np.full((len(users), rewards.shape[1]), np.nan)
    realised[fold < 0], unseen[fold < 0] = (half_rewards(rewards, model.lists, heldout, half) for half in (0, 1))
    features = read_features(vectors, policy, users, fold, rules.samples)
    reward = estimated_rewards(features, realised, rules.reward)
    table = knowledge.texts(policy)
    table = table[table.user.isin(users) & (table["sample"] < reward.shape[1])].set_index("user")
    prompts, counts = knowledge.prompts(), np.ones(len(users))
    cut, repeating = ~table.finished.to_numpy(bool), repetitive_texts(table.reset_index(), prompts).to_numpy()
    faults = [(rules.unfinished, cut.reshape(reward.shape)), (rules.repetitive, repeating.reshape(reward.shape))]
    rewards, choosable, lowest = by_rules(reward, faults)
    texts = table.text.groupby(level=0).apply(list)
    if ESTIMATES[rules.reward.estimate].of_lists:  # a mean of few lists is less certain; an estimate from texts is not
        counts = np.array([(model.lists.user == u).sum() for u in users])
    return RewardedTexts(
        users=users,
        prompts=[prompts[user] for user in users],
        texts=[texts[user] for user in users],
        rewards=rewards,
        list_counts=counts,
        features=features,
        realised=realised,
        choosable=choosable,
        lowest=lowest,
        unseen=unseen,
    )


def by_rules(rewards: np.ndarray, faults: list[tuple[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P, N) each: rewards, NaN where a text may not be paired; whether it may be chosen; whether it counts as the
    worst. faults: pairs of a rule (`AlignmentConfig.unfinished`) and the texts that it is for (P, N)."""

    def under(*rules):
        return np.any([faulty & (rule in rules) for rule, faulty in faults], axis=0)

    choosable = ~under("unchosen", "rejected", "left_out")
    return np.where(under("left_out"), np.nan, rewards), choosable, under("rejected")


def build_pairs(rewarded: RewardedTexts, config: AlignmentConfig) -> pd.DataFrame:
    """Pairs best/worst, second/second-worst, ..., the `config.pairs` with the largest gap x sqrt(lists).

    The best are those of the choosable texts, the worst those of all; of equal rewards a text that is not choosable is
    worse. No text stands in two pairs: of a user's equal texts the first counts. Equal rewards make no pair. Columns:
    COLUMNS.
    """
    rows, texts = [], rewarded.texts
    order_by, choosable = rewarded.order, rewarded.choosable
    choosable = np.ones(order_by.shape, bool) if choosable is None else choosable
    for i, user in enumerate(rewarded.users):
        rewards = np.where(_first_of_equals(texts[i]), order_by[i], np.nan)
        order = np.lexsort((~choosable[i], -rewards))[: np.isfinite(rewards).sum()]  # NaN comes last
        ranks = zip(order[choosable[i][order]], order[::-1], range(config.pairs_per_user), strict=False)
        for best, worst, _ in ranks:  # where they meet, the gap is 0 or below
            gap = float(rewards[best] - rewards[worst])
            if gap > 0:
                row = (user, rewarded.prompts[i], texts[i][best], texts[i][worst], int(best), int(worst), gap)
                rows.append((*row, gap * np.sqrt(rewarded.list_counts[i])))
    table = pd.DataFrame(rows, columns=[*COLUMNS, "weight"])
    table = table.sort_values("weight", ascending=False, kind="stable", ignore_index=True)
    return table[: config.pairs][COLUMNS]


def _first_of_equals(texts: list[str]) -> list[bool]:
    stripped = [text.strip() for text in texts]
    return [stripped.index(text) == place for place, text in enumerate(stripped)]


def require_pairs(pairs: pd.DataFrame, config: AlignmentConfig, name: str, remedy: str = MORE_PAIRS) -> None:
    """Raise `StudyError` where a round got fewer than `ENOUGH` of the pairs that it asks for: it would be starved."""
    if len(pairs) < ENOUGH * config.pairs:
        raise StudyError(
            f"{name} found {len(pairs)} pairs of {config.pairs} asked for, fewer than {ENOUGH:.0%}; {remedy}."
        )


def groups(rewarded: RewardedTexts) -> pd.DataFrame:
    """What GRPO reads of the same samples: user, prompt, texts (N completions), rewards (N, None where there is none).

    A user with fewer than two rewards is left out. Texts that may not be chosen are read like all others.
    """
    rows = [
        (user, prompt, list(texts), [None if np.isnan(r) else float(r) for r in rewards])
        for user, prompt, texts, rewards in zip(
            rewarded.users, rewarded.prompts, rewarded.texts, rewarded.order, strict=True
        )
        if np.isfinite(rewards).sum() >= 2
    ]
    return pd.DataFrame(rows, columns=["user", "prompt", "texts", "rewards"])
