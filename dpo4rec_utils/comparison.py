"""What notebooks 05 to 07 read, made: every arm's knowledge, own and shared scorers, ablations, referees, samples."""

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from dpo4rec_utils.alignment.heldout import heldout_stage
from dpo4rec_utils.arms import LENGTH, REPEATED, Arm, arm, cut_arms, table_arms
from dpo4rec_utils.config import PROTOCOLS, as_dict
from dpo4rec_utils.data.data import cohort_stage, user_facts_stage
from dpo4rec_utils.keys import content_key, fingerprint
from dpo4rec_utils.knowledge.repetition import repetition_stage
from dpo4rec_utils.knowledge.vectors import TextVectors, as_read
from dpo4rec_utils.rerankers.scorers import ArmKnowledge
from dpo4rec_utils.rewards.referees import Judged, referees_stage
from dpo4rec_utils.rewards.reliability import split_half
from dpo4rec_utils.rewards.values import KINDS
from dpo4rec_utils.seeds import generator
from dpo4rec_utils.store import Stage
from dpo4rec_utils.study import Study
from dpo4rec_utils.variants import RERANKER_CHANGES, VARIANTS, knowledge_backbones

# The knowledge of an arm


def arm_knowledge(study: Study, name: str) -> ArmKnowledge:
    """What an arm gives to re-rankers: vectors of users' texts as they read them (`as_read`), of items (I, T), zeros
    where it has none; and the history mean (U, T) where it is a second user input."""
    entry, vectors = arm(name), study.vectors
    return ArmKnowledge(
        name=name,
        user_vectors=as_read(MAKERS[entry.user](study, entry), study.config.reranker.texts),
        item_vectors=ITEM_MAKERS[entry.item](vectors),
        history_vector=vectors.history_mean if entry.history else None,
    )


ITEM_MAKERS: dict[str, Callable[[TextVectors], np.ndarray]] = {
    "catalogue": lambda vectors: vectors.item_vectors,
    "llm": lambda vectors: vectors.llm_item_vectors(),
    "nowhere": lambda vectors: np.zeros_like(vectors.item_vectors),
}


def _nothing(study: Study, _: Arm) -> np.ndarray:
    shape = (len(study.data.cohort.users), 1, study.vectors.item_vectors.shape[1])
    return np.zeros(shape, np.float32)


def _template(study: Study, _: Arm) -> np.ndarray:
    return study.vectors.template_vectors(study.config.llm.evaluation_samples, full=True)


def _history_mean(study: Study, _: Arm) -> np.ndarray:
    return study.vectors.history_mean[:, None]


def _shown_mean(study: Study, _: Arm) -> np.ndarray:
    return study.vectors.shown_mean[:, None]


def _texts(study: Study, entry: Arm) -> np.ndarray:
    count = entry.samples or study.config.llm.evaluation_samples
    return study.vectors.equal_vectors(study.policy(entry.policy), count)


def _shuffled(study: Study, entry: Arm) -> np.ndarray:
    return _texts(study, entry)[study.data.shuffled_users()]


def _noise(study: Study, entry: Arm) -> np.ndarray:
    """(U, S, T) vectors of random words of a policy's texts, each as long as the text it stands for."""
    table, knowledge = _evaluated(study, entry.policy), study.knowledge
    words = [text.split() for text in table.text]
    pool, rng = np.concatenate(words), generator(study.seed, "noise")
    texts = [f"{knowledge.prefix} {' '.join(rng.choice(pool, len(row)))}" for row in words]
    vectors = study.encoder.encode(texts, "encode noise")
    return vectors.reshape(len(knowledge.users), -1, vectors.shape[1])


