"""Preference pairs from rewards: best and worst of N (paper, section 3.3), with controls of equal size and shape."""

import numpy as np
import pandas as pd

COLUMNS = ["user", "prompt", "chosen", "rejected", "chosen_sample", "rejected_sample", "gap"]


def build_pairs(rewards, users, prompts, texts, lists_per_user, config) -> pd.DataFrame:
    """Pairs best/worst, second/second-worst, ..., the `config.pairs` with the largest gap x sqrt(lists).

    rewards: (len(users), N), NaN where a text may not be paired; prompts: one a user; texts: (len(users), N) completions; lists_per_user: (len(users),).
    Texts of a user that are equal make no pair, nor does a gap of `config.margin` or less. Columns: COLUMNS.
    """
    rows = []
    for i, user in enumerate(users):
        order = np.argsort(-rewards[i], kind="stable")[: np.isfinite(rewards[i]).sum()]
        for rank in range(min(config.pairs_per_user, len(order) // 2)):
            best, worst = order[rank], order[-1 - rank]
            gap = float(rewards[i, best] - rewards[i, worst])
            if gap > config.margin and texts[i][best].strip() != texts[i][worst].strip():
                row = (user, prompts[i], texts[i][best], texts[i][worst], int(best), int(worst), gap)
                rows.append((*row, gap * np.sqrt(lists_per_user[i])))
    table = pd.DataFrame(rows, columns=[*COLUMNS, "weight"])
    table = table.sort_values("weight", ascending=False, kind="stable", ignore_index=True)
    return table[: config.pairs][COLUMNS]


def random_pairs(pairs: pd.DataFrame, texts_of, rng: np.random.Generator) -> pd.DataFrame:
    """The control: as many pairs for the same users and prompts, without the reward.

    A user's distinct texts are shuffled and cut into pairs, so that, as in `build_pairs`, no text stands in two of them
    (unless there are too few texts, when the shuffle starts again). texts_of: user -> {sample: completion}, the texts
    that may be paired.
    """
    rows = []
    for user, mine in pairs.groupby("user", sort=False):
        texts = texts_of[user]
        distinct = sorted({text.strip(): j for j, text in reversed(texts.items())}.values())
        order: list[int] = []
        for prompt in mine.prompt:
            if len(order) < 2:
                order = rng.permutation(distinct).tolist()
            a, b = order.pop(), order.pop()
            rows.append((user, prompt, texts[a], texts[b], int(a), int(b), float("nan")))
    return pd.DataFrame(rows, columns=COLUMNS)


def groups(rewards, users, prompts, texts) -> pd.DataFrame:
    """What GRPO reads of the same samples: user, prompt, texts (N completions), rewards (N, None where there is none).

    Arguments as in `build_pairs`; a user with fewer than two rewards is left out.
    """
    rows = [
        (user, prompts[i], list(texts[i]), [None if np.isnan(r) else float(r) for r in rewards[i]])
        for i, user in enumerate(users)
        if np.isfinite(rewards[i]).sum() >= 2
    ]
    return pd.DataFrame(rows, columns=["user", "prompt", "texts", "rewards"])


def best_of_n(rewards, users, prompts, texts, lists_per_user, config) -> pd.DataFrame:
    """The rejection-sampling control: the best text of each user as (prompt, completion), largest weighted gap first.

    Rewards as in `build_pairs`; a user without a better and a worse text is left out.
    """
    best = np.where(np.isnan(rewards), -np.inf, rewards).argmax(axis=1)
    gap = rewards[np.arange(len(best)), best] - np.ma.masked_invalid(rewards).mean(axis=1).filled(np.nan)
    weight = gap * np.sqrt(lists_per_user)
    order = [i for i in np.argsort(-weight, kind="stable") if weight[i] > 0][: config.pairs]
    return pd.DataFrame(
        [(users[i], prompts[i], texts[i][best[i]]) for i in order], columns=["user", "prompt", "completion"]
    )
