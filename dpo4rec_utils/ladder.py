"""The ladder: what selection, length and number of a user's texts can give, before any training (notebook 03).

Every rung (rungs.py) has re-rankers of its own, trained on train users' lists; it is read on validation users' lists
and on train users' later ones. Test users are not read.
"""

import functools
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.keys import fingerprint
from dpo4rec_utils.knowledge import prompts
from dpo4rec_utils.knowledge.models import load_tokenizer, token_ids
from dpo4rec_utils.metrics import METRICS, ranked_labels, user_means
from dpo4rec_utils.registries import BACKBONES
from dpo4rec_utils.rerankers.training import Task, Trained, load_reranker, score_lists, train_all
from dpo4rec_utils.rewards.estimates import FOLDS, amortised, at_equal_length, read_features
from dpo4rec_utils.rewards.model import assigned_folds
from dpo4rec_utils.rewards.values import user_rewards
from dpo4rec_utils.rungs import Rung, with_compared
from dpo4rec_utils.seeds import derive_seed, generator
from dpo4rec_utils.store import Stage, write_values
from dpo4rec_utils.study import Study


def climb(study: Study) -> None:
    """Make every rung that `evaluation.ladder` names, and the rungs that they are compared with."""
    ladder = Ladder(study)
    for rung in with_compared(study.config.evaluation.ladder):
        study.store.make(ladder.stage(rung))