def cut_texts(texts: pd.DataFrame, lengths: pd.DataFrame) -> pd.Series:
    """Each text cut to as many words as the one of its row in `lengths`; shorter ones as they are.

    Both: user, sample, text, the same users and samples in the same order, else a `ValueError`.
    """
    key = ["user", "sample"]
    if not np.array_equal(texts[key].to_numpy(), lengths[key].to_numpy()):
        raise ValueError("texts are cut to the length of those of the same users and samples")
    counts = [len(text.split()) for text in lengths.text]
    return pd.Series(
        [_first_words(text, n) for text, n in zip(texts.text, counts, strict=True)], texts.index, dtype=str
    )


def _first_words(text: str, count: int) -> str:
    end = [word.end() for word in re.finditer(r"\S+", text)][:count]
    return text[: end[-1]] if end else ""


def _cut(study: Study, entry: Arm) -> np.ndarray:
    texts, lengths = (_evaluated(study, name) for name in (entry.policy, entry.as_long_as))
    cut = study.knowledge.prefix + cut_texts(texts, lengths)
    vectors = study.encoder.encode(cut, f"encode {entry.name}")
    return vectors.reshape(len(study.knowledge.users), -1, vectors.shape[1])


def _evaluated(study: Study, policy: str) -> pd.DataFrame:
    """The texts of a policy that re-rankers read: as many of every user."""
    table = study.knowledge.texts(study.policy(policy))
    return table[table["sample"] < study.config.llm.evaluation_samples].reset_index(drop=True)


MAKERS: dict[str, Callable[[Study, Arm], np.ndarray]] = {
    "nothing": _nothing,
    "template": _template,
    "history_mean": _history_mean,
    "shown_mean": _shown_mean,
    "texts": _texts,
    "cut": _cut,
    "shuffled": _shuffled,
    "noise": _noise,
}


# Notebook 05


def compare(study: Study) -> None:
    """Own and shared scorers of every arm and protocol; and own scorers of round 1 repeated."""
    study.store.make(cohort_stage(study.data))
    study.store.make(user_facts_stage(study.data))
    config = as_dict(study.config)
    for protocol in PROTOCOLS:
        names = table_arms(config["evaluation"], config["alignment"], protocol)
        if not names:
            continue
        for name in names:
            study.store.make(study.scorers.own_stage(protocol, arm_knowledge(study, name)))
        _shared(study, protocol, names)
    for policy in study.repeats():
        texts = study.vectors.equal_vectors(policy, study.config.llm.evaluation_samples)
        vectors = as_read(texts, study.config.reranker.texts)
        knowledge = ArmKnowledge(policy.name, vectors, study.vectors.item_vectors)
        study.store.make(study.scorers.own_stage("popularity", knowledge, REPEATED))


def _shared(study: Study, protocol: str, names: list[str]) -> None:
    """Every round is in the union that the re-rankers are trained on, so that rounds can be compared, too."""
    arms = [arm_knowledge(study, name) for name in names if arm(name).shared != "no"]
    trained_on = [name for name in names if arm(name).shared == "trained"]
    study.store.make(study.scorers.shared_stage(protocol, arms, trained_on))


# Notebook 06


def ablate(study: Study) -> None:
    """Notebook 06: knowledge arms, adapters and cut texts, what variants have learnt, what referees think of all."""
    for name in ("none", "item", "dpo_shuffled", study.policy("last").name):
        study.store.make(study.scorers.own_stage("popularity", arm_knowledge(study, name)))
    backbones = knowledge_backbones(study.config.evaluation.backbones)
    for name in ("user", "noise"):
        knowledge = arm_knowledge(study, name)
        study.store.make(study.scorers.own_stage("popularity", knowledge, "knowledge", backbones=backbones))
    for ablation, change in RERANKER_CHANGES.items():
        for name in ("item", study.policy("last").name):
            knowledge = arm_knowledge(study, name)
            study.store.make(study.scorers.own_stage("popularity", knowledge, ablation, backbones=("prm",), **change))
    cut_to_length(study)
    for name in study.config.evaluation.ablations:
        if not VARIANTS[name].prompt:
            study.store.make(heldout_stage(study.knowledge, study.variant(name)))
            texts = study.knowledge.texts(study.policy(name))
            study.store.make(repetition_stage(name, texts, study.knowledge.prompts()))
    judge(study)


