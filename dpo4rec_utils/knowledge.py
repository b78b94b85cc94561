"""Data and knowledge as artefacts: users and lists, prompts, sampled texts, templated profiles and their vectors.

Every method makes its artefact once (see artifacts.Store) and returns it; asking again reads it from disk.
"""

import functools
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from dpo4rec_utils import prompts
from dpo4rec_utils.artifacts import Store, content_key, project_root, require_free_memory
from dpo4rec_utils.assets import weights_identity
from dpo4rec_utils.config import ABLATIONS, Config, as_dict, derive_seed, generator
from dpo4rec_utils.datasets import load_dataset
from dpo4rec_utils.encoding import TextEncoder
from dpo4rec_utils.lists import SPLITS, build_cohort, build_lists
from dpo4rec_utils.policies import Policy, base_policy, load_tokenizer
from dpo4rec_utils.sampling import open_sampler, read_shards, sample_shards


class Knowledge:
    """What there is to know before anything is ranked. U users, I items, T the width of a text vector."""

    def __init__(self, config: Config, root: Path | None = None, label: str = ""):
        root = root or project_root()
        self.config = config
        self.seed = config.seed
        self.results = root / "results" / config.profile
        self.store = Store(root / "runs", self.results, as_dict(config), label)

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
