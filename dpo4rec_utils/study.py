"""The study as a graph of artefacts: data, knowledge, rewards, pairs, policies. Notebooks call this and nothing deeper.

Every method makes its artefact once (see artifacts.Store) and returns it; asking again reads it from disk. Test users'
lists are read by evaluation, referees and understanding alone.
"""

import functools
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dpo4rec_utils import alignment, preferences, prompts, rewards
from dpo4rec_utils.artifacts import Store, content_key, project_root, require_free_memory
from dpo4rec_utils.assets import weights_identity
from dpo4rec_utils.config import ABLATIONS, Config, as_dict, derive_seed, generator, load_config, load_notebook_config
from dpo4rec_utils.datasets import load_dataset
from dpo4rec_utils.encoding import TextEncoder
from dpo4rec_utils.lists import SPLITS, build_cohort, build_lists, genre_matrix
from dpo4rec_utils.policies import Policy, base_policy, export_gguf, load_tokenizer
from dpo4rec_utils.sampling import open_sampler, read_shards, sample_shards
from dpo4rec_utils.training import Task, history_table, stop_workers, train_all


def open_study(source: dict | str) -> "Study":
    """The study of a profile's name, or of a notebook's `globals()` right after its parameters cell."""
    return Study(load_config(source) if isinstance(source, str) else load_notebook_config(source))


