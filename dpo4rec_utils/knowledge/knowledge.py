"""Knowledge as artefacts: prompts, sampled texts, templated profiles, and their vectors.

Every method makes its artefact once (see store.Store) and returns it; asking again reads it from disk.
"""

import functools
from dataclasses import asdict, replace
from functools import cached_property

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import VARIANTS
from dpo4rec_utils.assets import weights_identity
from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.data.domain import render_words
from dpo4rec_utils.data.feedback import disliked, liked
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.keys import content_key
from dpo4rec_utils.knowledge import prompts
from dpo4rec_utils.knowledge.encoder import TextEncoder
from dpo4rec_utils.knowledge.engines import Request, texts_stage
from dpo4rec_utils.knowledge.models import load_tokenizer, token_ids
from dpo4rec_utils.knowledge.policies import Policy, base_policy
from dpo4rec_utils.knowledge.prompts import Facts
from dpo4rec_utils.seeds import derive_seed, generator
from dpo4rec_utils.store import Store, made_by


class Knowledge:
    """Texts about users and items, and their vectors. U users, I items, T the width of a text vector."""

    def __init__(self, data: Data, config: Config, store: Store):
        self.data, self.config, self.store = data, config, store
        self.seed = config.seed
        self.users = data.cohort.users
        self.domain = data.domain
        self.prefix = prompts.user_words(self.domain, config.llm.prompt).prefix

    @cached_property
    def reader(self) -> prompts.FactReader:
        """Reads histories of this catalogue."""
        return prompts.FactReader(self.data.dataset, self.domain, self.config, self.tidy)

    def tidy(self, text: str) -> str:
        """A title or value from the data as prompts hold it: no control words of this LLM, no longer than it may be."""
        tokenizer = load_tokenizer(self.config.llm.model)
        return prompts.shortened(prompts.as_text(text, self.control_words), tokenizer, self.config.llm.title_tokens)

    @cached_property
    def control_words(self) -> tuple[str, ...]:
        """What this LLM's tokenizer takes for control tokens."""
        return prompts.control_words(load_tokenizer(self.config.llm.model))

    @cached_property
    def facts(self) -> list[prompts.Facts]:
        """Facts of every user's history, and what the catalogue says of the user."""
        known = self.data.dataset.users
        return [
            replace(self.reader.facts(past), demographics=known.get(user, ()))
            for user, past in zip(self.users, self.data.cohort.history, strict=True)
        ]

    @functools.cache
    def prompts(self, name: str | None = None) -> list[str]:
        """The full prompt of every user by a user template, the configuration's where `name` is None."""
        return [self.prompt(facts, name or self.config.llm.prompt) for facts in self.facts]

    def prompt(self, facts: Facts, name: str) -> str:
        """The full prompt of a user with these facts by user template `name`."""
        words, tokenizer = prompts.user_words(self.domain, name), load_tokenizer(self.config.llm.model)
        return prompts.render(tokenizer, self.domain, render_words(words.question, asdict(facts)), words.prefix)

    def question(self, user: int) -> str:
        """What a user's prompt asks, without chat template and prefix."""
        return prompts.user_question(self.facts[user], self.domain, self.config.llm.prompt)

    # Texts

    def texts(self, policy: Policy) -> pd.DataFrame:
        """Sampled texts of every user: user (position), sample, text (without prefix), tokens, finished.

        Of a rewarded policy `pair_users` and `heldout_users` have `train_samples` texts; everyone else has
        `evaluation_samples`. Of the policy of a variant, validation users alone have texts.
        """
        table = self.store.make(texts_stage(policy.name, policy, self._requests(policy), self.config))
        return table.assign(user=table.id.astype(int)).sort_values(["user", "sample"], ignore_index=True)

    def _requests(self, policy: Policy) -> list[Request]:
        llm, paired = self.config.llm, {*self.pair_users(policy), *self.heldout_users} if policy.rewarded else ()
        variant = VARIANTS.get(policy.name)
        # Variants are there to be chosen among, and test users are never chosen by.
        users = self.data.cohort.of("validation") if variant else range(len(self.users))
        asked = self.prompts(variant.prompt if variant else None)
        return [
            Request(
                str(user),
                asked[user],
                llm.train_samples if user in paired else llm.evaluation_samples,
                derive_seed(self.seed, "sampling", self.users[user]),
            )
            for user in users
        ]

    @cached_property
    def _train_order(self) -> np.ndarray:
        return generator(self.seed, "pair users").permutation(self.data.cohort.of("train"))

    @cached_property
    def heldout_users(self) -> np.ndarray:
        """The train users that no step of the LLM is trained on, ascending: their pairs measure what a round has learnt.

        Raises `StudyError` where they would be half of the train users or more.
        """
        count, train = self.config.alignment.heldout_users, self._train_order
        if 2 * count >= len(train):
            raise StudyError(
                f"alignment.heldout_users = {count} of {len(train)} train users leaves too few to train on; allowed: at most "
                f"{(len(train) - 1) // 2}."
            )
        return np.sort(train[:count])

    @cached_property
    def aligned_users(self) -> np.ndarray:
        """The train users that steps of the LLM may be trained on, in the order in which rounds ask them."""
        return self._train_order[self.config.alignment.heldout_users :]

    def pair_users(self, policy: Policy) -> np.ndarray:
        """The train users whose `train_samples` texts of this policy become pairs, ascending.

        Sampling is most of a round's cost, and a round keeps the best pairs only: so each round asks other users, in one
        order of all of them, from its start again where it ends. Round 1 of every loop asks the same ones.
        """
        users = self.aligned_users
        count = min(self.config.alignment.pair_users or len(users), len(users))
        return np.sort(np.roll(users, -policy.round * count)[:count])

    def item_texts(self, items) -> pd.DataFrame:
        """Factual knowledge of some items from the zero-shot LLM, one text each: item (position), text."""
        tokenizer, words, requests = load_tokenizer(self.config.llm.model), self.domain.item, []
        for item in items:
            row = self.data.dataset.items.iloc[item]
            question = render_words(
                words.question, self._counted | prompts.item_words(row, self.data.dataset, self.tidy)
            )
            prompt = prompts.render(tokenizer, self.domain, question, words.prefix)
            requests.append(Request(str(item), prompt, 1, derive_seed(self.seed, "sampling", "item", row.item_id)))
        table = self.store.make(texts_stage("items", base_policy(self.config.llm), requests, self.config))
        return table.assign(item=table.id.astype(int), text=words.prefix + table.text)[["item", "text"]]

    @functools.cache
    def template_texts(self, count: int, full: bool) -> list[list[str]]:
        """`count` templated profiles a user (without prefix); `full` ones state every fact, others a random part.

        None is longer than a text of the LLM may be: `llm.max_new_tokens` with its end.
        """
        texts, tokenizer, limit = [], load_tokenizer(self.config.llm.model), self.config.llm.max_new_tokens - 1

        def fits(text):
            return len(token_ids(tokenizer, text)) <= limit

        for user, facts in zip(self.users, self.facts, strict=True):
            rng = generator(self.seed, "template", full, user)
            texts.append([prompts.templated_profile(facts, self.domain, rng, fits, full) for _ in range(count)])
        return texts

    # Vectors

    @cached_property
    def encoder(self) -> TextEncoder:
        """The sentence encoder with its memory on disk, which is of these weights, this code and these libraries."""
        config = self.config.encoder
        identity = as_dict(config) | {"weights": weights_identity(config.model, "encoder")}
        key = content_key(identity | made_by(TextEncoder.__module__))
        return TextEncoder(config, self.store.folder("encoder", "texts", key))

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """(I, T) vectors of the items' texts without an LLM."""
        return self.encoder.encode([self.item_text(i) for i in range(len(self.data.dataset.items))], "encode items")

    def item_text(self, item: int) -> str:
        """The text of an item (position) without an LLM: what the catalogue says of it."""
        row = self.data.dataset.items.iloc[item]
        return render_words(self.domain.item.facts, self._counted | prompts.item_words(row, self.data.dataset))

    @property
    def _counted(self) -> dict:
        """The domain's attribute without values, for a catalogue that lacks it."""
        return {self.domain.attribute: []} if self.domain.attribute else {}

    def vectors(self, policy: Policy, samples: int | None = None) -> np.ndarray:
        """(U, S, T) vectors of a policy's texts with their prefix, the first `samples` of a user; NaN where absent."""
        table = self.texts(policy)
        if samples:
            table = table[table["sample"] < samples]
        vectors = self.encoder.encode(self.prefix + table.text, f"encode {policy.name}")
        out = np.full((len(self.users), table["sample"].max() + 1, vectors.shape[1]), np.nan, np.float32)
        out[table.user, table["sample"]] = vectors
        return out

    @cached_property
    def history_mean(self) -> np.ndarray:
        """(U, T) mean of the history's item vectors, +1 liked, -1 disliked, 0 between; unweighted where all are between."""
        out = []
        for past in self.data.cohort.history:
            weight = liked(past.rating, self.config.data).astype(np.float32)
            weight -= disliked(past.rating, self.config.data)
            weight = weight if weight.any() else np.ones_like(weight)
            out.append(weight @ self.item_vectors[past.item] / np.abs(weight).sum())
        return np.array(out, dtype=np.float32)

    @cached_property
    def shown_mean(self) -> np.ndarray:
        """(U, T) mean vector of exactly the items whose titles stand in the user's prompt."""
        return np.array([self.item_vectors[list(facts.items)].mean(axis=0) for facts in self.facts])

    def llm_item_vectors(self) -> np.ndarray:
        """(I, T) vectors of item texts by the zero-shot LLM."""
        texts = self.item_texts(range(len(self.data.dataset.items)))
        return self.encoder.encode(texts.sort_values("item").text, "encode item texts")

    def template_vectors(self, count: int, full: bool) -> np.ndarray:
        """(U, count, T) vectors of templated profiles."""
        texts = [self.prefix + text for row in self.template_texts(count, full) for text in row]
        return self.encoder.encode(texts, "encode templates").reshape(len(self.users), count, -1)
