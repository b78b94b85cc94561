"""Knowledge as texts: facts of users, prompts, sampled texts, templated profiles.

`texts` and `item_texts` make an artefact once (see store.Store) and return it; asking again reads it from disk.
"""

import functools
from dataclasses import asdict, replace
from functools import cached_property

import numpy as np
import pandas as pd

from dpo4rec_utils.config import Config
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.data.domain import render_words
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge import prompts
from dpo4rec_utils.knowledge.engines import Request, texts_stage
from dpo4rec_utils.knowledge.facts import FactReader, Facts
from dpo4rec_utils.knowledge.models import load_tokenizer, token_ids
from dpo4rec_utils.knowledge.policies import Policy, base_policy
from dpo4rec_utils.seeds import derive_seed, generator
from dpo4rec_utils.store import Store


class Knowledge:
    """Facts and texts about users and items. Their vectors: `vectors.TextVectors`."""

    def __init__(self, data: Data, config: Config, store: Store):
        self.data, self.config, self.store = data, config, store
        self.seed = config.seed
        self.users = data.cohort.users
        self.domain = data.domain
        self.prefix = prompts.user_words(self.domain, config.llm.prompt).prefix

    def prefix_of(self, policy: Policy) -> str:
        """How the answers of a policy begin: the prefix of the user template that it is asked by."""
        return prompts.user_words(self.domain, policy.prompt or self.config.llm.prompt).prefix

    @cached_property
    def reader(self) -> FactReader:
        """Reads histories of this catalogue."""
        return FactReader(self.data.dataset, self.domain, self.config, self.tidy)

    def tidy(self, text: str) -> str:
        """A title or value from the data as prompts hold it: no control words of this LLM, no longer than it may be."""
        tokenizer = load_tokenizer(self.config.llm.model)
        return prompts.shortened(prompts.as_text(text, self.control_words), tokenizer, self.config.llm.title_tokens)

    @cached_property
    def control_words(self) -> tuple[str, ...]:
        """What this LLM's tokenizer takes for control tokens."""
        return prompts.control_words(load_tokenizer(self.config.llm.model))

    @cached_property
    def facts(self) -> list[Facts]:
        """Facts of every user's history, and what the catalogue says of the user."""
        demographics = self.data.dataset.users
        return [
            replace(self.reader.facts(past), demographics=demographics.get(user, ()))
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
        `evaluation_samples`. Whoever is not among the policy's users has none.
        """
        table = self.store.make(texts_stage(policy.name, policy, self._requests(policy), self.config))
        return table.assign(user=table.id.astype(int)).sort_values(["user", "sample"], ignore_index=True)

    def _requests(self, policy: Policy) -> list[Request]:
        llm, paired = self.config.llm, {*self.pair_users(policy), *self.heldout_users} if policy.rewarded else ()
        users = range(len(self.users)) if policy.users == "all" else self.data.cohort.of(policy.users)
        texts, draw = self.prompts(policy.prompt), [policy.draw] if policy.draw else []
        return [
            Request(
                str(user),
                texts[user],
                llm.train_samples if user in paired else llm.evaluation_samples,
                derive_seed(self.seed, "sampling", self.users[user], *draw),
            )
            for user in users
        ]

    @cached_property
    def _train_order(self) -> np.ndarray:
        return generator(self.seed, "pair users").permutation(self.data.cohort.of("train"))

    @cached_property
    def heldout_users(self) -> np.ndarray:
        """The train users that no step of the LLM is trained on, ascending: their pairs measure what a round has
        learnt.

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

        Sampling is most of a round's cost, and a round keeps the best pairs only: so each round asks other users, in
        one order of all of them, from its start again where it ends. Round 1 of every loop asks the same ones.
        """
        users = self.aligned_users
        count = min(self.config.alignment.pair_users or len(users), len(users))
        return np.sort(np.roll(users, -policy.round * count)[:count])

    def item_texts(self, items) -> pd.DataFrame:
        """Factual knowledge of some items from the zero-shot LLM, one text each: item (position), text."""
        tokenizer, words, requests = load_tokenizer(self.config.llm.model), self.domain.item, []
        for item in items:
            prompt = prompts.render(tokenizer, self.domain, self.item_question(item), words.prefix)
            seed = derive_seed(self.seed, "sampling", "item", self.data.dataset.items.item_id.iloc[item])
            requests.append(Request(str(item), prompt, 1, seed))
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

    def item_question(self, item: int) -> str:
        """What the prompt for an item (position) asks."""
        row = self.data.dataset.items.iloc[item]
        words = self._counted | prompts.item_words(row, self.data.dataset, self.tidy)
        return render_words(self.domain.item.question, words)

    def item_text(self, item: int) -> str:
        """The text of an item (position) without an LLM: what the catalogue says of it."""
        row = self.data.dataset.items.iloc[item]
        return render_words(self.domain.item.facts, self._counted | prompts.item_words(row, self.data.dataset))

    @property
    def _counted(self) -> dict:
        """The domain's attribute without values, for a catalogue that lacks it."""
        return {self.domain.attribute: []} if self.domain.attribute else {}
