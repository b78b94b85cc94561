"""The study of one configuration: the paper's loop (Algorithm 1), its controls and variants, as policies by name."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pandas as pd

from dpo4rec_utils.alignment.adapters import Aligner, Recipe
from dpo4rec_utils.alignment.pairs import (
    Candidates,
    best_of_n,
    build_pairs,
    groups,
    random_pairs,
    rewarded_texts,
)
from dpo4rec_utils.alignment.story import Round
from dpo4rec_utils.arms import VARIANTS, round_name
from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.files import StudyError, project_root
from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.knowledge.policies import Policy, base_policy
from dpo4rec_utils.rerankers.scorers import Scorers
from dpo4rec_utils.rewards.model import RewardModel, RewardModels
from dpo4rec_utils.seeds import generator
from dpo4rec_utils.settings import load_config, notebook_parameters
from dpo4rec_utils.store import Store


def open_study(source: dict | str) -> "Study":
    """The study of a profile's name, or of a notebook's `globals()` right after its parameters cell.

    A notebook's study makes what is missing only if its `MAKE` is true; a profile's always does.
    """
    if isinstance(source, str):
        return Study(load_config(source))
    config, making = notebook_parameters(source)
    return Study(config, making=making)


class Study:
    """Data, knowledge, scorers, reward models and policies of one configuration."""

    def __init__(self, config: Config, root: Path | None = None, label: str = "", making: bool = True):
        self.config, self.seed = config, config.seed
        self.store = Store(root or project_root(), as_dict(config), label, making)
        self._loop, self._rounds = self.loop(), []

    # The parts, each made when it is first asked for

    @cached_property
    def data(self) -> Data:
        """Tables, users and lists."""
        return Data(self.config)

    @cached_property
    def knowledge(self) -> Knowledge:
        """Prompts, texts and vectors."""
        return Knowledge(self.data, self.config, self.store)

    @cached_property
    def scorers(self) -> Scorers:
        """Re-rankers."""
        return Scorers(self.data, self.knowledge.item_vectors, self.config)

    @cached_property
    def reward_models(self) -> RewardModels:
        """Reward models."""
        return RewardModels(self.knowledge, self.scorers)

    @cached_property
    def aligner(self) -> Aligner:
        """Training of policies."""
        return Aligner(self.store, self.config)

    # The loop

    def loop(self) -> Iterator[Round]:
        """Algorithm 1 of the paper: sample, reward, pair, align; the aligned policy samples in the next round."""
        before, sources, rounds = self.start, self.before_round_1, self.config.alignment.rounds
        for number in range(1, rounds + 1):
            # 1. Sample: N texts a user for some train users, fewer for everyone else; kept, and read by the next two steps.
            self.knowledge.texts(before)
            # 2. Reward: how well a user's held-out lists are ranked with each text.
            model = self.reward_models.of(before, sources)
            # 3. Pair: the best text against the worst.
            pairs = build_pairs(self.candidates(before, model), self.config.alignment)
            # 4. Align. All policies but the last are rewarded: their texts make the next round's pairs.
            recipe = Recipe(round_name(number), rewarded=number < rounds, round=number)
            after = self.aligner.train(before, pairs, recipe)
            yield Round(number, before, model, pairs, after)
            before, sources = after, [*sources, after]

    def round(self, number: int) -> Round:
        """Round `number` (1, 2, ...) of the loop, with all before it."""
        try:
            while len(self._rounds) < number:
                self._rounds.append(next(self._loop))
        except BaseException:  # an interrupted generator cannot go on; a new one finds what is finished in seconds
            self._loop, self._rounds = self.loop(), []
            raise
        return self._rounds[number - 1]

    @cached_property
    def zero_shot(self) -> Policy:
        """The LLM as it comes."""
        return base_policy(self.config.llm)

    @cached_property
    def start(self) -> Policy:
        """The policy before round 1: after supervised fine-tuning on templated profiles, or the zero-shot LLM."""
        settings = self.config.alignment
        if not settings.warm_start:
            return self.zero_shot
        count, train = settings.warm_start_examples, self.data.cohort.of("train")
        drawn = self.knowledge.template_texts(max(settings.warm_start_texts, -(-count // len(train))), full=False)
        order, prompts = generator(self.seed, "warm_start").permutation(train), self.knowledge.prompts()
        rows = [(prompts[user], text) for user in order for text in drawn[user]][:count]
        table = pd.DataFrame(rows, columns=["prompt", "completion"])
        return self.aligner.train(self.zero_shot, table, Recipe("warm_start", "warm_start", rewarded=True))

    @property
    def before_round_1(self) -> list[Policy]:
        """The policies whose texts the reward model of round 1 is trained on."""
        return [self.zero_shot, self.start] if self.config.alignment.warm_start else [self.zero_shot]

    def candidates(self, policy: Policy, model: RewardModel, kind=None, finished_only=None) -> Candidates:
        """What pairs are built from; `kind` and `finished_only` are the configuration's where they are None."""
        kind = kind or self.config.reward.kind
        finished_only = self.config.alignment.finished_only if finished_only is None else finished_only
        return rewarded_texts(self.knowledge, policy, model, kind, finished_only)

    # Policies by name

    @functools.cache
    def policy(self, name: str) -> Policy:
        """A policy by its arm's name; 'last' is the one after the last round. `StudyError` for a name that is none."""
        if name == "last":
            return self.round(self.config.alignment.rounds).after
        rounds = [round_name(number) for number in range(1, self.config.alignment.rounds + 1)]
        if name in rounds:
            return self.round(rounds.index(name) + 1).after
        if name in VARIANTS:
            return self._variant(name)
        if name not in POLICIES:
            raise StudyError(
                f"There is no policy {name!r}; allowed: last, {', '.join([*POLICIES, *rounds])}, or a variant."
            )
        return POLICIES[name](self)

    def _cold(self) -> Policy:
        """The paper's path: one round straight from the zero-shot LLM."""
        model = self.reward_models.of(self.zero_shot, [self.zero_shot])
        pairs = build_pairs(self.candidates(self.zero_shot, model), self.config.alignment)
        return self.aligner.train(self.zero_shot, pairs, Recipe("dpo_cold"))

    def _round_1(self, llm_only: bool = False, **choice) -> Candidates:
        """The texts that round 1 chooses from, with their rewards; `choice` as in `candidates`."""
        model = self.reward_models.of(self.start, self.before_round_1, llm_only)
        return self.candidates(self.start, model, **choice)

    def _random_pairs(self) -> Policy:
        """The control of round 1: as many pairs for the same users, drawn without the reward."""
        candidates = self._round_1()
        pairs = build_pairs(candidates, self.config.alignment)
        drawn = random_pairs(pairs, candidates, generator(self.seed, "random_pairs"))
        return self.aligner.train(self.start, drawn, Recipe("random_pairs"))

    def _best_of_n(self) -> Policy:
        """Rejection-sampling fine-tuning: supervised on the best of N, from the policy of round 1."""
        table = best_of_n(self._round_1(), self.config.alignment)
        return self.aligner.train(self.start, table, Recipe("rft", "warm_start"))

    def _variant(self, name: str) -> Policy:
        """Round 1 from the same texts with one thing changed, or the zero-shot LLM asked otherwise."""
        variant = VARIANTS[name]
        if variant.prompt:
            return replace(self.zero_shot, name=name, rewarded=False)
        config = self.config.alignment.changed(**variant.alignment)
        candidates = self._round_1(variant.llm_only, kind=variant.reward, finished_only=config.finished_only)
        candidates = candidates.first(variant.samples)
        if variant.grpo:
            return self.aligner.train(self.start, groups(candidates), Recipe(name, "grpo"), config)
        return self.aligner.train(self.start, build_pairs(candidates, config), Recipe(name), config)


# The policies that are neither a round nor a variant, by their arm's name.
POLICIES: dict[str, Callable[[Study], Policy]] = {
    "zero_shot": lambda study: study.zero_shot,
    "warm_start": lambda study: study.start,
    "dpo_cold": Study._cold,
    "random_pairs": Study._random_pairs,
    "rft": Study._best_of_n,
}
