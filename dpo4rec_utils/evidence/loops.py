"""Table 1: loops of a data set and an LLM, each sampled and trained anew and tested on other users, as one result."""

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import comparisons, label, table_arms
from dpo4rec_utils.config import PROTOCOLS
from dpo4rec_utils.evidence import tables, words
from dpo4rec_utils.evidence.records import Records, differing
from dpo4rec_utils.evidence.statistics import LoopNoise, holm, loop_noise, looped_differences
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.seeds import generator

PROFILE = re.compile(r"(?P<name>.+)-loop-(?P<number>\d+)")  # how profiles of loops are called
# Settings in which loops of one name may differ.
LOOPS_DIFFER_IN = {"profile", "seed", "data.seed", "data.fold", "evaluation.arms", "evaluation.uniform_arms"}
MEAN = "mean"  # the mean over backbones that do not read the history


@dataclass(frozen=True)
class Loops:
    """The loops of one data set and one LLM. name: that of their profiles without the number; records: by number.

    Their test users are others, but train users of one loop are test users of another, and half of the train users of
    two are the same: what loops have in common is in no interval. Raises `StudyError` where they differ in more than
    seeds, test users and arms, share test users, have other validation users, or their re-rankers are of more than one
    commit.
    """

    name: str
    records: tuple[Records, ...]

    def __post_init__(self):
        first = self.records[0]
        for other in self.records[1:]:
            for key, value, setting in differing(first.config, other.config):
                if key not in LOOPS_DIFFER_IN:
                    raise StudyError(
                        f"{other.profile} has {key} = {setting}, {first.profile} {value}; loops of one name differ in seeds, test "
                        "users and arms alone."
                    )
        commits = {
            record["commit"] for records in self.records for kind in ("own", "shared") for record in records.kind(kind)
        }
        if len(commits) > 1:
            raise StudyError(
                f"The loops of {self.name} were ranked at commits {', '.join(sorted(commits))}; make them at one."
            )
        for first, other in itertools.combinations(self.records, 2):
            shared = set(_users(first, "test")) & set(_users(other, "test"))
            if shared or _users(first, "validation") != _users(other, "validation"):
                raise StudyError(
                    f"{first.profile} and {other.profile} share test users or have other validation users; loops need data.seed in "
                    "common and a data.fold each."
                )

    @property
    def dataset(self) -> str:
        """How the data set is written."""
        return words.data_label(self.records[0])

    @property
    def llm(self) -> str:
        """How the LLM is written."""
        return words.model_label(self.records[0])

    @property
    def place(self) -> str:
        """How data set and LLM are written together."""
        return words.place(self.dataset, self.llm)

    @property
    def last(self) -> str:
        """The last round's arm."""
        return self.records[0].last

    def arms(self, protocol: str = "popularity") -> list[str]:
        """Every arm that some loop has under a protocol, in the order of the tables."""
        names = [table_arms(r.config["evaluation"], r.config["alignment"], protocol) for r in self.records]
        return list(dict.fromkeys(name for part in names for name in part))

    def having(self, *arms: str, protocol: str = "popularity") -> list[Records]:
        """The loops that have all of these arms under a protocol."""
        parts = [(r, table_arms(r.config["evaluation"], r.config["alignment"], protocol)) for r in self.records]
        return [records for records, names in parts if set(arms) <= set(names)]


def read_loops(results: Path, profiles: list[str]) -> list[Loops]:
    """The loops among `profiles`, by name in the order they come, each name's by number."""
    named: dict[str, dict[int, Records]] = {}
    for profile in profiles:
        if match := PROFILE.fullmatch(profile):
            named.setdefault(match["name"], {})[int(match["number"])] = Records(results / profile)
    return [Loops(name, tuple(by_number[n] for n in sorted(by_number))) for name, by_number in named.items()]


def by_seed(records: Records, scorer: str, arm: str, backbone: str, split: str = "test") -> np.ndarray:
    """(S, U) NDCG@7 of an arm under popularity negatives by training seed and user; backbone: its name, or MEAN."""
    if backbone == MEAN:
        return np.mean([by_seed(records, scorer, arm, b, split) for b in tables.backbone_groups(records)[MEAN]], axis=0)
    values = _values(records, scorer, arm)
    part = values[(values.backbone == backbone) & (values.split == split) & (values.metric == "ndcg@7")]
    if split == "test" and part.seed.min() < 0:
        raise StudyError(f"{records.profile} holds no values of test users by seed; make it again with `study`.")
    return part.value.to_numpy(float).reshape(part.seed.nunique(), -1)