class Ladder:
    """The rungs of one study, of the zero-shot LLM's texts: as many of every user as `llm.evaluation_samples` says.

    U users, N texts a user, T the width of a vector.
    """

    def __init__(self, study: Study):
        self.study, self.config, self.policy = study, study.config, study.zero_shot
        self.count = study.config.llm.evaluation_samples
        self.users = study.data.cohort.of("train", "validation")

    def stage(self, rung: Rung) -> Stage:
        """NDCG@7 of a rung. Values: backbone, split, seed, user, value; backbones that do not read the history."""
        vectors, lengths = self._chosen(rung)
        history = self.study.vectors.history_mean if rung.history else None
        tasks, parts = {}, self._parts
        for backbone in self.config.evaluation.backbones:
            for number in range(self.config.evaluation.seeds):
                if not BACKBONES[backbone].reads_history:
                    seed = derive_seed(self.study.seed, "ladder", backbone, number)
                    task = self.study.scorers.task(backbone, "popularity", vectors, seed)
                    tasks[f"{backbone}-{number}"] = replace(task, history_vector=history)

        def build(folder):
            finish, workers = functools.partial(keep_ndcg, parts=parts), self.config.evaluation.workers
            done = train_all(tasks, folder / "models", workers, f"rung {rung.name}", dict.fromkeys(tasks, finish))
            write_values(_values(done, parts), folder)
            return {"texts": rung.count, "tokens": None if lengths is None else float(np.nanmean(lengths))}

        depends = {
            "trainings": {name: task.key for name, task in tasks.items()},
            "lists": {name: fingerprint(lists.user, lists.items, lists.labels) for name, lists in parts.items()},
        }
        return Stage("ladder", rung.name, depends, build)

    @cached_property
    def _parts(self) -> dict[str, CandidateLists]:
        data = self.study.data
        later = data.lists("popularity", later=True).of_users(data.cohort.of("train"))
        parts = {"validation": data.lists_of("popularity", "validation")}
        return parts | ({"train_later": later} if len(later) else {})

    def _chosen(self, rung: Rung) -> tuple[np.ndarray, np.ndarray | None]:
        """Vectors (U, count or 1, T) of a rung's input and tokens (U, count) of its texts, None where it has none."""
        if rung.source in ("shown_mean", "history_mean"):
            vectors, lengths = getattr(self.study.vectors, rung.source)[:, None], None
        elif rung.source == "template":
            vectors, lengths = self._templates(rung)
        else:
            order = np.argsort(-self._order(rung.pick), axis=1, kind="stable")[:, : rung.count]
            vectors = np.take_along_axis(self._vectors, order[..., None], axis=1)
            lengths = np.take_along_axis(self._tokens, order, axis=1)
        vectors = vectors.mean(axis=1, keepdims=True) if rung.together else vectors
        return (vectors[self.study.data.shuffled_users()] if rung.shuffled else vectors), lengths

    @cached_property
    def _vectors(self) -> np.ndarray:
        return self.study.vectors.equal_vectors(self.policy, self.count)

    @cached_property
    def _tokens(self) -> np.ndarray:
        table = self.study.knowledge.texts(self.policy)
        return table[table["sample"] < self.count].tokens.to_numpy(float).reshape(-1, self.count)

    def _order(self, pick: str) -> np.ndarray:
        """(U, N) what texts are picked by, the largest first; 0 for users whose lists the ladder does not read."""
        if pick in ("longest", "shortest"):
            return self._tokens if pick == "longest" else -self._tokens
        if pick == "drawn":  # texts stand in an order that is drawn
            return np.zeros(self._tokens.shape)
        place = {"nearest": 0, "amortised": 1, "equal_length": 2, "least_amortised": 1}[pick]
        order = np.zeros(self._tokens.shape)
        order[self.users] = self._estimates[place]
        return -order if pick == "least_amortised" else order

    @cached_property
    def _estimates(self) -> list[np.ndarray]:
        """(P, N) of train and validation users' texts: cosine with the history mean, amortised reward, that at equal
        length; of a user by what is fitted on others alone."""
        study, train = self.study, self.study.data.cohort.of("train")
        model = study.reward_models.of(self.policy, [self.policy])
        rewards = user_rewards(model.rewards[self.config.reward.kind], model.lists, self.users)[:, : self.count]
        fold = np.full(len(self.users), -1)
        fold[np.isin(self.users, train)] = assigned_folds(train, FOLDS, derive_seed(study.seed, "amortised"))
        features = read_features(study.vectors, self.policy, self.users, fold, self.count)
        estimate = amortised(features, rewards)
        return [features.cosine[..., 0], estimate, at_equal_length(estimate, features.tokens, fold >= 0)]

    def _templates(self, rung: Rung) -> tuple[np.ndarray, np.ndarray]:
        """Templates of the first `rung.titles` titles of a prompt, with all else that a full one states."""
        knowledge, tokenizer = self.study.knowledge, load_tokenizer(self.config.llm.model)
        limit = np.inf if rung.titles else self.config.llm.max_new_tokens - 1

        def tokens(text):
            return len(token_ids(tokenizer, text))

        texts = []
        for user, facts in zip(knowledge.users, knowledge.facts, strict=True):
            rng, few = generator(self.study.seed, "ladder", user), replace(facts, titles=facts.titles[: rung.titles])
            texts += [
                prompts.templated_profile(few, knowledge.domain, rng, lambda text: tokens(text) <= limit, full=True)
                for _ in range(rung.count)
            ]
        vectors = self.study.encoder.encode([knowledge.prefix + text for text in texts], f"encode {rung.name}")
        lengths = np.array([tokens(text) for text in texts], float)
        return vectors.reshape(len(knowledge.users), rung.count, -1), lengths.reshape(-1, rung.count)


def keep_ndcg(task: Task, trained: Trained, parts: dict[str, CandidateLists]) -> dict[str, np.ndarray]:
    """Run in a worker: NDCG@7 of each part's users, by the user's number."""
    model, out = load_reranker(task, trained), {}
    for name, lists in parts.items():
        ranked = ranked_labels(score_lists(model, task, lists), lists.labels)
        out[name] = user_means(METRICS["ndcg"](ranked, 7), lists.user, np.unique(lists.user))
    return out


def _values(done: dict[str, dict], parts: dict[str, CandidateLists]) -> pd.DataFrame:
    frames = []
    for name, arrays in done.items():
        backbone, _, seed = name.rpartition("-")
        for split, lists in parts.items():
            columns = {"backbone": backbone, "split": split, "seed": np.int8(seed)}
            users = np.unique(lists.user).astype(np.int32)
            frames.append(pd.DataFrame({"user": users, "value": arrays[split]}).assign(**columns))
    return pd.concat(frames, ignore_index=True)
