"""Where a gain comes from: thirds of the users by facts about them, and single users told as stories."""

import numpy as np
import pandas as pd

from dpo4rec_utils import rewards
from dpo4rec_utils.config import generator
from dpo4rec_utils.evaluation import arm_text
from dpo4rec_utils.prompts import titled
from dpo4rec_utils.referees import claims
from dpo4rec_utils.statistics import paired_differences
from dpo4rec_utils.study import Study
from dpo4rec_utils.tables import evidence
from dpo4rec_utils.training import load_reranker, score_lists


def breakdown(study: Study, arm: str, baseline: str, scorer: str = "shared") -> pd.DataFrame:
    """Where a difference comes from: thirds of the test users by three facts about them, popularity negatives.

    Per-user NDCG@7 differences, mean over backbones and seeds. Facts: interactions in all, mean popularity of the
    items they liked later (train users' interactions), liked items a list. Columns: fact, third, range, users,
    difference, ci_low, ci_high.
    """
    (part,) = [p for p in evidence(study) if (p["protocol"], p["scorer"]) == ("popularity", scorer)]
    backbones, rows = study.config.evaluation.backbones, []
    values = [
        np.array([part["arms"][name]["by_user"][f"{b}/ndcg@7"] for b in backbones]).mean(axis=0)
        for name in (arm, baseline)
    ]
    change, users = values[0] - values[1], part["arms"][arm]["users"]
    tested = [np.intersect1d(users, fold.cohort.of("test")) for fold in study.folds]
    facts = pd.concat([user_facts(*pair) for pair in zip(study.folds, tested, strict=True)], ignore_index=True)
    rng = generator(study.seed, "breakdown", arm, baseline, scorer)
    for fact in facts:
        order = np.argsort(facts[fact].to_numpy(), kind="stable")
        for third, members in zip(("low", "middle", "high"), np.array_split(order, 3), strict=True):
            span = facts[fact].to_numpy()[members]
            result = paired_differences(change[members, None], study.config.evaluation.bootstrap, rng)[0]
            row = {"fact": fact, "third": third, "range": f"{span.min():.3g} to {span.max():.3g}"}
            rows.append(row | {k: result[k] for k in ("users", "difference", "ci_low", "ci_high")})
    return pd.DataFrame(rows)


def user_facts(study: Study, users) -> pd.DataFrame:
    """interactions, popularity of liked items and positives a list of these users (positions), one row each.

    All interactions are counted: most histories have the length that the protocol cuts them to.
    """
    train = set(study.cohort.users[study.cohort.of("train")])
    seen = study.dataset.interactions[study.dataset.interactions.user_id.isin(train)].item_id.value_counts()
    popularity = seen.reindex(study.dataset.items.item_id, fill_value=0).to_numpy()
    lists, rows = study.lists("popularity"), []
    for user in users:
        mine = lists.user == user
        liked = lists.items[mine][lists.labels[mine] > 0]
        rows.append(
            {
                "interactions": len(study.cohort.history[user]) + len(study.cohort.future[user]),
                "popularity of liked items": popularity[liked].mean() if len(liked) else 0.0,
                "positives a list": lists.labels[mine].sum(axis=1).mean(),
            }
        )
    return pd.DataFrame(rows)


def claimed_changes(study: Study) -> pd.Series:
    """What round 1 changes for each train user that has a pair, by reward models trained without the user's lists.

    These models made the pairs, so this is the loop's own view and no evidence.

    Log-likelihood of round 1's texts less round 0's, in nats; index: user (position), sorted from worst to best.
    """
    claimed = claims(study, [study.start, study.dpo_round(1)])["dpo_round_1/train"]
    paired = study.pairs(study.start, study.chain(0)).user.unique()
    return pd.Series(claimed, index=study.cohort.of("train"))[paired].sort_values(kind="stable")


def story(study: Study, user: int) -> dict:
    """One train user through round 1: the texts with their rewards, the pairs, and a list ranked before and after.

    Returns `prompt`; `samples` (text, reward, role); `before` and `after`, a text each; `ranking`, the user's first list
    (item, liked, rank_before, rank_after) by a reward model of the fold that was trained without this user's lists.
    """
    policy, seen = study.start, study.chain(0)
    lists = study.lists("popularity").of_users([user])
    every = study.lists("popularity").of_users(study.cohort.of("train", "validation"))
    reward = rewards.user_rewards(study.rewards(policy, seen)[study.config.reward.kind], every, [user])[0]
    table, pairs = study.texts(policy, many=True), study.pairs(policy, seen)
    texts, mine = table[table.user == user].text.tolist(), pairs[pairs.user == user]
    samples = pd.DataFrame({"text": texts, "reward": reward, "role": ""})
    samples.loc[mine.chosen_sample, "role"], samples.loc[mine.rejected_sample, "role"] = "chosen", "rejected"
    folder, task, fold = study.reward_model(policy, seen)
    held_out = int(fold[list(study.cohort.of("train")).index(user)])
    with np.load(folder / "models" / f"fold{held_out}-seed0.npz") as arrays:
        model = load_reranker(task, rewards.kept_scorer(dict(arrays)))
    first = lists.items[:1]
    ranking = pd.DataFrame({"item": [titled(study.dataset.items.iloc[i]) for i in first[0]], "liked": lists.labels[0]})
    for name, arm in (("before", policy.name), ("after", "dpo_round_1")):
        scores = score_lists(model, task, lists, arm_text(study, arm))[0]
        ranking[f"rank_{name}"] = (-scores).argsort().argsort() + 1
    both = {name: study.arm_texts(arm) for name, arm in (("before", policy.name), ("after", "dpo_round_1"))}
    shown = {name: table.text[table.user == user].iloc[0] for name, table in both.items()}
    return {
        "prompt": study.prompts[user],
        "samples": samples.sort_values("reward", ascending=False),
        "ranking": ranking.astype({"liked": int}).sort_values("rank_after"),
    } | shown
