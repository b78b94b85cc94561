"""Tables and figures on disk, and `report.html` with all of them; drawn from records only."""

import base64
import html
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from dpo4rec_utils.artifacts import atomic_path, read_json, write_text
from dpo4rec_utils.study import Study, open_study

MARKS = (
    "<!-- results: written by `python -m dpo4rec_utils readme`, do not edit by hand -->",
    "<!-- /results -->",
)
PARTS = {
    "texts": "sampling",
    "policy": "warm start, DPO and SFT training",
    "reward": "reward models and encoding",
    "own": "re-rankers, own scorers",
    "shared": "re-rankers, shared scorers",
    "ablation": "ablations",
    "referees": "referees",
    "export": "GGUF export",
}


def save_table(study: Study, table: pd.DataFrame, name: str, shown: pd.DataFrame | None = None) -> pd.DataFrame:
    """Write `tables/<name>.csv` whole and `tables/<name>.md` (`shown`, or the whole table); return what is shown."""
    folder = study.results / "tables"
    shown = table if shown is None else shown
    write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    flat = shown.reset_index(drop=shown.index.name is None)
    write_text(folder / f"{name}.md", flat.to_markdown(index=False, floatfmt=".4f") + "\n")
    return shown


def save_figure(study: Study, figure, name: str, caption: str) -> None:
    """Write `figures/<name>.png`, `.svg` and its one-sentence caption, show the figure and print the caption."""
    folder = study.results / "figures"
    for kind in ("png", "svg"):
        with atomic_path(folder / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, dpi=144, metadata={"Date": None} if kind == "svg" else None)
    write_text(folder / f"{name}.txt", caption + "\n")
    plt.show()
    print(caption)


def stages_table(study: Study) -> pd.DataFrame:
    """stage, seconds, peak_rss_mib: what each recorded stage took when it ran."""
    records = study.store.all_records()
    rows = [(f"{r['kind']}:{r['name']}{r.get('label', '')}", r["seconds"], r["peak_rss_mib"]) for r in records]
    return pd.DataFrame(rows, columns=["stage", "seconds", "peak_rss_mib"]).sort_values("stage", ignore_index=True)


def quotable(results: pd.DataFrame, metric: str, k: int, averaging: str = "list") -> pd.DataFrame:
    """One table a reader can quote: arm by backbone, 'mean ± std over seeds', for each protocol and scorer."""
    part = results[(results.metric == metric) & (results.k == k) & (results.averaging == averaging)]
    cell = part["mean"].map("{:.4f}".format) + " ± " + part["std"].map("{:.4f}".format)
    wide = part.assign(cell=cell).pivot_table(
        index=["protocol", "scorer", "arm"], columns="backbone", values="cell", aggfunc="first", sort=False
    )
    return wide.reset_index().rename_axis(columns=None)


def _image(path: Path) -> str:
    return f'<img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def write_report(study: Study) -> Path:
    """`results/<profile>/report.html`: every figure with its caption and every table, in one file."""
    parts = []
    for path in sorted((study.results / "figures").glob("*.png")):
        caption = html.escape(path.with_suffix(".txt").read_text(encoding="utf-8").strip())
        parts.append(f"<figure>{_image(path)}<figcaption>{caption}</figcaption></figure>")
    for path in sorted((study.results / "tables").glob("*.csv")):
        table = pd.read_csv(path)
        note = f" (first 60 of {len(table)} rows; the CSV holds all)" if len(table) > 60 else ""
        body = table.head(60).to_html(index=False, float_format=lambda x: f"{x:.4f}", border=0)
        parts.append(f"<details open><summary>{path.stem}{note}</summary>{body}</details>")
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}img{max-width:100%}"
        "figure{margin:2rem 0}figcaption{color:#444}table{border-collapse:collapse;font-size:.8rem;display:block;"
        "overflow-x:auto}td,th{padding:.15rem .5rem;text-align:right;border-bottom:1px solid #ddd}summary{font-weight:600}"
    )
    title = f"DPO4Rec study: profile {study.config.profile}"
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
    write_text(study.results / "report.html", f"{page}<h1>{title}</h1>{''.join(parts)}</html>\n")
    return study.results / "report.html"


def _speeds(path: Path) -> str:
    """The ratios of `make bench` in a sentence; empty where it has not run."""
    if not path.is_file():
        return ""
    found = read_json(path)
    told = (f"{name} {r['ratio']:.1f}x (goal {r['goal']}x)" for name, r in found["results"].items())
    return f"`make bench` on {found['device']}, ours against the usual way: {', '.join(told)}."


