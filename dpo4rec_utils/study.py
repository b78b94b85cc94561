"""The study of one configuration: the paper's loop (Algorithm 1), its controls and variants, as policies by name."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
import pandas as pd

from dpo4rec_utils.alignment.adapters import Aligner, Recipe
from dpo4rec_utils.alignment.controls import rewarded_otherwise
from dpo4rec_utils.alignment.pairs import (
    MORE_HELDOUT,
    PairRules,
    RewardedTexts,
    build_pairs,
    groups,
    require_pairs,
    rewarded_texts,
)
from dpo4rec_utils.alignment.probe import described_pairs
from dpo4rec_utils.alignment.round import Round
from dpo4rec_utils.arms import LOOPS, Loop, repeat_name, round_name, trained_loops
from dpo4rec_utils.config import Config, as_dict
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.files import StudyError, project_root
from dpo4rec_utils.knowledge.encoder import TextEncoder, open_encoder
from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.knowledge.policies import Policy, base_policy
from dpo4rec_utils.knowledge.vectors import TextVectors
from dpo4rec_utils.rerankers.scorers import Scorers
from dpo4rec_utils.rewards.model import RewardInputs, RewardModel, RewardModels
from dpo4rec_utils.seeds import generator
from dpo4rec_utils.settings import load_config, notebook_parameters
from dpo4rec_utils.store import Store
from dpo4rec_utils.variants import VARIANTS


def open_study(source: dict | str, **beside: type) -> "Study":
    """The study of a profile's name, or of a notebook's `globals()` right after its parameters cell.

    A notebook's study makes what is missing only if its `MAKE` is true; a profile's always does. `beside`: the
    parameters that the notebook has beside the usual ones, and their types.
    """
    if isinstance(source, str):
        return Study(load_config(source))
    config, making = notebook_parameters(source, **beside)
    return Study(config, Store(project_root(), as_dict(config), making=making))


class Study:
    """Data, knowledge, scorers, reward models and policies of one configuration."""

    def __init__(self, config: Config, store: Store | None = None):
        """`store`: where artefacts and records go, by default this checkout."""
        self.config, self.seed = config, config.seed
        self.store = store or Store(project_root(), as_dict(config))
        self._loops: dict[str, tuple[Iterator[Round], list[Round]]] = {}

    # The parts, each made when it is first asked for

    @cached_property
    def data(self) -> Data:
        """Tables, users and lists."""
        return Data(self.config)

    @cached_property
    def knowledge(self) -> Knowledge:
        """Facts, prompts and texts."""
        return Knowledge(self.data, self.config, self.store)

    @cached_property
    def encoder(self) -> TextEncoder:
        """The sentence encoder."""
        return open_encoder(self.config.encoder, self.store)

    @cached_property
    def vectors(self) -> TextVectors:
        """Vectors of texts, items and histories."""
        return TextVectors(self.knowledge, self.encoder)

    @cached_property
    def scorers(self) -> Scorers:
        """Re-rankers."""
        return Scorers(self.data, self.vectors.item_vectors, self.config)

    @cached_property
    def reward_models(self) -> RewardModels:
        """Reward models."""
        return RewardModels(self.vectors, self.scorers)

    @cached_property
    def aligner(self) -> Aligner:
        """Training of policies."""
        return Aligner(self.store, self.config)

    # The loop

    def loop(self, name: str = "dpo") -> Iterator[Round]:
        """Algorithm 1 of the paper: sample, reward, pair, align; the aligned policy samples in the next round.

        `name`: the headline's loop, or another of `arms.LOOPS`.
        """
        loop, before = LOOPS[name], self.before(name)
        if not before.rewarded:
            raise StudyError(
                f"{name} begins with {before.name}, whose texts make no pairs; add {name} to evaluation.arms."
            )
        sources, rounds = self.sources(before), self.config.alignment.rounds
        for number in range(1, rounds + 1):
            # 1. Sample: N texts a user for some train users, fewer for everyone else; kept, and read by the next steps.
            self.knowledge.texts(before)
            # 2. Reward: how well a user's later lists are ranked with each text.
            model = self.reward_models.of(before, sources, RewardInputs(residual=loop.residual))
            # 3. Pair: the best text against the worst; of held-out users, too, who train no step.
            rewarded = self.rewarded_texts(before, model)
            ordered = self._ordered(loop, rewarded, number)
            pairs = self.training_pairs(ordered, round_name(number, name))
            # 4. Align. All policies but the last are rewarded: their texts make the next round's pairs.
            method = "fine_tune" if loop.supervised else "dpo"
            recipe = Recipe(round_name(number, name), method, number < rounds, number)
            examples = self._examples(loop, pairs)
            after = self.aligner.train(before, examples, recipe)
            # A control is asked about the pairs that the headline is asked about.
            heldout = self.round(number).heldout if loop.control else self.heldout_pairs(rewarded, after.name)
            yield Round(number, before, model, pairs, examples, after, heldout, name)
            before, sources = after, [*sources, after]

    def before(self, loop: str) -> Policy:
        """The policy before round 1 of a loop."""
        start = LOOPS[loop].starts_at(self.config.alignment.warm_start)
        return self.zero_shot if start == "zero_shot" else self.warm_start

    def begins_with(self, policy: str) -> bool:
        """Whether a loop of this configuration begins with the policy of this name, so that its texts become pairs."""
        warm_start = self.config.alignment.warm_start
        return any(LOOPS[loop].starts_at(warm_start) == policy for loop in self.loops)

    def _ordered(self, loop: Loop, rewarded: RewardedTexts, number: int) -> RewardedTexts:
        """The texts as a loop pairs them in round `number`: by users' lists, or by a control's own rewards."""
        if loop.rewards == "lists":
            return rewarded
        return rewarded_otherwise(rewarded, loop.rewards, generator(self.seed, loop.name, number))

    def _examples(self, loop: Loop, pairs: pd.DataFrame) -> pd.DataFrame:
        """What a loop's policy is trained on: the pairs, or as many examples for the same users."""
        if loop.examples == "chosen":
            return pairs[["user", "prompt"]].assign(completion=pairs.chosen)
        if loop.examples == "templates":
            drawn = self.knowledge.template_texts(self.config.alignment.pairs_per_user, full=True)
            place = pairs.groupby("user").cumcount()
            texts = [drawn[user][row] for user, row in zip(pairs.user, place, strict=True)]
            return pairs[["user", "prompt"]].assign(completion=texts)
        return pairs

    def round(self, number: int, loop: str = "dpo") -> Round:
        """Round `number` (1, 2, ...) of a loop, with all before it. Raises `StudyError` for one that no loop has."""
        if not 1 <= number <= self.config.alignment.rounds:
            raise StudyError(
                f"There is no round {number}; allowed: 1 to alignment.rounds = {self.config.alignment.rounds}."
            )
        turns, rounds = self._loops.setdefault(loop, (self.loop(loop), []))
        try:
            while len(rounds) < number:
                rounds.append(next(turns))
        except BaseException:  # an interrupted generator cannot go on; a new one finds what is finished in seconds
            del self._loops[loop]
            raise
        return rounds[number - 1]

    def rounds(self, loop: str = "dpo") -> list[Round]:
        """All rounds of a loop."""
        return [self.round(number, loop) for number in range(1, self.config.alignment.rounds + 1)]

    @property
    def loops(self) -> list[str]:
        """The loops that the arms of this configuration need, the headline's first."""
        return trained_loops(self.config.evaluation.arms)

    @cached_property
    def zero_shot(self) -> Policy:
        """The LLM as it comes; its texts are rewarded where a loop begins with it, or the ladder picks among them."""
        rewarded = self.begins_with("zero_shot") or bool(self.config.evaluation.ladder)
        return replace(base_policy(self.config.llm), rewarded=rewarded)

    @property
    def start(self) -> Policy:
        """The policy before round 1 of the headline's loop: the zero-shot LLM, or the warm start."""
        return self.before("dpo")

    @cached_property
    def warm_start(self) -> Policy:
        """The zero-shot LLM after supervised fine-tuning on templated profiles."""
        settings = self.config.alignment
        count, users = settings.warm_start_examples, self.knowledge.aligned_users
        drawn = self.knowledge.template_texts(max(settings.warm_start_texts, -(-count // len(users))), full=False)
        order, prompts = generator(self.seed, "warm_start").permutation(users), self.knowledge.prompts()
        rows = [(prompts[user], text) for user in order for text in drawn[user]][:count]
        table = pd.DataFrame(rows, columns=["prompt", "completion"])
        recipe = Recipe("warm_start", "fine_tune", self.begins_with("warm_start"))
        settings = settings.changed(learning_rate=settings.warm_start_learning_rate, lora_layers="all")
        return self.aligner.train(self.zero_shot, table, recipe, settings)

    def sources(self, before: Policy) -> list[Policy]:
        """The policies whose texts the reward model of a first round is trained on, given the policy before it."""
        return [self.zero_shot] if before == self.zero_shot else [self.zero_shot, before]

    def rewarded_texts(self, policy: Policy, model: RewardModel, rules: PairRules | None = None) -> RewardedTexts:
        """What pairs are built from, by the configuration's rules where none are given."""
        alignment, vectors = self.config.alignment, self.vectors
        rules = rules or PairRules(self.config.reward, alignment.unfinished, alignment.repetitive)
        if (rules.samples or 0) > self.config.llm.train_samples:
            vectors, policy, model = self.widened(policy, model, rules.samples)
        return rewarded_texts(vectors, policy, model, rules)

    def widened(self, policy: Policy, model: RewardModel, samples: int) -> tuple[TextVectors, Policy, RewardModel]:
        """The same policy with more texts a user, and the same reward model asked about these.

        Texts of another configuration: the round's pairs and reward model keep those that they were made of.
        """
        config = self.config.changed(llm=self.config.llm.changed(train_samples=samples))
        vectors = TextVectors(Knowledge(self.data, config, self.store), self.encoder)
        sampled = replace(policy, name=f"{policy.name}_{samples}")
        return vectors, sampled, replace(model, rewards=model.rescore(vectors.policy_vectors(sampled)))

    def training_pairs(self, rewarded: RewardedTexts, name: str, config=None) -> pd.DataFrame:
        """The pairs that a round is trained on; `StudyError` where there are too few."""
        config = config or self.config.alignment
        pairs = build_pairs(self.trained(rewarded), config)
        require_pairs(pairs, config, name)
        return pairs

    def heldout_pairs(self, rewarded: RewardedTexts, name: str, config=None) -> pd.DataFrame:
        """The pairs of held-out users, chosen like those that are trained on, all of them; `StudyError` where there
        are too few."""
        heldout = rewarded.of(self.knowledge.heldout_users)
        config = config or self.config.alignment
        every = config.changed(pairs=heldout.most_pairs(config))
        pairs = build_pairs(heldout, every)
        require_pairs(pairs, every, f"{name}, held-out users,", MORE_HELDOUT)
        return described_pairs(rewarded, pairs)

    def trained(self, rewarded: RewardedTexts) -> RewardedTexts:
        """Without the held-out users."""
        return rewarded.of(np.setdiff1d(rewarded.users, self.knowledge.heldout_users))

    # Policies by name

    @functools.cache
    def policy(self, name: str) -> Policy:
        """A policy by its arm's name; a loop's name is that after its last round, and 'last' the headline's.
        `StudyError` for a name that is none."""
        rounds = self.config.alignment.rounds
        loop, _, number = ("dpo" if name == "last" else name).partition("_round_")
        if loop in LOOPS and (not number or (number.isdigit() and 1 <= int(number) <= rounds)):
            return self.round(int(number or rounds), loop).after
        if name in VARIANTS and VARIANTS[name].prompt:
            return replace(self.zero_shot, name=name, rewarded=False, users="validation", prompt=VARIANTS[name].prompt)
        if name in VARIANTS:
            return self.variant(name).after
        if name not in ("zero_shot", "warm_start"):
            names = ", ".join(["last", "zero_shot", "warm_start", *LOOPS])
            raise StudyError(
                f"There is no policy {name!r}; allowed: {names}, these with _round_1 to _round_{rounds}, or a variant."
            )
        return self.zero_shot if name == "zero_shot" else self.warm_start

    def repeats(self) -> list[Policy]:
        """Policies that differ by chance alone: round 1's with its texts drawn again, and round 1 trained again with
        another seed, `evaluation.repeats` times each."""
        turn, numbers = self.round(1), range(1, self.config.evaluation.repeats + 1)
        drawn = [
            replace(turn.after, name=repeat_name("drawn", number), rewarded=False, draw=number) for number in numbers
        ]
        recipes = [Recipe(repeat_name("trained", number), round=1, again=number) for number in numbers]
        return drawn + [self.aligner.train(turn.before, turn.examples, recipe) for recipe in recipes]

    @functools.cache
    def variant(self, name: str) -> Round:
        """Round 1 with one thing changed. Its held-out pairs are those of round 1, unless another reward orders its
        pairs.

        Where N texts a user make fewer pairs than are asked for, it has as many as they make. Its policy is asked about
        validation users alone: variants are there to be chosen among, and test users are never chosen by.
        """
        variant, before = VARIANTS[name], self.start
        config = self.config.alignment.changed(**variant.alignment)
        reward = self.config.reward.changed(**variant.reward)
        rules = PairRules(reward, config.unfinished, config.repetitive, variant.samples)
        inputs = RewardInputs(variant.residual, variant.llm_only, variant.addition)
        model = self.reward_models.of(before, self.sources(before), inputs)
        rewarded = self.rewarded_texts(before, model, rules)
        config = config.changed(pairs=min(config.pairs, self.trained(rewarded).most_pairs(config)))
        pairs = self.training_pairs(rewarded, name, config)
        examples, method = (groups(self.trained(rewarded)), "grpo") if variant.grpo else (pairs, "dpo")
        after = self.aligner.train(before, examples, Recipe(name, method, round=1, users="validation"), config)
        reordered = variant.orders_otherwise  # other rewards make other pairs
        heldout = self.heldout_pairs(rewarded, name, config) if reordered else self.round(1).heldout
        return Round(1, before, model, pairs, examples, after, heldout, name)
