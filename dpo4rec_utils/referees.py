"""Independent scorers of the loop: what the policies' texts are worth to re-rankers that never gave a reward.

Beside it the reward models' own claim: where the two part, DPO has learnt the reward models' mistakes.
"""

import functools
import itertools
from dataclasses import replace

import numpy as np
import pandas as pd

from dpo4rec_utils import rewards
from dpo4rec_utils.artifacts import StudyError
from dpo4rec_utils.config import ABLATIONS, as_dict, derive_seed
from dpo4rec_utils.evaluation import arm_text, depends_on
from dpo4rec_utils.lists import SPLITS
from dpo4rec_utils.statistics import t_of_mean
from dpo4rec_utils.study import Study
from dpo4rec_utils.training import load_reranker, score_texts, train_all

REFEREE_KINDS = ("log_likelihood", "ndcg")
PARTS = (*SPLITS, "train_later")


def referees(study: Study) -> dict:
    """Rewards that scorers who never gave one assign to every policy of the loop, by split; and the reward models' claim.

    Per split and policy: user means of log-likelihood and NDCG@10, averaged over backbones and seeds; 'train_later' are
    train users' later lists, which neither referees, reward models nor pairs have seen. The claim of round
    r is what the reward model that made its pairs gives to the texts of policy r less those of policy r - 1.
    """
    config = study.config
    chain = study.chain(config.alignment.rounds)
    loop = [p for p in chain if p.name != "zero_shot"] if config.alignment.warm_start else chain
    names = [p.name for p in chain] + other_arms(study)
    depends = depends_on(study, "popularity", names, reward=as_dict(config.reward))
    for name in names:
        if name != "template" and name != "dpo_shuffled":
            study.arm_texts(name)

    def build(folder):
        texts = {name: arm_text(study, name) for name in names}
        trained_on = study.mixture([study.zero_shot])
        parts = {split: (study.lists("popularity"), study.cohort.of(split)) for split in SPLITS}
        later = study.lists("popularity", later=True)
        parts["train_later"] = (later, np.intersect1d(study.cohort.of("train"), later.user))
        cells = [(b, s) for b in config.evaluation.backbones for s in range(config.reward.referee_seeds)]
        tasks = {
            f"{b}-{s}": study.task(b, "popularity", trained_on, derive_seed(study.seed, "referee", b, s))
            for b, s in cells
        }
        parts = {name: (lists.of_users(users), users) for name, (lists, users) in parts.items()}
        wanted = {name: lists for name, (lists, _) in parts.items()}
        finish = functools.partial(_keep_rewards, parts=wanted, texts=texts)
        done = train_all(tasks, folder / "models", config.evaluation.workers, "referees", dict.fromkeys(tasks, finish))
        out = {}
        for name, (split, (lists, users)), kind in itertools.product(texts, parts.items(), REFEREE_KINDS):
            if not _judged(name, split):
                continue
            mean = np.mean([arrays[f"{name}/{split}/{kind}"] for arrays in done.values()], axis=0)
            value = rewards.user_rewards(mean[:, None], lists, users)[:, 0]
            out[f"{name}/{split}/{kind}"] = value.round(6).tolist()
        names_of = {"policies": [p.name for p in chain], "loop": [p.name for p in loop], "others": other_arms(study)}
        return names_of | {"values": out, "claims": claims(study, loop)}

    study.store.stage("referees", "rounds", depends, build)
    return study.store.record("referees", "rounds")["metrics"]


def other_arms(study: Study) -> list[str]:
    """The arms with user text that are not policies of the loop, controls and ablations of round 1."""
    controls = ("template", "rft", "random_pairs", "dpo_cold", "dpo_shuffled")
    return [*(arm for arm in controls if arm in study.config.evaluation.arms), *study.config.evaluation.ablations]


def _judged(arm: str, split: str) -> bool:
    """Whether an arm has texts of these users: variants have those of validation and test users alone."""
    return arm not in ABLATIONS or split in ("validation", "test")


def ablation_table(study: Study) -> pd.DataFrame:
    """What the referees think of round 1, its controls and its variants: arm, split, reward, users,
    difference (to the policy that round 1 started from), half (of the 95 % interval), t."""
    metrics, rows = referees(study), []
    start, values = study.start.name, metrics["values"]
    first = ["dpo_round_1", "zero_shot"] if study.config.alignment.warm_start else ["dpo_round_1"]
    for arm, split, kind in itertools.product([*first, *metrics["others"]], PARTS, REFEREE_KINDS):
        if not _judged(arm, split):
            continue
        change = np.subtract(values[f"{arm}/{split}/{kind}"], values[f"{start}/{split}/{kind}"])
        half = 1.96 * change.std(ddof=1) / np.sqrt(len(change))
        rows.append((arm, split, kind, len(change), change.mean(), half, t_of_mean(change)))
    return pd.DataFrame(rows, columns=["arm", "split", "reward", "users", "difference", "half", "t"])


def _keep_rewards(task, trained, parts: dict, texts: dict) -> dict:
    """Run in a worker: (L,) rewards of each policy's texts, averaged over the texts of a user, for each part's lists."""
    model, out = load_reranker(task, trained), {}
    for (name, text), (split, lists) in itertools.product(texts.items(), parts.items()):
        if not _judged(name, split):
            continue
        scores = score_texts(model, task, lists, text)
        for kind in REFEREE_KINDS:
            out[f"{name}/{split}/{kind}"] = np.nanmean(rewards.list_rewards(scores, lists.labels, kind), axis=1)
    return out


