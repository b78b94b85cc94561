"""Plot primitives: one idea each, readable in greyscale and at half width; tables in, matplotlib figures out.

Series differ by marker and filling, never by colour alone. A difference axis has a line at zero.
"""

import textwrap

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

matplotlib.rcParams.update({"svg.hashsalt": "dpo4rec", "svg.fonttype": "none"})
sns.set_theme(context="paper", style="whitegrid", font_scale=1.15, rc={"axes.labelsize": 9, "xtick.labelsize": 9})
# Marker, filling and line of a series: told apart without colour.
STYLES = [
    ("o", "black", "-"),
    ("s", "white", "--"),
    ("^", "0.6", "-."),
    ("D", "white", ":"),
    ("v", "black", "--"),
    ("P", "0.6", "-"),
    ("X", "white", "-."),
]
HATCHES = ["", "//", "..", "xx"]
GREYS = ["0.25", "0.6", "0.85", "0.95"]


def blank(width: float = 6.4, height: float = 4.0, columns: int = 1, **options):
    """A figure and its axes (one, or an array of `columns`)."""
    return plt.subplots(1, columns, figsize=(width, height), layout="constrained", **options)


def below(figure, text: str) -> None:
    """What the horizontal axis shows, and what the bars are, centred below the whole figure so that nothing is cut."""
    figure.supxlabel(textwrap.fill(text, 84), fontsize=9)


def legend_above(axis, columns: int) -> None:
    """A legend above the axes, where it covers nothing."""
    axis.legend(fontsize=8, ncols=columns, loc="lower center", bbox_to_anchor=(0.4, 1.0))


def dots(table: pd.DataFrame, rows: str, x: str, series: str | None = None, error=None):
    """A row a name of column `rows`, a marker a name of column `series`, at `x`; returns figure and axis.

    error: the column of half widths, or a (low, high) pair of columns with the ends: then there is a line at zero. A
    column 'filled' (bool), if there is one, fills the markers instead of their series.
    """
    names = list(dict.fromkeys(table[rows]))[::-1]
    groups = list(dict.fromkeys(table[series])) if series else [None]
    figure, axis = blank(6.4, 1.3 + 0.2 * len(names) * max(1.6, len(groups) * 0.8))
    if isinstance(error, tuple):
        axis.axvline(0, color="black", linewidth=0.8)
    for i, group in enumerate(groups):
        part = table if group is None else table[table[series] == group]
        part = part.set_index(rows).reindex(names)
        height = np.arange(len(names)) - (i - (len(groups) - 1) / 2) * 0.75 / len(groups)
        marker, fill, _ = STYLES[i % len(STYLES)]
        if error:
            half = part[error] if isinstance(error, str) else [part[x] - part[error[0]], part[error[1]] - part[x]]
            axis.errorbar(part[x], height, xerr=half, fmt="none", ecolor="0.45", capsize=2, linewidth=1)
        filled = part["filled"].map({True: "black", False: "white"}).fillna("white") if "filled" in table else fill
        axis.scatter(part[x], height, marker=marker, c=filled, edgecolors="black", s=26, zorder=3)
        axis.scatter([], [], marker=marker, c="white" if "filled" in table else fill, edgecolors="black", label=group)
    axis.set_yticks(np.arange(len(names)), names)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.locator_params(axis="x", nbins=6)
    if series:
        wide = sum(map(len, map(str, groups))) > 60
        legend_above(axis, 2 if wide else min(5, len(groups)))
    return figure, axis


def bars(table: pd.DataFrame, x: str, y: str, series: str):
    """Grouped bars in greys with hatches and their values written above; returns figure and axis."""
    groups, names = list(dict.fromkeys(table[series])), list(dict.fromkeys(table[x]))
    figure, axis = blank(max(5.2, 0.9 * len(names) * len(groups) + 2), 3.8)
    width = 0.8 / len(groups)
    for i, group in enumerate(groups):
        part = table[table[series] == group].set_index(x).reindex(names)
        place = np.arange(len(names)) + (i - (len(groups) - 1) / 2) * width
        style = {"color": GREYS[i % 4], "hatch": HATCHES[i % 4], "edgecolor": "black", "label": group}
        axis.bar_label(axis.bar(place, part[y], width, **style), fmt="%.2f", fontsize=8, padding=3)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(np.arange(len(names)), names)
    axis.margins(y=0.15)
    legend_above(axis, len(groups))
    return figure, axis


def line(axis, points: tuple, number: int, label: str | None = None) -> None:
    """One series on an axis, styled by its number; points: x, y and, if there is one, the half width of the interval."""
    x, y, half = points if len(points) == 3 else (*points, None)
    marker, fill, stroke = STYLES[number % len(STYLES)]
    style = {"marker": marker, "markerfacecolor": fill, "markeredgecolor": "black", "markersize": 5}
    axis.errorbar(x, y, half, color="0.35", linestyle=stroke, capsize=3, label=label, **style)


def histogram(axis, edges, counts, label: str, filled: bool) -> None:
    """Counts between edges: grey where `filled`, else a black outline."""
    style = {"fill": True, "color": "0.75"} if filled else {"fill": False, "color": "black", "linewidth": 2}
    axis.stairs(counts, edges, label=label, **style)


def before_and_after(table: pd.DataFrame, rows: str):
    """Shares `before` (hollow) and `after` (filled), joined by a line, a row a name of column `rows`."""
    figure, axis = blank(5.6, 1.0 + 0.24 * len(table))
    place = np.arange(len(table))
    axis.hlines(place, table.before, table.after, color="0.6", linewidth=2)
    for name, fill in (("before", "white"), ("after", "black")):
        axis.scatter(table[name], place, marker="o", c=fill, edgecolors="black", s=28, zorder=3, label=name)
    axis.set_yticks(place, table[rows])
    axis.set(xlim=(-0.02, 1.02))
    legend_above(axis, 2)
    return figure, axis
