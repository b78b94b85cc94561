"""The paper's claims one by one, each with where it was looked at and what was seen (`results/claims.csv`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from dpo4rec_utils.arms import round_name
from dpo4rec_utils.evidence import words
from dpo4rec_utils.evidence.loops import MEAN, Loops, differences

ALPHA = 0.05
ENOUGH = 3  # loops of a headline: fewer say little of what training again would give
COLUMNS = [
    *("claim", "dataset", "llm", "protocol", "scorer", "arm", "baseline", "metric", "k", "users", "loops"),
    *("difference", "ci_low", "ci_high", "loop_sd", "better", "worse", "n", "verdict"),
]
LAST = "last round"  # stands for the arm after the last round
GAIN = "DPO helps over the zero-shot LLM"


@dataclass(frozen=True)
class Claim:
    """A sentence and the difference that it is about: `arm` above `baseline`, LAST for the arm after the last round."""

    sentence: str
    arm: str
    baseline: str


# What the paper says, then what it has to mean: this user, more than chance, than length, than without an LLM.
CLAIMS = (
    Claim("knowledge helps a re-ranker", "zero_shot", "item"),
    Claim(GAIN, LAST, "zero_shot"),
    Claim("DPO without a warm start helps over the zero-shot LLM", "dpo_cold", "zero_shot"),
    Claim("DPO helps over supervised fine-tuning", LAST, "warm_start"),
    Claim("DPO helps over best of N", LAST, "rft"),
    Claim("more rounds help", LAST, round_name(1)),
    Claim("more samples help", LAST, "one_text"),
    Claim("it is about this user", LAST, "dpo_shuffled"),
    Claim("it beats random labels", LAST, "random_labels"),
    Claim("it is more than length", LAST, "longer_wins"),
    Claim("it beats a template", LAST, "template"),
    Claim("it beats the mean of items shown", LAST, "shown_mean"),
    Claim("it beats the history mean", LAST, "history_mean"),
    Claim("it adds to the history mean", "history_mean+dpo", "history_mean"),
    Claim("beside the history, it beats another user's text", "history_mean+dpo", "history_mean+dpo_shuffled"),
)


def claims(every: Sequence[Loops]) -> pd.DataFrame:
    """A row a claim, data set, LLM and kind of scorers that looked at it, COLUMNS.

    NDCG@7 under popularity negatives, mean over backbones that do not read the history, over all loops that have both
    arms. `better` and `worse` count single backbones, history or not, with Holm p < 0.05, of `n`. verdict: 'held' where
    the interval and Holm's p say above zero, 'not held' where they say below, else 'not visible' with the smallest
    difference that would have been seen four times out of five. The paper's claims about every backbone, every data
    set and other LLMs are read from the same rows.
    """
    rows = [row for claim in CLAIMS for loops in every for row in _rows(claim, loops)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    gains = table[table.claim == GAIN]
    others = gains[gains.llm != words.MODELS["embedded"]].assign(claim="other LLMs gain")
    return pd.concat([table, _every_backbone(gains), _every_dataset(gains), others], ignore_index=True)


def _every_backbone(gains: pd.DataFrame) -> pd.DataFrame:
    """The same differences by single backbones: 'held' where all are better, 'not held' where one is worse."""
    verdicts = [
        "held" if row.better == row.n else "not held" if row.worse else f"not visible ({row.better} of {row.n} better)"
        for row in gains.itertuples()
    ]
    return gains.assign(claim="every backbone gains", verdict=verdicts)


def _every_dataset(gains: pd.DataFrame) -> pd.DataFrame:
    """A row an LLM and kind of scorers that looked at two data sets at least: `better` and `worse` count those where
    DPO is held and not held to help, of `n`."""
    rows = []
    for (llm, scorer), part in gains.groupby(["llm", "scorer"], sort=False):
        if len(part) > 1:
            better, worse = ((kinds(part) == verdict).sum() for verdict in ("held", "not held"))
            row = {"claim": "every data set gains", "dataset": "all", "llm": llm, "scorer": scorer}
            row |= {name: part[name].iloc[0] for name in ("protocol", "arm", "baseline", "metric", "k")}
            row |= {"users": part.users.sum(), "loops": part.loops.sum(), "better": better, "worse": worse}
            every = "held" if better == len(part) else "not held" if worse else f"not visible ({better} of {len(part)})"
            rows.append(row | {"n": len(part), "verdict": every})
    return pd.DataFrame(rows, columns=COLUMNS)


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
            clear = single.p_holm < ALPHA
            row |= {"better": int((clear & (single.difference > 0)).sum()), "n": len(single)}
            yield row | {"worse": int((clear & (single.difference < 0)).sum()), "verdict": verdict(mean)}


def verdict(row: dict) -> str:
    """'held', 'not held', or 'not visible (0.0123 would be)', of a row of `loops.differences`. What fewer than three
    loops say has their number beside it: 'held (loops: 1)'."""
    few = f" (loops: {row['loops']})" * (row["loops"] < ENOUGH)
    if row["p_holm"] < ALPHA and row["ci_low"] > 0:
        return "held" + few
    if row["p_holm"] < ALPHA and row["ci_high"] < 0:
        return "not held" + few
    return f"not visible ({row['detectable']:.4f} would be)"


def kinds(table: pd.DataFrame) -> pd.Series:
    """The verdicts of a table of claims without what stands in brackets."""
    return table.verdict.str.partition(" (")[0]


def over_all(table: pd.DataFrame) -> pd.DataFrame:
    """How often each claim held, own scorers: claim, held, not held, not visible, and where it held."""
    rows = []
    for claim, part in table[table.scorer == "own"].groupby("claim", sort=False):
        verdicts = kinds(part)
        places = [f"{row.dataset}, {row.llm}" for row in part[verdicts == "held"].itertuples()]
        counts = {kind: int((verdicts == kind).sum()) for kind in ("held", "not held", "not visible")}
        rows.append({"claim": claim} | counts | {"held on": "; ".join(places)})
    return pd.DataFrame(rows)


def made_of(every: Sequence[Loops]) -> str:
    """How many loops there are of which LLM on which data set."""
    places: dict[str, list[str]] = {}
    for loops in every:
        places.setdefault(loops.llm, []).append(f"{loops.dataset} ({len(loops.records)})")
    few = " Fewer than three say little of what training again would give."
    few *= min(len(loops.records) for loops in every) < ENOUGH
    return f"Loops: {'; '.join(f'{llm} on {words.listing(names)}' for llm, names in places.items())}.{few}"


def in_three_lines(table: pd.DataFrame) -> str:
    """What held and what came out the other way round, on how many data sets and LLMs of those that looked at it; and
    what was seen nowhere."""
    counts = over_all(table)
    looked = counts[["held", "not held", "not visible"]].sum(axis=1)
    nowhere = (counts["held"] == 0) & (counts["not held"] == 0)
    lines = {"Not seen": (counts.claim + " (" + looked.astype(str) + ")")[nowhere]}
    for head, kind in (("Held", "held"), ("The contrary holds", "not held")):
        lines[head] = (counts.claim + " (" + counts[kind].astype(str) + " of " + looked.astype(str) + ")")[
            counts[kind] > 0
        ]
    order = ("Held", "Not seen", "The contrary holds")
    return "\n".join(f"- **{head}:** {'; '.join(lines[head]) or 'nothing'}." for head in order)


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
        "between loops": ["" if pd.isna(row.loop_sd) else f"{row.loop_sd:.3f}" for row in rows],
        "better / worse / of": [f"{row.better} / {row.worse} / {row.n}" for row in rows],
        "verdict": [row.verdict for row in rows],
    }
    return pd.DataFrame(columns)
