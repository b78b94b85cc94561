"""One round as single users see it: texts, rewards, pairs, and a list ranked before and after."""

from dataclasses import dataclass

import pandas as pd

from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.knowledge.prompts import titled
from dpo4rec_utils.rerankers.training import score_lists
from dpo4rec_utils.rewards.model import RewardModel
from dpo4rec_utils.rewards.referees import claimed_change
from dpo4rec_utils.rewards.values import user_rewards


@dataclass(frozen=True)
class Round:
    """One turn of a loop: the policy before it, the model that rewarded, the pairs, the aligned policy, and all pairs of held-out
    users, chosen alike. A loop that borrows has the model and the pairs of the loop `dpo`, whose policy sampled them."""

    number: int
    before: Policy
    model: RewardModel
    pairs: pd.DataFrame
    after: Policy
    heldout: pd.DataFrame
    loop: str = "dpo"


def claimed_changes(knowledge: Knowledge, turn: Round) -> pd.Series:
    """What a round changes for each train user that has a pair, by reward models trained without the user's lists.

    These models made the pairs, so this is the loop's own view and no evidence. Log-likelihood of the new texts less that
    of the old ones, in nats; index: user (position), sorted from worst to best.
    """
    samples, users = knowledge.config.llm.evaluation_samples, knowledge.data.cohort.of("train")
    texts = [knowledge.vectors(policy, samples) for policy in (turn.before, turn.after)]
    claimed = pd.Series(claimed_change(turn.model, *texts, users), index=users)
    return claimed[turn.pairs.user.unique()].sort_values(kind="stable")


def story(knowledge: Knowledge, turn: Round, user: int) -> dict:
    """One train user through a round.

    Returns `question`, the user turn of the prompt; `samples` (text; realised, what the user's own lists say of it; role, what
    the pairs made of it); `before` and `after`, a text each; `ranking`, the user's first list (item, liked, rank_before, rank_after) by a model trained without this user's lists.
    """
    policies = {"before": turn.before, "after": turn.after}
    tables = {name: knowledge.texts(policy) for name, policy in policies.items()}
    own, mine = tables["before"][tables["before"].user == user], turn.pairs[turn.pairs.user == user]
    reward = user_rewards(turn.model.rewards[knowledge.config.reward.kind], turn.model.lists, [user])[0]
    samples = pd.DataFrame({"text": own.text.tolist(), "realised": reward, "role": ""})
    samples.loc[mine.chosen_sample, "role"], samples.loc[mine.rejected_sample, "role"] = "chosen", "rejected"
    lists, (scorer, task) = turn.model.lists.of_users([user]), turn.model.held_out(user)
    items = knowledge.data.dataset.items
    ranking = pd.DataFrame({"item": [titled(items.iloc[i]) for i in lists.items[0]], "liked": lists.labels[0]})
    for name, policy in policies.items():
        vectors = knowledge.vectors(policy, knowledge.config.llm.evaluation_samples)
        ranking[f"rank_{name}"] = (-score_lists(scorer, task, lists, vectors)[0]).argsort().argsort() + 1
    return {
        "question": knowledge.question(user),
        "samples": samples.sort_values("realised", ascending=False),
        "ranking": ranking.astype({"liked": int}).sort_values("rank_after"),
    } | {name: table.text[table.user == user].iloc[0] for name, table in tables.items()}
