"""The ladder as a table and a figure: what a user's texts can give before any training."""

import pandas as pd

from dpo4rec_utils.evidence import plots, words
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.statistics import clustered_mean, t_of_mean
from dpo4rec_utils.files import NotAskedError
from dpo4rec_utils.rungs import RUNGS

SPLIT_WORDS = {"validation": "validation users", "train_later": "train users' later lists"}


def ladder(records: Records) -> pd.DataFrame:
    """NDCG@7 of every rung, own scorers, mean of backbones and seeds: rung, label, group, split, texts, tokens, ndcg,
    against, difference, ci_low, ci_high (95 %, of users), t, users.

    Differences are paired by user. Raises `NotAskedError` where the profile asks for no rung.
    """
    made, rows = {record["name"]: record["metrics"] for record in records.kind("ladder")}, []
    if not made:
        raise NotAskedError(f"{records.profile} asks for no ladder; ml-100k-ladder and games-ladder do.")
    means = {name: _by_user(records, name) for name in made}
    for rung in (rung for rung in RUNGS.values() if rung.name in made):
        for split, values in means[rung.name].items():
            difference = (values - means[rung.against][split]).to_numpy()
            mean, low, high = clustered_mean(difference, values.index.to_numpy())
            row = {"rung": rung.name, "label": rung.label, "group": rung.group, "split": split}
            row |= {"texts": made[rung.name]["texts"], "tokens": made[rung.name]["tokens"], "ndcg": values.mean()}
            row |= {"against": rung.against, "difference": mean, "ci_low": low, "ci_high": high}
            rows.append(row | {"t": t_of_mean(difference), "users": len(values)})
    return pd.DataFrame(rows)


def side_by_side(profiles: list[Records]) -> pd.DataFrame:
    """Every rung's NDCG@7 and, in brackets, what it is above the rung it is compared with, with its t: two columns a
    data set, one where nobody has later lists. Bold: t is above 2 or below -2."""
    columns: dict[str, dict[str, str]] = {}
    for records in profiles:
        for row in ladder(records).itertuples():
            column = columns.setdefault(f"{words.data_label(records)}, {SPLIT_WORDS[row.split]} ({row.users})", {})
            above = f"{row.difference:+.3f}, t {row.t:.1f}"
            if row.rung == row.against:
                column[row.label] = f"{row.ndcg:.3f}"
            else:
                column[row.label] = f"{row.ndcg:.3f} ({f'**{above}**' if abs(row.t) > 2 else above})"
    return pd.DataFrame(columns).fillna("").rename_axis("NDCG@7").reset_index()


def _by_user(records: Records, name: str) -> dict[str, pd.Series]:
    table = records.values("ladder", name)
    means = table.astype({"split": str}).groupby(["split", "user"]).value.mean()
    return {split: means[split] for split in SPLIT_WORDS if split in means.index}


def drawn(records: Records):
    """NDCG@7 of every rung, a marker a group of users."""
    table = ladder(records)
    rows = table.assign(of=table.split.map(SPLIT_WORDS))
    figure, _ = plots.dots(rows, "label", "ndcg", "of")
    counts = table.groupby("split", sort=False).users.max()
    plots.below(figure, f"NDCG@7 ({', '.join(f'{SPLIT_WORDS[split]}: n = {n}' for split, n in counts.items())})")
    seen = table[(table.split == "validation") & (table.rung != table.against)]
    if seen.difference.isna().all():
        return figure, "No rung could be compared."
    best = seen.loc[seen.difference.idxmax()]
    means = seen[seen.rung.str.fullmatch(r"mean_\d")].sort_values("texts")
    together = "; ".join(f"{row.label} {row.difference:+.3f} (t {row.t:.1f})" for row in means.itertuples())
    return figure, (
        f"Of {len(seen)} rungs {best.label} is highest above what it is compared with ({best.difference:+.3f}, t {best.t:.1f}, "
        f"{best.users} validation users){f'. Over two texts, each by itself: {together}' if together else ''}."
    )
