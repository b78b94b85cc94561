"""Independent scorers of the loop: what the policies' texts are worth to re-rankers that never gave a reward.

Beside it the reward models' own claim: where the two part, DPO has learnt the reward models' mistakes.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo4rec_utils.config import REFEREE_KINDS, SPLITS
from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.keys import fingerprint
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.knowledge.vectors import has_texts
from dpo4rec_utils.rerankers.training import load_reranker, score_texts, train_all
from dpo4rec_utils.rewards.model import RewardModel, RewardModels
from dpo4rec_utils.rewards.values import list_rewards, user_rewards
from dpo4rec_utils.seeds import derive_seed
from dpo4rec_utils.store import Stage, write_values


@dataclass(frozen=True)
class Judged:
    """What referees are asked about: vectors of every arm's texts as re-rankers read them (U, S, T), and the names by
    their part in the study.

    policies: the headline loop's, zero-shot first; loop: those of its rounds, the start first; others: rounds of
    other loops, arms and variants. turns: the rounds of all loops (`before`, `after`, `model`), whose models claim
    what they give to the texts of the policy after less those of the one before.
    """

    user_vectors: dict[str, np.ndarray]
    policies: list[str]
    loop: list[str]
    others: list[str]
    turns: list


def referees_stage(models: RewardModels, policy: Policy, judged: Judged) -> Stage:
    """Rewards that scorers who never gave one assign to every policy of the loop, by split; and the models' claim.

    Referees are trained on texts of `policy` (zero-shot) and templates, read as arms' are. Values by user, averaged
    over backbones and seeds: arm, split, kind, user, value. 'train_later' are train users' later lists, which neither
    referees, reward models nor pairs have read; where no user has so many, there is no such split. Kind 'claimed' is
    what a round's reward model gives to its texts less the texts before it.
    """
    config, data = models.config, models.knowledge.data
    trained_on, parts = models.read_mixture([policy]), _parts(models)
    tasks = {
        f"{b}-{s}": models.scorers.task(b, "popularity", trained_on, derive_seed(models.seed, "referee", b, s))
        for b in config.evaluation.backbones
        for s in range(config.reward.referee_seeds)
    }

    def build(folder):
        finish = functools.partial(_keep_rewards, parts=parts, arms=judged.user_vectors)
        done = train_all(tasks, folder / "models", config.evaluation.workers, "referees", dict.fromkeys(tasks, finish))
        frames = [_claims(models, judged)]
        for (name, vectors), (split, lists), kind in itertools.product(
            judged.user_vectors.items(), parts.items(), REFEREE_KINDS
        ):
            if has_texts(vectors, lists.user):
                mean = np.mean([arrays[f"{name}/{split}/{kind}"] for arrays in done.values()], axis=0)
                users = data.cohort.of(split) if split in SPLITS else np.unique(lists.user)
                frames.append(_frame(name, split, kind, users, user_rewards(mean[:, None], lists, users)[:, 0]))
        write_values(pd.concat(frames, ignore_index=True), folder)
        turns = [
            {"loop": t.loop, "round": t.number, "before": t.before.name, "after": t.after.name} for t in judged.turns
        ]
        return {"policies": judged.policies, "loop": judged.loop, "others": judged.others, "turns": turns}

    depends = {
        "trainings": {name: task.key for name, task in tasks.items()},
        "texts": {name: fingerprint(vectors) for name, vectors in judged.user_vectors.items()},
        "lists": {name: fingerprint(lists.user, lists.items, lists.labels) for name, lists in parts.items()},
        "names": [judged.policies, judged.loop, judged.others],
        "kinds": REFEREE_KINDS,
        "reward_models": {turn.after.name: [turn.before.name, turn.model.key] for turn in judged.turns},
    }
    return Stage("referees", "rounds", depends, build)


def _parts(models: RewardModels) -> dict[str, CandidateLists]:
    data = models.knowledge.data
    parts = {split: data.lists_of("popularity", split) for split in SPLITS}
    later = data.lists("popularity", later=True).of_users(data.cohort.of("train"))
    return parts | ({"train_later": later} if len(later) else {})


def _keep_rewards(task, trained, parts: dict, arms: dict[str, np.ndarray]) -> dict:
    """Run in a worker: (L,) rewards of each arm's texts, averaged over the texts of a user, for each part's lists.

    A part none of whose users has a text of an arm is left out: variants are asked about validation users alone.
    """
    model, out = load_reranker(task, trained), {}
    for (name, vectors), (split, lists) in itertools.product(arms.items(), parts.items()):
        if not has_texts(vectors, lists.user):
            continue
        scores = score_texts(model, task, lists, vectors)
        for kind in REFEREE_KINDS:
            out[f"{name}/{split}/{kind}"] = np.nanmean(list_rewards(scores, lists.labels, kind), axis=1)
    return out


def _frame(arm: str, split: str, kind: str, users: np.ndarray, value: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"arm": arm, "split": split, "kind": kind, "user": users.astype(np.int32), "value": value})


def _claims(models: RewardModels, judged: Judged) -> pd.DataFrame:
    """Each user's claimed change by every round's policy; train users by models trained without their lists."""
    frames, few = [], models.config.llm.evaluation_samples
    for turn in judged.turns:
        before, after = (models.vectors.policy_vectors(policy, few) for policy in (turn.before, turn.after))
        change = claimed_change(turn.model, before, after)
        for split in ("train", "validation"):
            users = models.cohort.of(split)
            value = user_rewards(change[:, None], turn.model.lists, users)[:, 0]
            frames.append(_frame(turn.after.name, split, "claimed", users, value))
    return pd.concat(frames)


def claimed_change(model: RewardModel, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(L,) reward(after) - reward(before) of each list by a round's reward model, each the mean over texts, of their
    vectors (U, S, T)."""
    scored = model.rescore(np.concatenate([before, after], axis=1))["log_likelihood"]
    old, new = (np.nanmean(part, axis=1) for part in np.split(scored, [before.shape[1]], axis=1))
    return new - old