def claims(study: Study, loop) -> dict[str, list[float]]:
    """'policy/split' -> each user's mean of reward(policy r) - reward(policy r - 1) by the reward models of round r.

    `loop`: policies in order, the first without a claim. A train user is judged by models trained without their lists.
    """
    users = {split: study.cohort.of(split) for split in ("train", "validation")}
    lists = study.lists("popularity").of_users(study.cohort.of("train", "validation"))
    found = {}
    for number, (parent, child) in enumerate(itertools.pairwise(loop)):
        texts = [arm_text(study, p.name) for p in (parent, child)]
        scored = study.rescore(parent, study.chain(number), np.concatenate(texts, axis=1))["log_likelihood"]
        before, after = (np.nanmean(part, axis=1) for part in np.split(scored, [texts[0].shape[1]], axis=1))
        for split, of in users.items():
            value = rewards.user_rewards((after - before)[:, None], lists, of)[:, 0]
            found[f"{child.name}/{split}"] = value.round(6).tolist()
    return found


def rounds_table(study: Study) -> pd.DataFrame:
    """round, split, reward, mean, difference_to_round_0, t, mean_tokens, distinct_texts, from records alone.

    Splits are train users (whose lists the referees were trained on), validation users (who set their temperature), test users, and 'train_later', the later lists of train users. `distinct_texts` and `mean_tokens` are of all texts.

    Round 0 is the policy before the first DPO round; -1 is the zero-shot LLM where a warm start precedes it. `reward` is
    'independent_log_likelihood', 'independent_ndcg' (referees) or 'claimed_log_likelihood' (the reward models' own view,
    its differences summed over rounds; the level has no meaning across models and is left out).
    """
    metrics = referees(study)
    loop, rows = metrics["loop"], []
    for name in metrics["policies"]:
        number = loop.index(name) if name in loop else -1
        texts = study.store.record("texts", name)["metrics"]
        shape = (texts["tokens"] / texts["texts"], texts["distinct"] / texts["texts"])
        for split in PARTS:
            for kind in REFEREE_KINDS:
                value = np.array(metrics["values"][f"{name}/{split}/{kind}"])
                change = value - np.array(metrics["values"][f"{loop[0]}/{split}/{kind}"])
                row = (number, split, f"independent_{kind}", value.mean(), change.mean(), t_of_mean(change))
                rows.append((*row, *shape))
            if number > 0 and split in ("train", "validation"):
                claim = sum(np.array(metrics["claims"][f"{p}/{split}"]) for p in loop[1 : number + 1])
                row = (number, split, "claimed_log_likelihood", float("nan"), claim.mean(), t_of_mean(claim))
                rows.append((*row, *shape))
    columns = ["round", "split", "reward", "mean", "difference_to_round_0", "t", "mean_tokens", "distinct_texts"]
    if not rows:
        raise StudyError("There are no rounds to tabulate; run notebook 04 first.")
    return pd.DataFrame(rows, columns=columns).sort_values(["round", "split", "reward"], ignore_index=True)


def samples_table(study: Study) -> pd.DataFrame:
    """What the best of N texts gains over the mean text, chosen on half of a user's lists and read on the other half.

    By the reward model of round 1, for the users whose texts it rewarded, N in powers of two up to `llm.train_samples`, or
    up to `evaluation.most_samples` texts sampled for this. Columns: samples, reward, r, gain, half (of the 95 %
    interval), users, minutes (of N texts for these users, from the measured seconds a text).
    """
    policy, seen, llm = study.start, study.chain(0), study.config.llm
    most = max(llm.train_samples, study.config.evaluation.most_samples or 0)
    wide, sampled = study, policy
    if most > llm.train_samples:
        # A study of its own for the texts alone: the pairs and the reward model keep those they were made of.
        wide = Study(
            replace(study.config, llm=replace(llm, train_samples=most)), study.results.parents[1], study.store.label
        )
        sampled = replace(policy, name=f"{policy.name}_{most}")
        wide.texts(sampled, many=True)

    def build(_):
        lists = study.lists("popularity").of_users(study.cohort.of("train", "validation"))
        if wide is study:
            merged = study.rewards(policy, seen)
        else:
            merged = study.rescore(policy, seen, wide.knowledge(sampled, many=True))
        record = wide.store.record("texts", sampled.name)
        minutes = record["seconds"] / record["metrics"]["texts"] * len(study.pair_users(policy)) / 60
        rows = []
        for n in (n for n in (2, 4, 8, 16, 32, 64) if n <= most):
            for kind in rewards.KINDS:
                half = rewards.split_half(merged[kind][:, :n], lists, study.pair_users(policy))
                row = {"samples": n, "reward": kind} | {k: half[k] for k in ("r", "gain", "half", "users")}
                rows.append(row | {"minutes": n * minutes})
        return {"rows": rows}

    study.rewards(policy, seen)
    depends = {"reward": study.store.record("reward", policy.name)["key"], "texts": wide.texts_depend_on(sampled, True)}
    study.store.stage("samples", "gain", depends, build)
    return pd.DataFrame(study.store.record("samples", "gain")["metrics"]["rows"])
