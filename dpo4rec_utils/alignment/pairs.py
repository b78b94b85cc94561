"""Preference pairs from rewards: best and worst of N (paper, section 3.3), with controls of equal size and shape."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from dpo4rec_utils.config import AlignmentConfig
from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.rewards.model import RewardModel
from dpo4rec_utils.rewards.values import user_rewards

COLUMNS = ["user", "prompt", "chosen", "rejected", "chosen_sample", "rejected_sample", "gap"]


@dataclass(frozen=True)
class Candidates:
    """What pairs are chosen from: P users with N texts each.

    users: (P,) positions; prompts: one a user; texts: (P, N) completions; rewards: (P, N), NaN where a text may not be
    paired; lists: (P,) how many lists of a user the rewards are of.
    """

    users: np.ndarray
    prompts: list[str]
    texts: list[list[str]]
    rewards: np.ndarray
    lists: np.ndarray

    def first(self, samples: int | None) -> "Candidates":
        """The first `samples` texts of every user; all of them for None."""
        return replace(self, texts=[row[:samples] for row in self.texts], rewards=self.rewards[:, :samples])


def rewarded_texts(
    knowledge: Knowledge, policy: Policy, model: RewardModel, kind: str, finished_only: bool
) -> Candidates:
    """A policy's texts for its `pair_users` with their rewards of a kind; `finished_only` lets no cut text be paired."""
    users = knowledge.pair_users(policy)
    reward = user_rewards(model.rewards[kind], model.lists, users)
    table = knowledge.texts(policy)
    table = table[table.user.isin(users)].set_index("user")
    if finished_only:
        finished = table.finished.to_numpy(bool).reshape(reward.shape)
        reward = np.where(finished, reward, np.nan)
    texts = table.text.groupby(level=0).apply(list)
    prompts, counts = knowledge.prompts(), np.array([(model.lists.user == u).sum() for u in users])
    return Candidates(users, [prompts[u] for u in users], [texts[u] for u in users], reward, counts)


def build_pairs(candidates: Candidates, config: AlignmentConfig) -> pd.DataFrame:
    """Pairs best/worst, second/second-worst, ..., the `config.pairs` with the largest gap x sqrt(lists).

    Texts of a user that are equal make no pair, nor does a gap of `config.margin` or less. Columns: COLUMNS.
    """
    rows, rewards, texts = [], candidates.rewards, candidates.texts
    for i, user in enumerate(candidates.users):
        order = np.argsort(-rewards[i], kind="stable")[: np.isfinite(rewards[i]).sum()]
        for rank in range(min(config.pairs_per_user, len(order) // 2)):
            best, worst = order[rank], order[-1 - rank]
            gap = float(rewards[i, best] - rewards[i, worst])
            if gap > config.margin and texts[i][best].strip() != texts[i][worst].strip():
                row = (user, candidates.prompts[i], texts[i][best], texts[i][worst], int(best), int(worst), gap)
                rows.append((*row, gap * np.sqrt(candidates.lists[i])))
    table = pd.DataFrame(rows, columns=[*COLUMNS, "weight"])
    table = table.sort_values("weight", ascending=False, kind="stable", ignore_index=True)
    return table[: config.pairs][COLUMNS]


def random_pairs(pairs: pd.DataFrame, candidates: Candidates, rng: np.random.Generator) -> pd.DataFrame:
    """The control: as many pairs for the same users and prompts, without the reward.

    A user's distinct texts are shuffled and cut into pairs, so that, as in `build_pairs`, no text stands in two of them
    (unless there are too few texts, when the shuffle starts again).
    """
    rows, place = [], {user: i for i, user in enumerate(candidates.users)}
    for user, mine in pairs.groupby("user", sort=False):
        texts, allowed = candidates.texts[place[user]], np.isfinite(candidates.rewards[place[user]])
        first = {text.strip(): j for j, text in reversed(list(enumerate(texts))) if allowed[j]}
        distinct = sorted(first.values())
        order: list[int] = []
        for prompt in mine.prompt:
            if len(order) < 2:
                order = rng.permutation(distinct).tolist()
            a, b = order.pop(), order.pop()
            rows.append((user, prompt, texts[a], texts[b], int(a), int(b), float("nan")))
    return pd.DataFrame(rows, columns=COLUMNS)


def groups(candidates: Candidates) -> pd.DataFrame:
    """What GRPO reads of the same samples: user, prompt, texts (N completions), rewards (N, None where there is none).

    A user with fewer than two rewards is left out.
    """
    rows = [
        (user, prompt, list(texts), [None if np.isnan(r) else float(r) for r in rewards])
        for user, prompt, texts, rewards in zip(
            candidates.users, candidates.prompts, candidates.texts, candidates.rewards, strict=True
        )
        if np.isfinite(rewards).sum() >= 2
    ]
    return pd.DataFrame(rows, columns=["user", "prompt", "texts", "rewards"])


def best_of_n(candidates: Candidates, config: AlignmentConfig) -> pd.DataFrame:
    """The rejection-sampling control: the best text of each user as (prompt, completion), largest weighted gap first.

    A user without a better and a worse text is left out.
    """
    rewards = candidates.rewards
    best = np.where(np.isnan(rewards), -np.inf, rewards).argmax(axis=1)
    gap = rewards[np.arange(len(best)), best] - np.ma.masked_invalid(rewards).mean(axis=1).filled(np.nan)
    weight = gap * np.sqrt(candidates.lists)
    order = [i for i in np.argsort(-weight, kind="stable") if weight[i] > 0][: config.pairs]
    return pd.DataFrame(
        [(candidates.users[i], candidates.prompts[i], candidates.texts[i][best[i]]) for i in order],
        columns=["user", "prompt", "completion"],
    )
