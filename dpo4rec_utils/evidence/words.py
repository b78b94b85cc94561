"""How findings are worded: every label that is no arm's and no registry's, and every phrase that more than one page
uses."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import label
from dpo4rec_utils.evidence import loop_tables, tables
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.registries import BACKBONES, DATASETS, ESTIMATES
from dpo4rec_utils.variants import VARIANTS

DATA = {name: entry.label for name, entry in DATASETS.items()} | {
    "games": "Amazon games",
    "amazon-2018": "Amazon games of 2018",
    "amazon": "Amazon Reviews 2023",
    "book-crossing": "Book-Crossing",
}
MODELS = {"embedded": "SmolLM2-135M-Instruct", "gemma-3-270m": "Gemma 3 270M"}
CAVEATS = {"reconstructed": "are a reconstructed", "order arbitrary": "is arbitrary"}  # by what a loader's note says
SCORERS = {"own": "a re-ranker for each", "shared": "one re-ranker for all texts"}
REWARDS = {"log_likelihood": "log-likelihood", "ndcg": "NDCG@10", "map": "MAP@10"}
ADAPTERS = {
    "hea": "hybrid experts",
    "moe": "mixture of experts",
    "mlp": "two MLPs",
    "hea-no-interaction": "hybrid experts, no interaction",
}
VERDICTS = {1: "Better than", 0: "Not told apart from", -1: "Worse than"}


# Labels


def backbone_label(name: str) -> str:
    """How a backbone is written."""
    return BACKBONES[name].label if name in BACKBONES else name


def group_label(records: Records, group: str) -> str:
    """How a group of backbones of `tables.headline` is written."""
    others = tables.backbone_groups(records)["mean"]
    return f"mean of {listing(map(backbone_label, others))}" if group == "mean" else backbone_label(group)


def data_label(records: Records) -> str:
    """How a profile's data set is written, with what has to be said wherever its numbers are."""
    name, notes = records.config["data"]["name"], " ".join(records.notes)
    caveats = [word for word, sign in CAVEATS.items() if sign in notes]
    return DATA.get(name, name) + f" ({', '.join(caveats)})" * bool(caveats)


def model_label(records: Records) -> str:
    """How a profile's LLM is written."""
    model = records.config["llm"]["model"]
    return MODELS.get(model, model)


def place(dataset: str, llm: str) -> str:
    """The data set, and the LLM where it is not the default one, as they are written."""
    return dataset if llm == MODELS["embedded"] else f"{dataset}, {llm}"


def estimate_label(name: str, equal_length: bool) -> str:
    """How an estimate of the reward is written."""
    return ESTIMATES[name].label + ", equal length" * equal_length


# Numbers


def side(low: float, high: float) -> int:
    """1 where an interval lies above zero, -1 where it lies below, 0 where it holds zero."""
    return int(low > 0) - int(high < 0)


def signed(value: float, low: float, high: float, digits: int = 4) -> str:
    """A difference with its interval: '+0.0472 (+0.0352 to +0.0597)'."""
    return f"{value:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def apart(first, second) -> str:
    """A difference of two rows with `difference`, `ci_low` and `ci_high` that are of other users, so that their noise
    adds up, as `signed` writes it."""
    change = first.difference - second.difference
    half = np.hypot(first.ci_high - first.ci_low, second.ci_high - second.ci_low) / 2
    return signed(change, change - half, change + half)


def share(value: float, low: float, high: float) -> str:
    """A share with its interval in per cent: '69% (63% to 75%)'."""
    return f"{value:.0%} ({low:.0%} to {high:.0%})"


def better_worse(counts: dict[str, int]) -> str:
    """'3 better, 0 worse of 4' backbones, from what `tables.counts_of` counts."""
    return "{better} better, {worse} worse of {backbones}".format(**counts)


def listing(names: Iterable[str]) -> str:
    """Names with commas, 'none' where there are none."""
    return ", ".join(names) or "none"


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown, its numbers as they are written."""
    return table.to_markdown(index=False, disable_numparse=True)


# Phrases


def seen_on(records: Records) -> str:
    """Data, LLM, test users, seeds and backbones in a line."""
    config, users = records.config, tables.count_test_users(records)
    return (
        f"{data_label(records)}, {model_label(records)}, {users} test users, one loop, {config['evaluation']['seeds']} "
        f"seeds of {len(records.backbones)} backbones" + "".join(f". {note.rstrip('.')}" for note in records.notes)
    )


def confirmed(records: Records, sides: dict[str, int]) -> tuple[list[str], list[str]]:
    """Of baselines, by the side on which own scorers see the last round (1 above them, -1 below): which the one
    re-ranker for all texts sees there, too, and which not; those that it cannot read are in neither."""
    table = tables.last_round(records)
    shared = {r.baseline: side(r.ci_low, r.ci_high) for r in table[table.scorer == "shared"].itertuples()}
    readable = [name for name in sides if name in shared]
    return [n for n in readable if shared[n] == sides[n]], [n for n in readable if shared[n] != sides[n]]


def unconfirmed(records: Records, sides: dict[str, int]) -> str:
    """Of gains and losses those that the one re-ranker for all texts does not confirm, with the difference that it
    sees: 'the gain over warm start (-0.001 there); the loss to history mean (+0.008 there)'; 'none' without any."""
    table = tables.last_round(records)
    shared = table[table.scorer == "shared"].set_index("baseline").difference
    phrases = {1: "the gain over", -1: "the loss to"}
    others = confirmed(records, sides)[1]
    return "; ".join(f"{phrases[sides[n]]} {label(n)} ({shared[n]:+.3f} there)" for n in others) or "none"


def shortfalls(records: Records) -> list[str]:
    """What a stage got less of than it asked for: policies and variants trained on fewer pairs, in words."""
    in_pairs = {name for name, variant in VARIANTS.items() if not variant.grpo}  # GRPO counts groups
    lines, named = [], {*loop_tables.trained_policies(records), *in_pairs}
    for record in records.kind("policy"):
        budget, pairs = record["config"]["alignment"]["pairs"], record["metrics"]["examples"]
        if record["name"] in named and pairs < budget:
            lines.append(f"{label(record['name'])} was trained on {pairs} pairs of {budget}")
    return lines


def short_of(records: Records) -> str:
    """`shortfalls` as sentences; nothing where there are none."""
    return "".join(f" Short of what was asked: {line}." for line in shortfalls(records))


def at_chance(table: pd.DataFrame) -> pd.Series:
    """Which rows of `learning` or `variants` are not seen to order held-out pairs better than one half or, where they
    are compared, than random labels: a policy that drifts anywhere lands above or below one half."""
    at_half = table.heldout_ci_low <= 0.5
    return at_half | (table.over_random_ci_low <= 0) if "over_random_ci_low" in table else at_half


def unlearnt(table: pd.DataFrame, names: Iterable[str]) -> str:
    """The policies of `learning` or `variants` that are not seen to order held-out pairs better than chance, and
    those that order them worse than random labels, in a sentence each."""
    named = table.assign(name=list(names))
    rows = named[at_chance(table).to_numpy()]
    below = named[(named.over_random_ci_high < 0).to_numpy()] if "over_random_ci_high" in named else named[:0]
    text = f" Not seen to learn: {listing(rows.name)}." if len(rows) else ""
    return text + (f" Below random labels: {listing(below.name)}." if len(below) else "")