def _users(records: Records, split: str) -> list[int]:
    """The users of a split who are scored, in their order."""
    values = records.values("own", f"popularity-{records.last}")
    return list(dict.fromkeys(values[values.split == split].user))


@functools.lru_cache(maxsize=256)
def _values(records: Records, scorer: str, arm: str) -> pd.DataFrame:
    values = (
        records.values("shared", "popularity") if scorer == "shared" else records.values("own", f"popularity-{arm}")
    )
    return values[values.arm == arm]


def readable(loops: Loops, scorer: str) -> list[str]:
    """The arms that scorers of a kind read, popularity negatives."""
    arms = loops.arms()
    shared = {name for r in loops.records for name in r.metrics("shared", "popularity")["arms"]}
    return arms if scorer == "own" else [name for name in arms if name in shared]


@functools.lru_cache(maxsize=64)
def differences(loops: Loops, scorer: str, least: float = 0.0) -> pd.DataFrame:
    """NDCG@7 differences of every comparison, popularity negatives, over all loops that have both arms.

    Columns: arm, baseline, backbone (MEAN or a backbone's name), loops, users, difference, ci_low, ci_high, loop_sd,
    detectable, p_holm. Where there are several loops, the intervals of comparisons have the `training_noise` of their
    kind in common, or `least` as a standard deviation where that is more. Holm's families: the last round against its
    baselines, mean over backbones; all other comparisons of that mean; and all comparisons of single backbones
    together.
    """
    first = loops.records[0]
    pairs = [pair for pair in _pairs(loops, scorer) if loops.having(*pair)]
    rng, draws = generator(first.seed, "loops", loops.name, scorer), first.config["evaluation"]["bootstrap"]
    rows = []
    for group in dict.fromkeys(tuple(loops.having(*pair)) for pair in pairs):
        names = [(b, *pair) for b in (MEAN, *first.backbones) for pair in pairs if tuple(loops.having(*pair)) == group]
        kinds = [names] if len(group) == 1 else [[n for n in names if (n[0] == MEAN) == mean] for mean in (True, False)]
        for part in kinds:
            changes = [_changes(records, scorer, part) for records in group]
            noise = training_noise(loops, scorer, part[0][0] != MEAN)
            noise = noise and replace(noise, variance=max(noise.variance, least**2))
            for (b, a, c), result in zip(part, looped_differences(changes, draws, rng, noise), strict=True):
                rows.append({"arm": a, "baseline": c, "backbone": b} | result)
    place = {pair: number for number, pair in enumerate(pairs)}
    table = pd.DataFrame(rows)
    table = table.assign(place=[place[pair] for pair in zip(table.arm, table.baseline, strict=True)])
    family = np.where(table.backbone != MEAN, "backbones", np.where(table.arm == loops.last, "headline", "others"))
    table["p_holm"] = table.groupby(family).p.transform(lambda p: holm(p.to_numpy()))
    return table.sort_values("place", kind="stable", ignore_index=True).drop(columns=["p", "place"])


def _pairs(loops: Loops, scorer: str) -> list[tuple[str, str]]:
    return comparisons(readable(loops, scorer), loops.last, loops.records[0].start)


def _changes(records: Records, scorer: str, names: Sequence[tuple[str, str, str]]) -> np.ndarray:
    """(S, U, n) differences of a loop by training seed and user; names: backbone (or MEAN), arm and baseline."""
    return np.stack([by_seed(records, scorer, a, b) - by_seed(records, scorer, c, b) for b, a, c in names], axis=2)