def _effect(tables: Path, baselines: tuple[str, ...] = ()) -> str:
    """The last round against each baseline (or these) under popularity negatives, as Markdown, from `headline.csv`.

    Where `folds.csv` has several folds, their differences stand in a column.
    """
    effect = pd.read_csv(tables / "headline.csv")
    effect = effect[(effect.protocol == "popularity") & (effect.baseline.isin(baselines) | (not baselines))]
    interval = "difference (95 % interval)"
    effect[interval] = [f"{r.difference:+.4f} ({r.ci_low:+.4f} to {r.ci_high:+.4f})" for r in effect.itertuples()]
    effect["seen from"] = effect.seen_from.map("{:.4f}".format)
    columns = ["last round against", "scorer", interval, "seen from", "backbones with Holm p < 0.05"]
    path = tables / "folds.csv"
    folds = pd.read_csv(path) if path.is_file() else pd.DataFrame({"fold": []})
    if folds.fold.nunique() > 1:
        told = folds.groupby(["scorer", "baseline"]).difference.apply(lambda d: ", ".join(d.map("{:+.4f}".format)))
        effect["fold by fold"] = [told[r.scorer, r.baseline] for r in effect.itertuples()]
        columns.insert(3, "fold by fold")
    effect = effect.rename(columns={"baseline": "last round against", "significant": "backbones with Holm p < 0.05"})
    return effect[columns].to_markdown(index=False, disable_numparse=True)


def _companion(study: Study, suffix: str) -> str:
    """The same table of a companion profile, the main baselines alone; empty where that has no results."""
    name = f"{study.config.profile}-{suffix}"
    tables = study.results.with_name(name) / "tables"
    if not (tables / "headline.csv").is_file():
        return ""
    main, users = pd.read_csv(tables / "main_results.csv"), pd.read_csv(tables / "headline.csv").users.max()
    rounds, hours = main.arm.str.startswith("dpo_round_"), stages_table(open_study(name)).seconds.sum() / 3600
    return f"""
The same of profile `{name}` ({users} test users, {main.arm[rounds].nunique()} rounds, {main.backbone.nunique()} backbones, {main.seeds.max()} seeds; {hours:.1f} hours in
all stages, the loop included; the other baselines are in [`headline.csv`](results/{name}/tables/headline.csv)); intervals are of
users and re-ranker seeds, for policies as they were trained:

{_effect(tables, ("zero_shot", "dpo_shuffled", "random_pairs", "template", "title_mean"))}
"""


def update_readme(study: Study, readme: Path) -> None:
    """Rewrite the part of the README between its `results` marks from this profile's tables and records."""
    tables = study.results / "tables"
    results, stages = pd.read_csv(tables / "main_results.csv"), pd.read_csv(tables / "stages.csv")
    table = quotable(results[(results.protocol == "popularity") & (results.scorer == "own")], "ndcg", 7)
    record = study.store.record("data", "cohort")
    stages["part"] = stages.stage.str.split(":").str[0]
    cost = stages.groupby("part").agg(minutes=("seconds", lambda s: s.sum() / 60), peak_mib=("peak_rss_mib", "max"))
    cost = cost.rename(index=PARTS)[lambda frame: frame.minutes >= 0.05].sort_values("minutes", ascending=False)
    cost = cost.groupby(level=0, sort=False).agg({"minutes": "sum", "peak_mib": "max"})
    name = study.results.relative_to(readme.parent).as_posix()
    caption = (study.results / "figures" / "05_forest_shared.txt").read_text(encoding="utf-8").strip()
    seeds = int(results.seeds.max())
    text = f"""
Profile `{study.config.profile}` on {record["device"]}: {stages.seconds.sum() / 60:.0f} minutes in all stages, peak {stages.peak_rss_mib.max() / 1024:.1f} GiB.

![{caption}]({name}/figures/05_forest_shared.png)

{caption}

The effect, NDCG@7 of test users under popularity negatives, paired by user, mean of the backbones and of {seeds} seeds (*own*: a
re-ranker per arm; *shared*: one re-ranker for all arms, only the user's text is swapped; *seen from*: the true difference that one
test of this mean finds with 80 % power, simulated from validation users):

{_effect(tables)}
{_companion(study, "folds")}{_companion(study, "thorough")}
NDCG@7 of test users' lists, popularity negatives, a re-ranker per arm, mean ± deviation over {seeds} seeds:

{table.drop(columns=["protocol", "scorer"]).to_markdown(index=False)}

What each stage took:

{cost.reset_index(names="stage").to_markdown(index=False, floatfmt=(".0f", ".1f", ".0f"))}

{_speeds(readme.parent / "results" / "benchmarks.json")}
"""
    before, rest = readme.read_text(encoding="utf-8").split(MARKS[0])
    write_text(readme, before + MARKS[0] + "\n" + text.rstrip() + "\n\n" + MARKS[1] + rest.split(MARKS[1])[1])
