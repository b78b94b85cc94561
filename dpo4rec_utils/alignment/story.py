"""One round as single users see it: texts, rewards, pairs, and a list ranked before and after."""

import pandas as pd

from dpo4rec_utils.alignment.round import Round
from dpo4rec_utils.knowledge.prompts import titled
from dpo4rec_utils.knowledge.vectors import TextVectors
from dpo4rec_utils.rerankers.training import score_lists
from dpo4rec_utils.rewards.referees import claimed_change
from dpo4rec_utils.rewards.values import user_rewards


def claimed_changes(vectors: TextVectors, turn: Round) -> pd.Series:
    """What a round changes for each train user that has a pair, by reward models trained without the user's lists.

    These models made the pairs, so this is the loop's own view and no evidence. Log-likelihood of the new texts less
    that of the old ones, in nats; index: user (position), sorted from worst to best.
    """
    knowledge = vectors.knowledge
    samples, users = knowledge.config.llm.evaluation_samples, knowledge.data.cohort.of("train")
    before, after = (vectors.policy_vectors(policy, samples) for policy in (turn.before, turn.after))
    change = claimed_change(turn.model, before, after)[:, None]
    claimed = pd.Series(user_rewards(change, turn.model.lists, users)[:, 0], index=users)
    return claimed[turn.pairs.user.unique()].sort_values(kind="stable")


def story(vectors: TextVectors, turn: Round, user: int) -> dict:
    """One train user through a round.

    Returns `question`, the user turn of the prompt; `samples` (text; realised, what the user's lists say of it;
    role, what the pairs made of it); `before` and `after`, a text each; `ranking`, the user's first list (item,
    liked, rank_before, rank_after) by a model trained without this user's lists.
    """
    knowledge, policies = vectors.knowledge, {"before": turn.before, "after": turn.after}
    texts = {name: knowledge.texts(policy) for name, policy in policies.items()}
    texts = {name: table[table.user == user].text.tolist() for name, table in texts.items()}
    pairs, reward_kind = turn.pairs[turn.pairs.user == user], knowledge.config.reward.kind
    reward = user_rewards(turn.model.rewards[reward_kind], turn.model.lists, [user])[0]
    samples = pd.DataFrame({"text": texts["before"], "realised": reward, "role": ""})
    samples.loc[pairs.chosen_sample, "role"], samples.loc[pairs.rejected_sample, "role"] = "chosen", "rejected"
    return {
        "question": knowledge.question(user),
        "samples": samples.sort_values("realised", ascending=False),
        "ranking": _ranking(vectors, turn, user),
    } | {name: rows[0] for name, rows in texts.items()}


def _ranking(vectors: TextVectors, turn: Round, user: int) -> pd.DataFrame:
    lists, (scorer, task) = turn.model.lists.of_users([user]), turn.model.model_without(user)
    items = vectors.knowledge.data.dataset.items
    ranking = pd.DataFrame({"item": [titled(items.iloc[i]) for i in lists.items[0]], "liked": lists.labels[0]})
    for name, policy in (("before", turn.before), ("after", turn.after)):
        user_vectors = vectors.policy_vectors(policy, vectors.knowledge.config.llm.evaluation_samples)
        ranking[f"rank_{name}"] = (-score_lists(scorer, task, lists, user_vectors)[0]).argsort().argsort() + 1
    return ranking.astype({"liked": int}).sort_values("rank_after")