@functools.lru_cache(maxsize=64)
def training_noise(loops: Loops, scorer: str, single: bool = False) -> LoopNoise | None:
    """What training again adds to the noise of a comparison, from the last round against every baseline that all loops
    have; of the mean over backbones, or of single ones. Nothing is known of it from one loop."""
    if len(loops.records) == 1:
        return None
    pairs = [p for p in _pairs(loops, scorer) if p[0] == loops.last and len(loops.having(*p)) == len(loops.records)]
    names = [(b, *pair) for b in (loops.records[0].backbones if single else [MEAN]) for pair in pairs]
    return loop_noise([_changes(records, scorer, names) for records in loops.records])


def noise_line(every: Sequence[Loops]) -> str:
    """What training again moves a comparison by, as it is estimated where there are several loops: standard deviation
    and degrees of freedom; own scorers, mean over backbones. Empty where each name has one loop."""
    made = [(loops.place, noise) for loops in every if (noise := training_noise(loops, "own"))]
    parts = [f"{place} {noise.variance**0.5:.3f} ({noise.freedom:.1f} degrees of freedom)" for place, noise in made]
    return (
        f"Training noise of a comparison, a re-ranker for each, standard deviation as estimated: {words.listing(parts)}."
        * bool(parts)
    )


def table_one(every: Sequence[Loops]) -> pd.DataFrame:
    """The paper's Table 1: NDCG@k and MAP@k of every data set, LLM and arm, means over loops, seeds and users.

    Columns: dataset, llm, protocol, scorer, arm, loops, and for the mean of backbones that do not read the history and
    for each that does: ndcg@k and map@k of every k that is recorded, and loop_sd (of NDCG@7; missing of one loop).
    """
    rows = []
    for loops, protocol, scorer in itertools.product(every, PROTOCOLS, ("own", "shared")):
        key = {"dataset": loops.dataset, "llm": loops.llm, "protocol": protocol, "scorer": scorer}
        for arm in loops.arms(protocol):
            means = [_means(records, protocol, scorer, arm) for records in loops.having(arm, protocol=protocol)]
            if read := [part for part in means if part]:
                rows.append(key | {"arm": arm, "loops": len(read)} | _over_loops(read))
    return pd.DataFrame(rows)


def _means(records: Records, protocol: str, scorer: str, arm: str) -> dict[str, float]:
    """'group ndcg@k' and 'group map@k' of an arm of one loop; nothing where the scorers do not read it."""
    name = protocol if scorer == "shared" else f"{protocol}-{arm}"
    arms = records.metrics(scorer, name)["arms"]
    if arm not in arms:
        return {}
    means, groups = arms[arm]["means"], tables.backbone_groups(records)
    metrics = dict.fromkeys(name.split("/")[1] for name in means if re.search(r"/(ndcg|map)@\d+$", name))
    return {
        f"{group} {metric}": float(np.mean([means[f"{b}/{metric}"]["user"] for b in backbones]))
        for group, backbones in groups.items()
        for metric in metrics
    }


def _over_loops(made: list[dict[str, float]]) -> dict[str, float]:
    """Means over loops, and the standard deviation of NDCG@7 between them."""
    row = {}
    for name in made[0]:
        values = [part[name] for part in made]
        row[name] = float(np.mean(values))
        if name.endswith("ndcg@7"):
            row[f"{name.split()[0]} loop_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
    return row


def unseen_sample(loops: Loops) -> pd.DataFrame:
    """The last round above its baselines by own scorers on validation users, on whom nothing is trained, as a page
    shows it. They are the same users in every loop, so loops are averaged first: the interval is for these loops
    alone."""
    first, rows = loops.records[0], []
    rng, draws = generator(first.seed, "unseen", loops.name, "own"), first.config["evaluation"]["bootstrap"]
    for arm, baseline in _pairs(loops, "own"):
        if arm == loops.last and loops.having(arm, baseline):
            having = loops.having(arm, baseline)
            sides = [[by_seed(r, "own", name, MEAN, "validation") for r in having] for name in (arm, baseline)]
            change = np.mean(sides[0], axis=0) - np.mean(sides[1], axis=0)
            (result,) = looped_differences([change[:, :, None]], draws, rng)
            difference = words.signed(result["difference"], result["ci_low"], result["ci_high"], 3)
            sizes = {"loops": str(len(having)), "users": str(result["users"])}
            rows.append({"last round above": label(baseline)} | sizes | {"NDCG@7 (95 % interval)": difference})
    return pd.DataFrame(rows)