def cut_to_length(study: Study) -> None:
    """Own scorers of texts cut to the length of another policy's, and how many words they have."""
    for entry in cut_arms(study.config.evaluation.arms):
        study.store.make(study.scorers.own_stage("popularity", arm_knowledge(study, entry.name), LENGTH))
        study.store.make(_lengths_stage(study, entry))


def _lengths_stage(study: Study, entry: Arm) -> Stage:
    """Mean words of the cut texts and of the whole ones; share of texts that lost some."""
    texts, lengths = (_evaluated(study, name) for name in (entry.policy, entry.as_long_as))

    def build(_):
        cut = cut_texts(texts, lengths)
        means = {name: float(part.str.split().str.len().mean()) for name, part in (("cut", cut), ("whole", texts.text))}
        return means | {"shortened": float((cut != texts.text).mean())}

    depends = {"texts": content_key([list(texts.text), list(lengths.text)])}
    return Stage("lengths", entry.name, depends, build)


# Notebook 07


def judge(study: Study) -> None:
    """Referees of every policy of the loop, its controls and the variants that `evaluation.ablations` names."""
    study.store.make(cohort_stage(study.data))
    config, turns = study.config, [turn for loop in study.loops for turn in study.rounds(loop)]
    headline = [study.start.name, *(turn.after.name for turn in turns if turn.loop == "dpo")]
    policies = list(dict.fromkeys(["zero_shot", *headline]))
    rounds = [turn.after.name for turn in turns if turn.loop != "dpo"]
    others = [*rounds, *(name for name in config.evaluation.arms if arm(name).judged), *config.evaluation.ablations]
    named = {*policies, *study.loops}  # an arm of a loop's name is its last round
    others = [name for name in others if name not in named]
    vectors = {name: judged_vectors(study, name) for name in [*policies, *others]}
    judged = Judged(vectors, policies, headline, others, turns)
    study.store.make(referees_stage(study.reward_models, study.zero_shot, judged))


def judged_vectors(study: Study, name: str) -> np.ndarray:
    """The vectors of an arm's texts as re-rankers read them, or of a variant's, which are those of a policy of its
    name."""
    if name in study.config.evaluation.ablations:
        texts = study.vectors.policy_vectors(study.policy(name), study.config.llm.evaluation_samples)
        return as_read(texts, study.config.reranker.texts)
    return arm_knowledge(study, name).user_vectors


def count_samples(study: Study) -> None:
    """What the best of N texts gains over the mean text, chosen on half of a user's lists and read on the other half.

    By the reward model of round 1, for the users whose texts it rewarded, N in powers of two up to
    `llm.train_samples`, or up to `evaluation.most_samples` texts sampled for this. Rows: samples, reward, r, gain,
    ci_half (half the width of its 95 % interval), users.
    """
    turn, most = study.round(1), study.config.llm.train_samples
    sampled, model = turn.before, turn.model
    if (study.config.evaluation.most_samples or 0) > most:
        most = study.config.evaluation.most_samples
        _, sampled, model = study.widened(turn.before, turn.model, most)
    users, rewards = study.knowledge.pair_users(turn.before), model.rewards

    def build(_):
        rows = []
        for n in (n for n in (2, 4, 8, 16, 32, 64) if n <= most):
            for kind in KINDS:
                halves = split_half(rewards[kind][:, :n], turn.model.lists, users)
                row = {"samples": n, "reward": kind} | {k: halves[k] for k in ("r", "gain", "ci_half", "users")}
                rows.append(row)
        return {"texts": sampled.name, "users": len(users), "rows": rows}

    lists = fingerprint(turn.model.lists.user)
    depends = {
        "rewards": {kind: fingerprint(rewards[kind]) for kind in KINDS},
        "users": fingerprint(users),
        "lists": lists,
    }
    study.store.make(Stage("samples", "gain", depends, build))