class Study:
    """All stages of one configuration. U users, I items, T the width of a text vector."""

    def __init__(self, config: Config, root: Path | None = None):
        root = root or project_root()
        self.config = config
        self.seed = config.seed
        self.results = root / "results" / config.profile
        self.store = Store(root / "runs", self.results, as_dict(config))

    # Data

    @cached_property
    def dataset(self):
        """The data set's tables."""
        return load_dataset(self.config.data.name)

    @cached_property
    def cohort(self):
        """Users, split, histories and futures; the split sizes become a record."""
        cohort = build_cohort(self.dataset, self.config.data, self.seed)
        sizes = {split: int((cohort.split == split).sum()) for split in SPLITS}
        lengths = [len(past) for past in cohort.history]
        metrics = {"users": sizes, "interactions": len(self.dataset.interactions), "items": len(self.dataset.items)}
        depends = {"data": as_dict(self.config.data), "seed": self.seed}
        self.store.stage("data", "cohort", depends, lambda _: metrics | {"history_mean": float(np.mean(lengths))})
        return cohort

    @functools.cache
    def lists(self, protocol: str, later: bool = False):
        """Candidate lists of all users under a protocol; `later` ones come after those that the loop learns from."""
        return build_lists(self.dataset, self.cohort, protocol, self.config.data, self.seed, later)

    @cached_property
    def facts(self) -> list[prompts.Facts]:
        """Facts of every user's history."""
        return [prompts.history_facts(past, self.dataset.items, self.config.data) for past in self.cohort.history]

    # Knowledge

    @cached_property
    def prompts(self) -> list[str]:
        """The full user prompt of every user."""
        return self._prompts(self.config.llm.prompt)

    @functools.cache
    def _prompts(self, name: str) -> list[str]:
        tokenizer, prefix = load_tokenizer(self.config.llm.model), prompts.user_prefix(name)
        return [prompts.render(tokenizer, prompts.user_question(f, name), prefix) for f in self.facts]

    def decoding(self) -> dict:
        """What a text depends on besides policy, prompt and seed."""
        llm = self.config.llm
        return {k: getattr(llm, k) for k in ("engine", "max_new_tokens", "temperature", "top_p", "shard_users")}

    def texts(self, policy: Policy, many: bool) -> pd.DataFrame:
        """Sampled texts of every user: user (position), sample, text (without prefix), tokens, finished.

        Of the policy of an ablation, validation and test users alone have texts.

        `many`: `train_samples` texts for `pair_users` (a policy of the loop) and `evaluation_samples` for all others.
        """
        llm, requests, depends = self.config.llm, self._requests(policy, many), self.texts_depend_on(policy, many)

        def build(folder):
            require_free_memory(2)
            open_engine = functools.partial(open_sampler, policy, llm, folder)
            sample_shards(folder, requests, open_engine, llm.shard_users, f"sample {policy.name}")
            table = read_shards(folder)
            return {"texts": len(table), "tokens": int(table.tokens.sum()), "distinct": int(table.text.nunique())}

        table = read_shards(self.store.stage("texts", policy.name, depends, build))
        return table.assign(user=table.id.astype(int)).sort_values(["user", "sample"], ignore_index=True)

    def _requests(self, policy: Policy, many: bool) -> list[tuple[str, str, int, int]]:
        llm, paired = self.config.llm, set(self.pair_users(policy)) if many else ()
        # The variants of an ablation are judged by referees on users that nothing was trained on.
        users = self.cohort.of("validation", "test") if policy.name in ABLATIONS else range(len(self.cohort.users))
        asked = self._prompts(ABLATIONS.get(policy.name, {}).get("prompt", llm.prompt))
        return [
            (
                str(user),
                asked[user],
                llm.train_samples if user in paired else llm.evaluation_samples,
                derive_seed(self.seed, "sampling", self.cohort.users[user]),
            )
            for user in users
        ]

    def pair_users(self, policy: Policy) -> np.ndarray:
        """The train users whose `train_samples` texts of this policy become pairs, ascending.

        Sampling is most of a round's cost, and a round keeps the best pairs only: so each round asks other users, in one
        order of all train users, from its start again where it ends. Round 1 and `dpo_cold` ask the same ones.
        """
        train = generator(self.seed, "pair users").permutation(self.cohort.of("train"))
        count = min(self.config.alignment.pair_users or len(train), len(train))
        number = int(policy.name.removeprefix("dpo_round_")) if policy.name.startswith("dpo_round_") else 0
        return np.sort(np.roll(train, -number * count)[:count])

    def texts_depend_on(self, policy: Policy, many: bool) -> dict:
        """What decides the texts of a policy: its weights, the decoding, and every prompt with its samples and seed."""
        return {
            "policy": policy.key,
            "decoding": self.decoding(),
            "requests": content_key(self._requests(policy, many)),
        }

    def arm_texts(self, name: str) -> pd.DataFrame:
        """The texts of a policy by its arm's name; policies of the loop have more of them for `pair_users`."""
        return self.texts(self.policy(name), many=self.in_loop(name))

    def in_loop(self, name: str) -> bool:
        """Whether pairs and reward models are made from this policy's texts, so that some users have many of them."""
        rounds = [f"dpo_round_{r}" for r in range(1, self.config.alignment.rounds)]
        return name in ("zero_shot", "warm_start", *rounds)

    def item_texts(self, items) -> pd.DataFrame:
        """Factual knowledge of some items from the zero-shot LLM, one text each: item (position), text."""
        tokenizer, prefix = load_tokenizer(self.config.llm.model), prompts.templates()["item"]["prefix"]
        requests = []
        for item in items:
            row = self.dataset.items.iloc[item]
            prompt = prompts.render(tokenizer, prompts.item_question(row), prefix)
            requests.append((str(item), prompt, 1, derive_seed(self.seed, "sampling", "item", row.item_id)))
        policy = base_policy(self.config.llm)
        depends = {"policy": policy.key, "decoding": self.decoding(), "requests": content_key(requests)}

        def build(folder):
            open_engine = functools.partial(open_sampler, policy, self.config.llm, folder)
            sample_shards(folder, requests, open_engine, self.config.llm.shard_users, "sample items")
            return {"texts": len(requests)}

        table = read_shards(self.store.stage("texts", "items", depends, build))
        return table.assign(item=table.id.astype(int), text=prefix + table.text)[["item", "text"]]

    @cached_property
    def encoder(self) -> TextEncoder:
        """The sentence encoder with its memory."""
        return TextEncoder(self.config.encoder, self.store.folder("encoder", "texts", self.encoder_identity))

    @cached_property
    def encoder_identity(self) -> dict:
        """What decides a text's vector besides the text."""
        config = self.config.encoder
        return as_dict(config) | {"weights": weights_identity(config.model, "minilm")}

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """(I, T) vectors of the items' facts (title, year, genres)."""
        return self.encoder.encode(
            [prompts.item_facts(item) for _, item in self.dataset.items.iterrows()], "encode items"
        )

    def knowledge(self, policy: Policy, many: bool, samples: int | None = None) -> np.ndarray:
        """(U, S, T) vectors of a policy's texts with their prefix, the first `samples` of a user; NaN where absent."""
        table = self.texts(policy, many)
        if samples:
            table = table[table["sample"] < samples]
        prefix = prompts.user_prefix(self.config.llm.prompt)
        vectors = self.encoder.encode(prefix + table.text, f"encode {policy.name}")
        out = np.full((len(self.cohort.users), table["sample"].max() + 1, vectors.shape[1]), np.nan, np.float32)
        out[table.user, table["sample"]] = vectors
        return out

    def template_texts(self, count: int, full: bool) -> list[list[str]]:
        """`count` templated profiles a user (without prefix); `full` ones state every fact, others a random part."""
        texts = []
        for user, facts in zip(self.cohort.users, self.facts, strict=True):
            rng = generator(self.seed, "template", full, user)
            texts.append([prompts.templated_profile(facts, rng, full) for _ in range(count)])
        return texts

    def template_knowledge(self, count: int, full: bool) -> np.ndarray:
        """(U, count, T) vectors of templated profiles."""
        prefix = prompts.user_prefix(self.config.llm.prompt)
        texts = [prefix + text for row in self.template_texts(count, full) for text in row]
        return self.encoder.encode(texts, "encode templates").reshape(len(self.facts), count, -1)

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
        return alignment.fast_precision(self.store.runs / "precision.json") if asked == "auto" else asked

    def _adapter(self, name: str, parent: Policy, table: pd.DataFrame, run, config=None) -> Policy:
        config = config or self.config.alignment
        read = alignment.SUPERVISED if run is alignment.warm_start else alignment.PREFERENCE
        settings = {field: getattr(config, field) for field in read} | {"precision": self.precision}
        depends = {"parent": parent.key, "data": content_key(table.to_dict("list")), "settings": settings}

        def build(folder):
            stop_workers()
            require_free_memory(3)
            seed = derive_seed(self.seed, "align", name)
            log = run(parent, table, folder, config, seed, self.precision)
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
        return self._adapter("warm_start", self.zero_shot, table, alignment.warm_start)

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

    def _reliability(self, merged, lists) -> dict:
        out = {}
        llm = self.config.llm
        for split, samples in (("train", llm.train_samples), ("validation", llm.evaluation_samples)):
            for kind in rewards.KINDS:
                half = rewards.split_half(merged[kind][:, :samples], lists, self.cohort.of(split))
                out[f"{split}/{kind}"] = {key: half[key] for key in ("r", "gain", "users")}
        return out

    def _choice(self, policy: Policy, seen: list[Policy], kind: str | None = None, finished_only: bool | None = None):
        """What pairs are built from, `pair_users` only: rewards (U', N), users, prompts, texts, lists a user."""
        kind = kind or self.config.reward.kind
        finished_only = self.config.alignment.finished_only if finished_only is None else finished_only
        users = self.pair_users(policy)
        lists = self.lists("popularity").of_users(self.cohort.of("train", "validation"))
        reward = rewards.user_rewards(self.rewards(policy, seen)[kind], lists, users)
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
        return self._adapter(f"dpo_round_{number}", parent, pairs, alignment.align)

    @cached_property
    def dpo_cold(self) -> Policy:
        """The paper's path: one round straight from the zero-shot LLM."""
        pairs = self.pairs(self.zero_shot, [self.zero_shot])
        return self._adapter("dpo_cold", self.zero_shot, pairs, alignment.align)

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
        return self._adapter("random_pairs", self.start, drawn, alignment.align)

    @functools.cache
    def ablation(self, name: str) -> Policy:
        """Round 1 from the same texts with one thing changed, or the zero-shot LLM asked otherwise (config.ABLATIONS)."""
        change = dict(ABLATIONS[name])
        if "prompt" in change:
            return replace(self.zero_shot, name=name)
        kind = change.pop("reward", None)
        config = replace(self.config.alignment, **change)
        choice = self._choice(self.start, self.chain(0), kind, config.finished_only)
        return self._adapter(name, self.start, preferences.build_pairs(*choice, config), alignment.align, config)

    @cached_property
    def rft(self) -> Policy:
        """Rejection-sampling fine-tuning: supervised on the best of N, from the policy of round 1."""
        table = preferences.best_of_n(*self._choice(self.start, self.chain(0)), self.config.alignment)
        return self._adapter("rft", self.start, table, alignment.warm_start)

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

    def log_ratio(self, policy: Policy, reference: Policy, users, limit: int = 32) -> float:
        """Mean log-ratio of policy and reference in nats per text, over one text of up to `limit` users.

        An estimate of KL(policy || reference) for texts sampled as the study does (temperature, top-p), without the end.
        """
        table = self.arm_texts(policy.name)
        table = table[(table["sample"] == 0) & table.user.isin(list(users)[:limit])]
        prompt = [self.prompts[u] for u in table.user]
        mine, theirs = (alignment.completion_log_probs(p, prompt, list(table.text)) for p in (policy, reference))
        return float(np.mean(mine - theirs))
