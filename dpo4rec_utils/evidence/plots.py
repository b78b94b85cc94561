"""Plot primitives: one idea each, readable in greyscale and at 400 pixels; tables in, matplotlib figures out.

Series differ by colour (Okabe and Ito's palette, safe for colour-blind readers, https://jfly.uni-koeln.de/color) and
by marker. A difference axis has a line at zero. Labels are wrapped, so that the axes keep most of the width.
"""

import io
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

os.environ["MPLBACKEND"] = "agg"  # figures are files; a backend that is named in vain would stop the import

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import seaborn as sns

matplotlib.rcParams.update({"svg.hashsalt": "dpo4rec", "svg.fonttype": "none", "text.usetex": False})
SIZE = dict.fromkeys(("axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 10)
sns.set_theme(context="paper", style="whitegrid", rc=SIZE)
WIDTH = 6.2  # inches of a figure, 620 pixels
LABEL = 24  # characters of a row's label before it is wrapped
# Marker, colour and line of a series.
STYLES = [
    ("o", "#0072B2", "-"),
    ("s", "#E69F00", "--"),
    ("^", "#009E73", "-."),
    ("D", "#D55E00", ":"),
    ("v", "#56B4E9", "--"),
    ("P", "#CC79A7", "-"),
    ("X", "#000000", "-."),
]
HATCHES = ["", "//", "..", "xx"]


def blank(width: float = WIDTH, height: float = 4.0, columns: int = 1, **options):
    """A figure and its axes (one, or an array of `columns`)."""
    return plt.subplots(1, columns, figsize=(width, height), layout="constrained", **options)


def png(figure) -> bytes:
    """The figure as a PNG in 64 colours, a third of the bytes; the figure stays open."""
    drawn, picture = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    # The default method merges the colours of small markers with their neighbours.
    few = PIL.Image.open(drawn).convert("RGB").quantize(64, PIL.Image.Quantize.MAXCOVERAGE)
    few.save(picture, "PNG", optimize=True)
    return picture.getvalue()


def below(figure, text: str) -> None:
    """What the horizontal axis shows, and what the bars are, centred below the whole figure so that nothing is cut."""
    figure.supxlabel(textwrap.fill(text, 72), fontsize=10)


def legend_above(figure, axis) -> None:
    """A legend above the axes, in as many columns as fit."""
    handles, names = axis.get_legend_handles_labels()
    columns = max(1, min(len(names), int(72 / (max(map(len, names)) + 7))))
    figure.legend(handles, names, loc="outside upper center", ncols=columns, frameon=False)


def wrapped(name) -> str:
    """A label on as many lines as it needs."""
    return textwrap.fill(str(name), LABEL)


def dots(table: pd.DataFrame, rows: str, x: str, series: str | None = None, error=None):
    """A row a name of column `rows`, a marker a name of column `series`, at `x`; returns figure and axis.

    error: the column of half widths, or a (low, high) pair of columns with the ends: then there is a line at zero. A
    column 'filled' (bool), if there is one, says which markers are filled.
    """
    names = list(dict.fromkeys(table[rows]))[::-1]
    groups = list(dict.fromkeys(table[series])) if series else [None]
    labels = [wrapped(name) for name in names]
    tall = [max(0.9 * (1 + label.count("\n")), len(groups) * 0.8, 1.4) for label in labels]
    # Rows are equally far apart, so two neighbours with labels of several lines set the distance.
    apart = max([sum(tall) / len(tall), *((a + b) / 2 for a, b in zip(tall, tall[1:], strict=False))])
    figure, axis = blank(WIDTH, 1.2 + 0.21 * apart * len(names))
    if isinstance(error, tuple):
        axis.axvline(0, color="black", linewidth=0.8)
    for i, group in enumerate(groups):
        part = table if group is None else table[table[series] == group]
        part = part.set_index(rows).reindex(names)
        height = np.arange(len(names)) - (i - (len(groups) - 1) / 2) * 0.75 / len(groups)
        marker, colour, _ = STYLES[i % len(STYLES)]
        if error:
            half = part[error] if isinstance(error, str) else [part[x] - part[error[0]], part[error[1]] - part[x]]
            axis.errorbar(part[x], height, xerr=half, fmt="none", ecolor=colour, capsize=2, linewidth=1)
        filled = part["filled"].map({True: colour, False: "white"}).fillna("white") if "filled" in table else colour
        axis.scatter(part[x], height, marker=marker, c=filled, edgecolors=colour, s=30, zorder=3)
        axis.scatter([], [], marker=marker, c=colour, edgecolors=colour, label=group)
    axis.set_yticks(np.arange(len(names)), labels)
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.locator_params(axis="x", nbins=6)
    if series:
        legend_above(figure, axis)
    return figure, axis


def bars(table: pd.DataFrame, x: str, y: str, series: str):
    """Grouped bars with hatches and their values written above; returns figure and axis."""
    groups, names = list(dict.fromkeys(table[series])), list(dict.fromkeys(table[x]))
    figure, axis = blank(WIDTH, 3.8)
    width = 0.8 / len(groups)
    for i, group in enumerate(groups):
        part = table[table[series] == group].set_index(x).reindex(names)
        place = np.arange(len(names)) + (i - (len(groups) - 1) / 2) * width
        style = {"color": STYLES[i][1], "hatch": HATCHES[i % 4], "edgecolor": "black", "label": group}
        axis.bar_label(axis.bar(place, part[y], width, **style), fmt="%.2f", padding=3)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(np.arange(len(names)), names)
    axis.margins(y=0.15)
    legend_above(figure, axis)
    return figure, axis


def dodge(places, number: int, count: int) -> np.ndarray:
    """Where series `number` of `count` stands: a little beside the others, so that no bar hides another."""
    return np.asarray(places) + (number - (count - 1) / 2) * np.ptp(places) * 0.02


@dataclass(frozen=True)
class Curve:
    """A series: y at x; half: the half width of its interval, or that below and above."""

    x: Sequence
    y: Sequence
    half: Sequence | None = None


def line(axis, curve: Curve, number: int, label: str | None = None, markers: bool = True) -> None:
    """One series on an axis, styled by its number."""
    marker, colour, stroke = STYLES[number % len(STYLES)]
    style = {"marker": marker if markers else "", "markersize": 5, "color": colour, "linestyle": stroke}
    axis.errorbar(curve.x, curve.y, curve.half, capsize=3, label=label, **style)


def running_mean(values, steps: int) -> Curve:
    """Means of every `steps` neighbouring values, of all of them where there are fewer; x: places, from 1."""
    steps = min(steps, len(values))
    means = np.convolve(values, np.full(steps, 1 / steps), mode="valid")
    return Curve(np.arange(len(means)) + (steps + 1) / 2, means)


def histogram(axis, edges, counts, label: str, filled: bool) -> None:
    """Counts between edges: an area where `filled`, else an outline."""
    style = {"fill": True, "color": STYLES[4][1]} if filled else {"fill": False, "color": "black", "linewidth": 2}
    axis.stairs(counts, edges, label=label, **style)


def before_and_after(table: pd.DataFrame, rows: str):
    """Shares `before` and `after`, joined by a line, a row a name of column `rows`."""
    figure, axis = blank(WIDTH, 1.2 + 0.26 * len(table))
    place = np.arange(len(table))
    axis.hlines(place, table.before, table.after, color="0.6", linewidth=2)
    for (marker, colour, _), name in zip(STYLES[1::-1], ("before", "after"), strict=True):
        axis.scatter(table[name], place, marker=marker, c=colour, edgecolors="black", s=30, zorder=3, label=name)
    axis.set_yticks(place, table[rows])
    axis.set(xlim=(-0.02, 1.02))
    legend_above(figure, axis)
    return figure, axis
