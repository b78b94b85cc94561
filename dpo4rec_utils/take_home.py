"""What a user takes home: a policy's texts with vectors and rewards as one table, and texts for users who were not in
the study."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.data.tables import LeftOut, read_interactions
from dpo4rec_utils.files import StudyError, UnmadeStageError, atomic_path, project_root
from dpo4rec_utils.keys import fingerprint
from dpo4rec_utils.knowledge.engines import Request, texts_stage
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.rewards.model import RewardModel
from dpo4rec_utils.rewards.values import user_rewards
from dpo4rec_utils.seeds import derive_seed
from dpo4rec_utils.store import Stage, Store
from dpo4rec_utils.study import Study


def knowledge_stage(study: Study, policy: Policy, model: RewardModel | None = None) -> Stage:
    """`knowledge.parquet` of a policy: user (id), sample, text with its prefix, vector, reward; read back as its path.

    reward: of train and validation users by `model`, which rewarded this policy's texts; missing elsewhere.
    """
    knowledge, name = study.knowledge, "knowledge.parquet"
    texts, vectors = knowledge.texts(policy), study.vectors.policy_vectors(policy)
    table = texts.assign(reward=np.nan, text=knowledge.prefix_of(policy) + texts.text)
    if model is not None:
        users = study.data.cohort.of("train", "validation")
        rewards = dict(
            zip(users, user_rewards(model.rewards[study.config.reward.kind], model.lists, users), strict=True)
        )
        rewarded = table.user.isin(rewards)
        table.loc[rewarded, "reward"] = [
            rewards[u][s] for u, s in zip(table.user[rewarded], table["sample"][rewarded], strict=True)
        ]
    table["vector"] = list(vectors[table.user, table["sample"]])
    table["user"] = knowledge.users[table.user]

    def build(folder):
        with atomic_path(folder / name) as temporary:
            table[["user", "sample", "text", "vector", "reward"]].to_parquet(temporary)
        return {"texts": len(table), "rewarded": int(table.reward.notna().sum())}

    depends = {"texts": fingerprint(table[["user", "sample", "text", "reward"]]), "vectors": fingerprint(vectors)}
    return Stage("knowledge", policy.name, depends, build, lambda folder: folder / name)


def write_for_new_users(
    config: Config, policy_name: str, interactions: Path, out: Path, force: bool = False
) -> tuple[pd.DataFrame, LeftOut]:
    """Texts and vectors of a policy for the users of a file of interactions, who need not be in the study.

    The file has the columns of the study's own interactions, or user_id, item_id, rating and timestamp; items are
    those of the study. All of a user's interactions, the latest `history_limit`, are the history. Texts are sampled in
    shards, so an interrupted run goes on from the last one. Writes Parquet: user, sample, text, vector. Returns the
    table, and what was left out, by reason. Raises `StudyError` for a policy that is not made, for a file that cannot
    be used and for one that would be written over (`force`: any but the input itself).
    """
    _require_free(interactions, out, force)
    study = Study(config, Store(project_root(), as_dict(config), making=False))
    try:
        policy = study.policy(policy_name)
    except UnmadeStageError:
        raise StudyError(
            f"{config.profile} has made no policy {policy_name} on this machine; run study --profile {config.profile} first."
        ) from None
    table, left_out = read_interactions(interactions, config.data, study.data.dataset, config.seed)
    histories = dict(list(table.groupby("user_id", sort=True)))
    knowledge, llm = study.knowledge, config.llm
    facts = [knowledge.reader.facts(rows.tail(config.data.history_limit)) for rows in histories.values()]
    prompts = [knowledge.prompt(user_facts, policy.prompt or llm.prompt) for user_facts in facts]
    seeds = [derive_seed(config.seed, "sampling", user) for user in histories]
    requests = [
        Request(str(place), prompt, llm.evaluation_samples, seed)
        for place, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    stage = texts_stage("new_users", policy, requests, config)
    folder = study.store.folder(stage.kind, stage.name, stage.key)  # what an interruption leaves is taken up again
    stage.build(folder)
    texts, users = stage.read(folder), list(histories)
    out_table = pd.DataFrame(
        {
            "user": [users[int(place)] for place in texts.id],
            "sample": texts["sample"],
            "text": knowledge.prefix_of(policy) + texts.text,
        }
    )
    out_table["vector"] = list(study.encoder.encode(out_table.text, "encode"))
    with atomic_path(out) as temporary:
        out_table.to_parquet(temporary)
    shutil.rmtree(folder)
    return out_table, left_out


def _require_free(interactions: Path, out: Path, force: bool) -> None:
    if out.suffix != ".parquet" or out.is_dir():
        raise StudyError(f"--out {out} is written as Parquet; name a file that ends in .parquet.")
    if out.exists() and interactions.exists() and out.samefile(interactions):
        raise StudyError(f"--out {out} is the table of interactions, which would be lost; name another file.")
    if out.exists() and not force:
        raise StudyError(f"--out {out} exists; name another file, or say --force to replace it.")
