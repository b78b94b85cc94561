"""Policies that training makes: a parent, a table of examples, and the LoRA adapter that trl leaves."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pandas as pd

from dpo4rec_utils.arms import Choices
from dpo4rec_utils.config import TRAINING_SETTINGS, Config
from dpo4rec_utils.device import training_precision
from dpo4rec_utils.files import require_free_memory
from dpo4rec_utils.keys import content_key
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.seeds import derive_seed
from dpo4rec_utils.store import Stage, Store
from dpo4rec_utils.workers import stop_workers

LOGGED = ("step", "loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected", "entropy")


@dataclass(frozen=True)
class Recipe(Choices):
    """How a policy is trained, its name and `method`, and what the policy then says of itself, as in `Policy`.

    Policies of one round share their seed, so a control starts from the same adapter and reads its examples in the
    same order. again: 0, or the number of another training of the same round, with a seed of its own.
    """

    name: str
    method: Literal["fine_tune", "dpo", "grpo"] = "dpo"
    rewarded: bool = False
    round: int = 0
    users: Literal["all", "validation"] = "all"
    again: int = 0


class Aligner:
    """Trains policies with the settings of one configuration, each once."""

    def __init__(self, store: Store, config: Config):
        self.store, self.config, self.device, self.seed = store, config.alignment, config.device, config.seed

    @cached_property
    def precision(self) -> str:
        """'bf16' or 'fp32' for alignment."""
        return training_precision(self.config.precision)

    def train(self, parent: Policy, table: pd.DataFrame, recipe: Recipe, config=None) -> Policy:
        """`parent` trained on `table`; `config` replaces the settings, for variants."""
        config, precision = config or self.config, self.precision
        again = [recipe.again] if recipe.again else []
        seed = derive_seed(self.seed, "align", f"round {recipe.round}" if recipe.round else recipe.name, *again)
        settings = {"precision": precision, "weights": self.device.training}
        settings |= {field: getattr(config, field) for field in TRAINING_SETTINGS[recipe.method]}
        if settings.get("chosen_weight"):  # a mean over the tokens of a forward pass, so passes are part of the loss
            settings["micro_prompts"] = self.device.micro_prompts

        def build(folder):
            # Here, because trl takes seconds to import and most notebooks find every policy trained.
            from dpo4rec_utils.alignment import trainers

            stop_workers()
            require_free_memory(3)
            run = trainers.Run(folder, config, seed, precision, self.device)
            log = getattr(trainers, recipe.method)(parent, table, run)
            table.to_json(folder / "data.jsonl", orient="records", lines=True)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # last: until here an interruption needs them
            return {"examples": len(table), "log": [{k: row[k] for k in LOGGED if k in row} for row in log]}

        depends = {"parent": parent.key, "data": content_key(table.to_dict("list")), "settings": settings, "seed": seed}
        folder = self.store.make(Stage("policy", recipe.name, depends, build))
        fields = {name: getattr(recipe, name) for name in ("rewarded", "round", "users")}
        return parent.extended(recipe.name, folder / "adapter", **fields)
