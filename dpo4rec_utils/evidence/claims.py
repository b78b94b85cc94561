"""The paper's claims one by one, each with where it was looked at and what was seen (`results/claims.csv`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import label, round_name
from dpo4rec_utils.evidence import words
from dpo4rec_utils.evidence.loops import MEAN, Loops, differences

ALPHA = 0.05
LEAST_LOOPS = 3  # loops of a headline: fewer say little of what training again would give
COLUMNS = [
    *("claim", "dataset", "llm", "protocol", "scorer", "arm", "baseline", "metric", "k", "users", "loops"),
    *("difference", "ci_low", "ci_high", "loop_sd", "better", "worse", "n", "verdict"),
]
LAST = "last round"  # stands for the arm after the last round
GAIN = "DPO helps over the zero-shot LLM"
ALL = "all"  # stands for every data set
EVERY_BACKBONE = "every backbone gains"
VERDICTS = ("held", "not held", "not visible")


@dataclass(frozen=True)
class Claim:
    """A sentence and the difference that it is about: `arm` above `baseline`, LAST for the arm after the last round.
    contrary: what to say where the difference is below zero."""

    sentence: str
    arm: str
    baseline: str
    contrary: str = ""


# What the paper says.
PAPER = (
    Claim("knowledge helps a re-ranker", "zero_shot", "item"),
    Claim(GAIN, LAST, "zero_shot"),
    Claim("DPO without a warm start helps over the zero-shot LLM", "dpo_cold", "zero_shot"),
    Claim("DPO adds to supervised fine-tuning", LAST, "warm_start"),
    Claim("DPO helps over best of N", LAST, "rft"),
    Claim("more rounds help", LAST, round_name(1)),
    Claim("more samples help, read as their mean", LAST, "one_text"),
)
# What that has to mean: this user, more than chance, than length, than without an LLM.
CONTROLS = (
    Claim("it is about this user", LAST, "dpo_shuffled"),
    Claim("it beats random labels", LAST, "random_labels"),
    Claim("it is more than length", LAST, "longer_wins"),
    Claim("it beats a template", LAST, "template", "a template beats it"),
    Claim("it beats the mean of items shown", LAST, "shown_mean", "the mean of items shown beats it"),
    Claim("it beats the history mean", LAST, "history_mean", "the history mean beats it"),
    Claim("it adds to the history mean", "history_mean+dpo", "history_mean"),
    Claim("beside the history, it beats another user's text", "history_mean+dpo", "history_mean+dpo_shuffled"),
)


def claims(every: Sequence[Loops]) -> pd.DataFrame:
    """A row a claim, data set, LLM and kind of scorers that looked at it, COLUMNS.

    NDCG@7 under popularity negatives, mean over backbones that do not read the history, over all loops that have both
    arms. verdict: 'held' where the interval and Holm's p say above zero, 'not held' where they say below, else 'not
    visible' with the smallest difference that would have been seen four times out of five before Holm's correction.
    `better` and `worse` count single backbones, history or not, of which the same two say above or below, of `n`. The
    paper's claims about every backbone, every data set and other LLMs are read from the same rows.
    """
    paper, controls = (
        pd.DataFrame([row for claim in part for loops in every for row in _rows(claim, loops)], columns=COLUMNS)
        for part in (PAPER, CONTROLS)
    )
    gains = paper[paper.claim == GAIN]
    others = gains[gains.llm != words.MODELS["embedded"]].assign(claim="other LLMs gain")
    return pd.concat([paper, _every_backbone(gains), _every_dataset(gains), others, controls], ignore_index=True)


def _every_backbone(gains: pd.DataFrame) -> pd.DataFrame:
    """The same differences by single backbones: 'held' where all are better, 'not held' where one is worse."""
    verdicts = [
        _every(row.better, row.worse, row.n, row.loops, f"{row.better} better, {row.worse} worse of {row.n}")
        for row in gains.itertuples()
    ]
    return gains.assign(claim=EVERY_BACKBONE, verdict=verdicts)


def _every_dataset(gains: pd.DataFrame) -> pd.DataFrame:
    """A row an LLM and kind of scorers that looked at two data sets at least: `better` and `worse` count those where
    DPO is held and not held to help, of `n`."""
    rows = []
    for (llm, scorer), part in gains.groupby(["llm", "scorer"], sort=False):
        if len(part) > 1:
            better, worse = ((kinds(part) == verdict).sum() for verdict in ("held", "not held"))
            row = {"claim": "every data set gains", "dataset": ALL, "llm": llm, "scorer": scorer}
            row |= {name: part[name].iloc[0] for name in ("protocol", "arm", "baseline", "metric", "k")}
            row |= {"users": part.users.sum(), "loops": part.loops.sum(), "better": better, "worse": worse}
            every = _every(better, worse, len(part), part.loops.min(), f"{better} of {len(part)}")
            rows.append(row | {"n": len(part), "verdict": every})
    return pd.DataFrame(rows, columns=COLUMNS)


def _every(better: int, worse: int, n: int, loops: int, counts: str) -> str:
    if better == n:
        return "held" + few(loops)
    return "not held" + few(loops) if worse else f"not visible ({counts})"


def _rows(claim: Claim, loops: Loops) -> Iterator[dict]:
    arm = loops.last if claim.arm == LAST else claim.arm
    for scorer in ("own", "shared"):
        table = differences(loops, scorer)
        part = table[(table.arm == arm) & (table.baseline == claim.baseline)]
        if len(part):
            (mean,) = part[part.backbone == MEAN].to_dict("records")
            single = part[part.backbone != MEAN]
            row = {"claim": claim.sentence, "dataset": loops.dataset, "llm": loops.llm, "protocol": "popularity"}
            row |= {"scorer": scorer, "metric": "ndcg", "k": 7} | mean
            clear = (single.p_holm < ALPHA) & ((single.ci_low > 0) | (single.ci_high < 0))
            row |= {"better": int((clear & (single.difference > 0)).sum()), "n": len(single)}
            yield row | {"worse": int((clear & (single.difference < 0)).sum()), "verdict": verdict(mean)}


def verdict(row: dict) -> str:
    """'held', 'not held', or 'not visible (0.0123 would be)', of a row of `loops.differences`. What fewer than three
    loops say has their number beside it: 'held (loops: 1)'."""
    if row["p_holm"] < ALPHA and row["ci_low"] > 0:
        return "held" + few(row["loops"])
    if row["p_holm"] < ALPHA and row["ci_high"] < 0:
        return "not held" + few(row["loops"])
    return f"not visible ({row['detectable']:.4f} would be)"


def of_more_noise(every: Sequence[Loops], least: float) -> str:
    """Which verdicts on the last round and its baselines would not stand if training again moved a comparison by
    `least` (a standard deviation of NDCG@7), with Holm's p then; own scorers, mean over backbones, of several loops.
    The loops' own estimate may lie below: three loops do not tell a small noise from none."""
    parts = []
    for loops in [group for group in every if len(group.records) > 1]:
        now, then = (_headline(differences(loops, "own", noise), loops) for noise in (0.0, least))
        fallen = [
            f"{label(name)} ({then.loc[name].p_holm:.2f})"
            for name in now.index
            if not verdict(now.loc[name]).startswith("not visible")
            and verdict(then.loc[name]).startswith("not visible")
        ]
        if fallen:
            parts.append(f"{loops.place} {words.listing(fallen)}")
    return "; ".join(parts) or "none"


