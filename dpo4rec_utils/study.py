"""The study as a graph of artefacts: re-rankers, rewards, pairs, policies. Notebooks call this and nothing deeper.

Test users' lists are read by evaluation, referees and understanding alone.
"""

import functools
import itertools
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dpo4rec_utils import preferences, prompts, rewards
from dpo4rec_utils.artifacts import content_key, require_free_memory
from dpo4rec_utils.config import (
    ABLATIONS,
    TRAINING_SETTINGS,
    as_dict,
    derive_seed,
    generator,
    load_config,
    load_notebook_config,
)
from dpo4rec_utils.knowledge import Knowledge
from dpo4rec_utils.lists import genre_matrix
from dpo4rec_utils.policies import Policy, base_policy, export_gguf, fast_precision
from dpo4rec_utils.training import Task, history_table, stop_workers, train_all


def open_study(source: dict | str) -> "Study":
    """The study of a profile's name, or of a notebook's `globals()` right after its parameters cell."""
    return Study(load_config(source) if isinstance(source, str) else load_notebook_config(source))


class Study(Knowledge):
    """All stages of one configuration. U users, I items, T the width of a text vector."""

    @cached_property
    def folds(self) -> list["Study"]:
        """This study and, where `evaluation.folds` asks for more, the same with other test users: each its own loop.

        Raises `StudyError` where two of them would test the same user.
        """
        config, found = self.config, [self]
        for number in range(1, config.evaluation.folds):
            data, evaluation = replace(config.data, fold=number), replace(config.evaluation, folds=1)
            other = Study(replace(config, data=data, evaluation=evaluation), self.store.runs.parent, f"-fold{number}")
            other.encoder = self.encoder  # one memory on disk has one writer
            _ = other.cohort  # a split that cannot be made is an error now, not when the loops before it are done
            found.append(other)
        return found

    # Texts by arm

    def arm_texts(self, name: str) -> pd.DataFrame:
        """The texts of a policy by its arm's name; policies of the loop have more of them for `pair_users`."""
        return self.texts(self.policy(name), many=self.in_loop(name))

    def in_loop(self, name: str) -> bool:
        """Whether pairs and reward models are made from this policy's texts, so that some users have many of them."""
        rounds = [f"dpo_round_{r}" for r in range(1, self.config.alignment.rounds)]
        return name in ("zero_shot", "warm_start", *rounds)

    # Re-rankers

    def task(self, backbone: str, protocol: str, text: np.ndarray, seed: int, item_text=None) -> Task:
        """A training on the train users' lists with `text` (U, S, T) as user knowledge; validation calibrates."""
        lists = self.lists(protocol)
        train, validation = (lists.of_users(self.cohort.of(split)) for split in ("train", "validation"))
        genres, _ = genre_matrix(self.dataset)
        items = self.item_vectors if item_text is None else item_text
        history = history_table(self.cohort, like_threshold=self.config.data.like_threshold)
        return Task(backbone, self.config.reranker, text, items, genres, history, train, validation, seed)

    # Policies

    @cached_property
    def precision(self) -> str:
        """'bf16' or 'fp32' for alignment."""
        asked = self.config.alignment.precision
        return fast_precision(self.store.runs / "precision.json") if asked == "auto" else asked

    def _adapter(self, name: str, parent: Policy, table: pd.DataFrame, method: str, config=None) -> Policy:
        """`parent` trained on `table` by a function of alignment.py."""
        config = config or self.config.alignment
        settings = {"precision": self.precision}
        settings |= {field: getattr(config, field) for field in TRAINING_SETTINGS[method]}
        depends = {"parent": parent.key, "data": content_key(table.to_dict("list")), "settings": settings}

        def build(folder):
            # Here, because trl takes seconds to import and most notebooks find every policy trained.
            from dpo4rec_utils import alignment

            stop_workers()
            require_free_memory(3)
            seed = derive_seed(self.seed, "align", name)
            log = getattr(alignment, method)(parent, table, folder, config, seed, self.precision)
            table.to_json(folder / "data.jsonl", orient="records", lines=True)
            keep = (
                "step",
                "loss",
                "rewards/margins",
                "rewards/accuracies",
                "logps/chosen",
                "logps/rejected",
                "entropy",
            )
            return {"examples": len(table), "log": [{k: row[k] for k in keep if k in row} for row in log]}

        return parent.extended(name, self.store.stage("policy", name, depends, build) / "adapter")

    @cached_property
    def zero_shot(self) -> Policy:
        """The LLM as it comes."""
        return base_policy(self.config.llm)

    @cached_property
    def warm_start(self) -> Policy:
        """Supervised fine-tuning on randomised templated profiles of train users."""
        count, train = self.config.alignment.warm_start_examples, self.cohort.of("train")
        each = max(self.config.alignment.warm_start_texts, -(-count // len(train)))
        drawn = self.template_texts(each, full=False)
        order = generator(self.seed, "warm_start").permutation(train)
        rows = [(self.prompts[u], text) for u in order for text in drawn[u]][:count]
        table = pd.DataFrame(rows, columns=["prompt", "completion"])
        return self._adapter("warm_start", self.zero_shot, table, "warm_start")

    @property
    def start(self) -> Policy:
        """The policy before round 1: the warm start, or the zero-shot LLM."""
        return self.warm_start if self.config.alignment.warm_start else self.zero_shot

    def policy(self, name: str) -> Policy:
        """A policy by its arm's name."""
        if name.startswith("dpo_round_"):
            return self.dpo_round(int(name.rsplit("_", 1)[1]))
        if name in ABLATIONS:
            return self.ablation(name)
        return {
            "zero_shot": lambda: self.zero_shot,
            "warm_start": lambda: self.warm_start,
            "dpo_cold": lambda: self.dpo_cold,
            "random_pairs": lambda: self.random_pairs,
            "rft": lambda: self.rft,
        }[name]()

    # Rewards and pairs

    def chain(self, rounds: int) -> list[Policy]:
        """The policies whose texts a reward model of round `rounds` + 1 is trained on, oldest first."""
        policies = [self.zero_shot, *([self.warm_start] if self.config.alignment.warm_start else [])]
        return policies + [self.dpo_round(r) for r in range(1, rounds + 1)]

    def mixture(self, policies: list[Policy]) -> np.ndarray:
        """(U, S, T): every sample of these policies and the randomised templated profiles."""
        samples = [self.knowledge(policy, many=True) for policy in policies]
        return np.concatenate([*samples, self.template_knowledge(self.config.reward.templates, full=False)], axis=1)

    def rewards(self, policy: Policy, seen: list[Policy], llm_only: bool = False) -> dict[str, np.ndarray]:
        """Rewards (L, N) by kind of a policy's texts for the popularity lists of train and validation users.

        The reward model is trained on the texts of `seen` and templates, or on `seen` alone with `llm_only`.
        """
        lists = self.lists("popularity").of_users(self.cohort.of("train", "validation"))
        name = policy.name + ("-llm-only" if llm_only else "")
        for needed in (policy, *seen):
            self.texts(needed, many=True)

        def build(folder):
            text = self.knowledge(policy, many=True)
            train, unseen = self.cohort.of("train"), self.cohort.of("validation")
            base, seed = self._reward_base(seen, llm_only), derive_seed(self.seed, "reward", name)
            jobs, scored = rewards.reward_tasks(base, train, unseen, lists, text, self.config.reward, seed)
            tasks = {key: task for key, (task, _) in jobs.items()}
            finishes = {key: finish for key, (_, finish) in jobs.items()}
            workers = self.config.evaluation.workers
            done = train_all(tasks, folder / "models", workers, f"reward model of {name}", finishes)
            merged = {kind: rewards.merge_scored(done, scored, lists, kind) for kind in rewards.KINDS}
            np.savez_compressed(folder / "rewards.npz", **merged)
            return {"reliability": self._reliability(merged, lists)}

        folder = self.store.stage("reward", name, self._reward_depends(policy, seen, llm_only), build)
        with np.load(folder / "rewards.npz") as saved:
            return dict(saved)

    def _reward_depends(self, policy: Policy, seen: list[Policy], llm_only: bool) -> dict:
        return {
            "texts": self.texts_depend_on(policy, many=True),
            "seen": [self.texts_depend_on(p, many=True) for p in seen],
            "llm_only": llm_only,
            "templates": content_key(prompts.templates()),
            "encoder": self.encoder_identity,
            **{part: as_dict(getattr(self.config, part)) for part in ("data", "reward", "reranker")},
            "seed": self.seed,
        }

    def _reward_base(self, seen: list[Policy], llm_only: bool) -> Task:
        """The reward model's training on all train users' lists, before folds are taken out."""
        mixture = np.concatenate([self.knowledge(p, many=True) for p in seen], 1) if llm_only else self.mixture(seen)
        return self.task(self.config.reward.backbone, "popularity", mixture, 0)

    def reward_model(self, policy: Policy, seen: list[Policy]):
        """The finished reward model that scored `policy`: its folder, its task, and the fold of each train user."""
        self.rewards(policy, seen)
        folder = self.store.folder("reward", policy.name, self._reward_depends(policy, seen, False))
        seed = derive_seed(self.seed, "reward", policy.name)
        fold = rewards.user_folds(self.cohort.of("train"), self.config.reward.folds, seed)
        return folder, self._reward_base(seen, False), fold

    def rescore(self, policy: Policy, seen: list[Policy], text: np.ndarray) -> dict[str, np.ndarray]:
        """Rewards (L, S) by kind of other texts (U, S, T) by the reward model that scored `policy`, NaN where absent.

        Lists as in `rewards`; a train user's are scored by models that were trained without them.
        """
        folder, base, fold = self.reward_model(policy, seen)
        train, unseen = self.cohort.of("train"), self.cohort.of("validation")
        lists = self.lists("popularity").of_users(self.cohort.of("train", "validation"))
        results, scored = {}, {}
        for k, s in itertools.product(range(self.config.reward.folds), range(self.config.reward.seeds)):
            name = f"fold{k}-seed{s}"
            scored[name] = lists.of_users(np.concatenate([train[fold == k], unseen]))
            with np.load(folder / "models" / f"{name}.npz") as arrays:
                results[name] = rewards.rescore(base, dict(arrays), scored[name], text)
        return {kind: rewards.merge_scored(results, scored, lists, kind) for kind in rewards.KINDS}

    def _reliability(self, merged, lists) -> dict:
        out = {}
        llm = self.config.llm
        for split, samples in (("train", llm.train_samples), ("validation", llm.evaluation_samples)):
            for kind in rewards.KINDS:
                half = rewards.split_half(merged[kind][:, :samples], lists, self.cohort.of(split))
                out[f"{split}/{kind}"] = {key: half[key] for key in ("r", "gain", "users")}
        return out

    def _choice(self, policy: Policy, seen: list[Policy], kind=None, finished_only=None, llm_only: bool = False):
        """What pairs are built from, `pair_users` only: rewards (U', N), users, prompts, texts, lists a user.

        `kind` and `finished_only` are the configuration's where they are None; `llm_only`: see `rewards`.
        """
        kind = kind or self.config.reward.kind
        finished_only = self.config.alignment.finished_only if finished_only is None else finished_only
        users = self.pair_users(policy)
        lists = self.lists("popularity").of_users(self.cohort.of("train", "validation"))
        reward = rewards.user_rewards(self.rewards(policy, seen, llm_only)[kind], lists, users)
        table = self.texts(policy, many=True)
        table = table[table.user.isin(users)].set_index("user")
        if finished_only:
            finished = table.finished.to_numpy(bool).reshape(reward.shape)
            reward = np.where(finished, reward, np.nan)
        texts = table.text.groupby(level=0).apply(list)
        counts = np.array([(lists.user == u).sum() for u in users])
        return reward, users, [self.prompts[u] for u in users], [texts[u] for u in users], counts

    def pairs(self, policy: Policy, seen: list[Policy]) -> pd.DataFrame:
        """Preference pairs of a policy's texts."""
        return preferences.build_pairs(*self._choice(policy, seen), self.config.alignment)

    @functools.cache
    def dpo_round(self, number: int) -> Policy:
        """The policy after DPO round `number` (1, 2, ...): fresh LoRA on the merged policy that sampled."""
        parent = self.start if number == 1 else self.dpo_round(number - 1)
        pairs = self.pairs(parent, self.chain(number - 1))
        return self._adapter(f"dpo_round_{number}", parent, pairs, "align")

    @cached_property
    def dpo_cold(self) -> Policy:
        """The paper's path: one round straight from the zero-shot LLM."""
        pairs = self.pairs(self.zero_shot, [self.zero_shot])
        return self._adapter("dpo_cold", self.zero_shot, pairs, "align")

    @cached_property
    def random_pairs(self) -> Policy:
        """The control of round 1: as many pairs for the same users, drawn without the reward."""
        pairs = self.pairs(self.start, self.chain(0))
        reward, users, _, texts, _ = self._choice(self.start, self.chain(0))
        allowed = {
            user: {j: text for j, text in enumerate(row) if not np.isnan(reward[i, j])}
            for i, (user, row) in enumerate(zip(users, texts, strict=True))
        }
        drawn = preferences.random_pairs(pairs, allowed, generator(self.seed, "random_pairs"))
        return self._adapter("random_pairs", self.start, drawn, "align")

    @functools.cache
    def ablation(self, name: str) -> Policy:
        """Round 1 from the same texts with one thing changed, or the zero-shot LLM asked otherwise (config.ABLATIONS)."""
        change = dict(ABLATIONS[name])
        if "prompt" in change:
            return replace(self.zero_shot, name=name)
        kind, llm_only = change.pop("reward", None), change.pop("llm_only", False)
        samples, grpo = change.pop("samples", None), change.pop("grpo", False)
        config = replace(self.config.alignment, **change)
        reward, users, asked, texts, counts = self._choice(
            self.start, self.chain(0), kind, config.finished_only, llm_only
        )
        reward, texts = reward[:, :samples], [row[:samples] for row in texts]
        if grpo:
            return self._adapter(name, self.start, preferences.groups(reward, users, asked, texts), "grpo", config)
        pairs = preferences.build_pairs(reward, users, asked, texts, counts, config)
        return self._adapter(name, self.start, pairs, "align", config)

    @cached_property
    def rft(self) -> Policy:
        """Rejection-sampling fine-tuning: supervised on the best of N, from the policy of round 1."""
        table = preferences.best_of_n(*self._choice(self.start, self.chain(0)), self.config.alignment)
        return self._adapter("rft", self.start, table, "warm_start")

    @property
    def final(self) -> Policy:
        """The policy after the last round."""
        return self.dpo_round(self.config.alignment.rounds)

    def export_final(self) -> Path:
        """The final policy as GGUF (Q8_0) in `runs/`, for Ollama or llama.cpp; made once."""
        depends = {"policy": self.final.key}

        def build(folder):
            path = export_gguf(self.final, folder / "dpo4rec-q8_0.gguf")
            return {"mib": round(path.stat().st_size / 2**20, 1)}

        return self.store.stage("export", "final", depends, build) / "dpo4rec-q8_0.gguf"
