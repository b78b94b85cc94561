"""Every table and figure of the study by name, written from records and shown in notebooks and report alike."""

import os
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, Image, Markdown, display

from dpo4rec_utils.evidence import figures, ladder, loop_figures, loop_learning, loop_tables, plots, tables
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.files import MissingRecordError, NotAskedError, StudyError, atomic_path, write_text
from dpo4rec_utils.locks import HOLDS

TABLES: dict[str, Callable[[Records], pd.DataFrame]] = {
    "arms": loop_tables.arms,
    "sanity_rankers": loop_tables.sanity_rankers,
    "knowledge_texts": loop_tables.knowledge_texts,
    "hostile_title": loop_tables.hostile_title,
    "reward_reliability": loop_tables.reward_reliability,
    "probe": loop_tables.probe,
    "ladder": ladder.ladder,
    "training_summary": loop_tables.training_summary,
    "text_guards": loop_tables.text_guards,
    "power": tables.power,
    "main_results": tables.main_results,
    "quotable": tables.quotable,
    "paired_differences": tables.paired_differences_table,
    "headline": tables.headline,
    "repeats": tables.repeats,
    "breakdown": tables.breakdown,
    "ablation_knowledge": loop_tables.ablation_knowledge,
    "ablation_preference": loop_tables.ablation_preference,
    "variants": loop_learning.variants,
    "ablation_adapter": loop_tables.ablation_adapter,
    "ablation_length": tables.ablation_length,
    "rounds": loop_learning.rounds,
    "agreement": loop_learning.agreement,
    "rewards_by_round": loop_tables.rewards_by_round,
    "cost": loop_tables.cost,
    "samples": loop_tables.samples,
    "stages": loop_tables.stages,
}
FIGURES = {
    "01_distributions": loop_figures.distributions,
    "01_sanity_rankers": loop_figures.sanity_rankers,
    "02_similarity": loop_figures.similarity,
    "03_split_half": loop_figures.split_half,
    "03_reliability": loop_figures.reliability,
    "03_probe": loop_figures.probe,
    "03_ladder": ladder.drawn,
    "04_training": loop_figures.training,
    "04_heldout": loop_figures.heldout,
    "04_texts": loop_figures.texts,
    "04_words": loop_figures.changed_words,
    "05_headline": figures.headline,
    "05_on_top": figures.on_top,
    "05_power": figures.power,
    "05_forest_own": figures.forest_own,
    "05_forest_shared": figures.forest_shared,
    "05_arms": figures.arms,
    "05_breakdown": figures.breakdown,
    "06_knowledge": figures.knowledge,
    "06_preference": figures.preference,
    "06_variants": figures.variants,
    "06_adapter": figures.adapter,
    "06_length": figures.length,
    "07_rounds": loop_figures.rounds,
    "07_cost": loop_figures.cost,
    "07_samples": loop_figures.samples,
}


def table(records: Records, name: str) -> pd.DataFrame:
    """Write `tables/<name>.csv` and return the table; raises as `Records` where its records are not there."""
    result = TABLES[name](records)
    text = result.to_csv(index=False, float_format="%.5g", lineterminator="\n")
    write_text(records.folder / "tables" / f"{name}.csv", text)
    return result


VIEW = (16, 8)  # rows and columns of a table that fit a notebook


def show(records: Records, name: str, where: str = "", columns: tuple[str, ...] = ()) -> None:
    """Write a table as `table` does and show its first sixteen rows, with a link to the whole.

    where: a pandas query, such as "k == 7"; columns: eight at most, the first eight where none are named. Texts stand
    in full and are escaped. Says so where the profile does not ask for the table. Raises `ValueError` for more columns.
    """
    if len(columns) > VIEW[1]:
        raise ValueError(f"{len(columns)} columns of {name}; a notebook shows {VIEW[1]}.")
    try:
        whole = table(records, name)
    except NotAskedError as error:
        print(error)
        return
    rows = whole.query(where) if where else whole
    rows = rows[list(columns or rows.columns)].iloc[: VIEW[0], : VIEW[1]]
    with pd.option_context("display.max_colwidth", None):
        display(HTML(rows.to_html(index=False, na_rep="", float_format=lambda number: f"{number:.4g}")))
    # An executed copy lies beside the tables; the source is opened in notebooks/.
    folder = ".." if os.environ.get(HOLDS) else f"../results/{records.profile}"
    sizes = f"{len(rows)} of {len(whole)} rows, {len(rows.columns)} of {len(whole.columns)} columns"
    display(Markdown(f"{sizes} of [{name}.csv]({folder}/tables/{name}.csv)"))


def figure(records: Records, name: str) -> None:
    """Write a figure as `draw` does, show what was written and print its finding; or say that the profile has no such
    arm."""
    try:
        finding = draw(records, name)
    except NotAskedError as error:
        print(error)
        return
    plt.close("all")
    display(Image(filename=_picture(records, name)))
    print(finding)


def draw(records: Records, name: str) -> str:
    """Write `figures/<name>.png` and `.txt`, its one-sentence finding, which is returned."""
    drawn, finding = FIGURES[name](records)
    write_figure(_picture(records, name), drawn, finding)
    return finding


def write_figure(path: Path, drawn, finding: str) -> None:
    """Write a matplotlib figure as PNG (`plots.png`), and its finding beside it as `.txt`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(plots.png(drawn))
    write_text(path.with_suffix(".txt"), finding + "\n")


def _picture(records: Records, name: str) -> Path:
    return records.folder / "figures" / f"{name}.png"


def write_all(records: Records) -> tuple[list[str], list[str]]:
    """Write every table and figure that the records hold; names of those written, and of those no record was made for.

    A record that is damaged, altered or of another profile is an error.
    """
    written, absent = [], []
    for names, write in ((TABLES, table), (FIGURES, draw)):
        for name in names:
            try:
                write(records, name)
                written.append(name)
            except NotAskedError:
                continue
            except MissingRecordError:
                absent.append(name)
            except KeyError as error:
                raise StudyError(
                    f"{name} cannot be drawn: a record of {records.profile} lacks {error}, so other code made it; run `study` again, and tell us if that does not help."
                ) from None
            plt.close("all")
    return written, absent