def _headline(table: pd.DataFrame, loops: Loops) -> pd.DataFrame:
    """The last round and its baselines, mean over backbones, of a table of `differences`, by baseline."""
    return table[(table.arm == loops.last) & (table.backbone == MEAN)].set_index("baseline")


def few(loops: int) -> str:
    """' (loops: 2)' where there are fewer than a headline needs; where they differ, give the smallest number."""
    return f" (loops: {loops})" if loops < LEAST_LOOPS else ""


def kinds(table: pd.DataFrame) -> pd.Series:
    """The verdicts of a table of claims without what stands in brackets."""
    return table.verdict.str.partition(" (")[0]


def over_all(table: pd.DataFrame, scorer: str = "own") -> pd.DataFrame:
    """How often each claim held by a kind of scorers: claim, held, not held, not visible."""
    part = table[table.scorer == scorer]
    counts = pd.crosstab(part.claim, kinds(part)).reindex(columns=VERDICTS, fill_value=0)
    return counts.reindex(part.claim.unique()).reset_index().rename_axis(columns=None)


def by_source(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The claims in two parts, by whose they are."""
    controls = table.claim.isin([claim.sentence for claim in CONTROLS])
    return {"What the paper says": table[~controls], "What that has to mean, by this study's controls": table[controls]}


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """The claims as a page shows them, a column a data set and LLM: the difference of NDCG@7 by own scorers, of single
    backbones how many are better, how many worse, and of how many; bold where the claim is held or not held. Then how
    often it was held, not held and not visible, by both kinds of scorers; nothing where scorers of a kind read no such
    arm."""
    rows = table[table.scorer == "own"]
    first = rows.drop_duplicates("claim").set_index("claim")
    columns = {"of": first.arm.map(label) + " - " + first.baseline.map(label)}
    columns["of"] += np.where(first.index == EVERY_BACKBONE, ": better / worse / of backbones", "")
    for place, part in rows[rows.dataset != ALL].groupby(["dataset", "llm"], sort=False):
        columns[words.place(*place)] = pd.Series([_cell(row) for row in part.itertuples()], index=part.claim)
    for scorer, name in words.SCORERS.items():
        counts = over_all(table, scorer).set_index("claim").astype(str)
        columns[f"{name}: {' / '.join(VERDICTS)}"] = counts.agg(" / ".join, axis=1)
    return pd.DataFrame(columns).reindex(first.index).fillna("").reset_index()


def _cell(row) -> str:
    text = f"{row.better} / {row.worse} / {row.n}" if row.claim == EVERY_BACKBONE else f"{row.difference:+.3f}"
    return text if row.verdict.startswith("not visible") else f"**{text}**"


def made_of(every: Sequence[Loops]) -> str:
    """How many loops there are of which LLM on which data set."""
    places: dict[str, list[str]] = {}
    for loops in every:
        places.setdefault(loops.llm, []).append(f"{loops.dataset} ({len(loops.records)})")
    rough = " Fewer than three say little."
    rough *= min(len(loops.records) for loops in every) < LEAST_LOOPS
    return f"Loops: {'; '.join(f'{llm} on {words.listing(names)}' for llm, names in places.items())}.{rough}"


def in_three_lines(table: pd.DataFrame) -> str:
    """What held by own scorers and what came out the other way round, on how many data sets and LLMs of those that
    looked at it, with a star where only single loops show it; and what was seen nowhere."""
    contrary = {claim.sentence: claim.contrary for claim in (*PAPER, *CONTROLS) if claim.contrary}
    lines: dict[str, list[str]] = {"Held": [], "Not seen": [], "The contrary holds": []}
    repeated = table[(table.scorer == "own") & (table.loops > 1)].groupby("claim").apply(lambda part: set(kinds(part)))
    for row in over_all(table).to_dict("records"):
        claim, looked = row["claim"], sum(row[kind] for kind in VERDICTS)
        stars = {kind: "" if kind in repeated.get(claim, ()) else "*" for kind in VERDICTS}
        if row["held"]:
            lines["Held"].append(f"{claim} ({row['held']} of {looked}{stars['held']})")
        if row["not held"]:
            sentence = contrary.get(claim, claim)
            lines["The contrary holds"].append(f"{sentence} ({row['not held']} of {looked}{stars['not held']})")
        if row["not visible"] == looked:
            lines["Not seen"].append(f"{claim} ({looked})")
    text = "\n".join(f"- **{head}:** {'; '.join(line) or 'nothing'}." for head, line in lines.items())
    return text + ("\n\n\\* Of single trainings alone." if "*)" in text else "")


def looked_at(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of own scorers as a page shows them; a claim about all data sets has no difference of its own."""
    rows = list(table[table.scorer == "own"].itertuples())
    columns = {
        "claim": [row.claim for row in rows],
        "data": [row.dataset for row in rows],
        "LLM": [row.llm for row in rows],
        "loops, users": [f"{row.loops}, {row.users}" for row in rows],
        "NDCG@7 (95 % interval)": [
            "" if pd.isna(row.difference) else words.signed(row.difference, row.ci_low, row.ci_high, 3) for row in rows
        ],
        "sd of loops' means": ["" if pd.isna(row.loop_sd) else f"{row.loop_sd:.3f}" for row in rows],
        "better / worse / of": [f"{row.better} / {row.worse} / {row.n}" for row in rows],
        "verdict": [row.verdict for row in rows],
    }
    return pd.DataFrame(columns)
