"""Figures: one idea each, readable in greyscale and at half width; data in, matplotlib figure out.

Series differ by marker or hatch, not by colour alone; axes carry units; intervals and n are in the labels.
"""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

matplotlib.rcParams["svg.hashsalt"] = "dpo4rec"
sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.15)
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
GREYS = ["0.15", "0.45", "0.7", "0.85"]


def _figure(width=6.4, height=4.0, columns=1, **options):
    return plt.subplots(1, columns, figsize=(width, height), layout="constrained", **options)


def distributions(lengths: np.ndarray, popularity: np.ndarray):
    """Histogram of history lengths beside the popularity of items by rank (log-log)."""
    figure, (left, right) = _figure(8, 3.4, 2)
    left.hist(lengths, bins=np.arange(0.5, lengths.max() + 1.5), color=GREYS[1])
    left.set(xlabel="history length (interactions)", ylabel=f"users (n = {len(lengths)})")
    ranked = -np.sort(-popularity[popularity > 0])
    right.loglog(np.arange(1, len(ranked) + 1), ranked, color=GREYS[0])
    right.set(xlabel=f"item rank by popularity (n = {len(ranked)})", ylabel="interactions")
    return figure


def bars(table: pd.DataFrame, x: str, y: str, hue: str | None = None, error: str | None = None, ylabel: str = ""):
    """Grouped horizontal-axis bars in greys with hatches; `error` is a half-width column."""
    figure, axis = _figure(max(5.2, 0.9 * table[x].nunique() * (table[hue].nunique() if hue else 1) + 2), 3.8)
    groups = list(dict.fromkeys(table[hue])) if hue else [None]
    names = list(dict.fromkeys(table[x]))
    width = 0.8 / len(groups)
    for i, group in enumerate(groups):
        part = (table if group is None else table[table[hue] == group]).set_index(x).reindex(names)
        place = np.arange(len(names)) + (i - (len(groups) - 1) / 2) * width
        bar = axis.bar(
            place,
            part[y],
            width,
            label=group,
            color=GREYS[i % 4],
            edgecolor="black",
            hatch=["", "//", "..", "xx"][i % 4],
        )
        if error:
            axis.errorbar(place, part[y], yerr=part[error], fmt="none", ecolor="black", capsize=3)
        axis.bar_label(bar, fmt="%.3f", fontsize=8, padding=3)
    axis.set_xticks(np.arange(len(names)), names)
    axis.set(ylabel=ylabel or y)
    axis.margins(y=0.15)
    if hue:
        axis.legend(title=hue, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(groups))
    return figure


def dots(table: pd.DataFrame, row: str, x: str, group: str | None = None, error: str | None = None, xlabel: str = ""):
    """A row a name, a marker a group, on an axis that need not start at zero; `error` is a half-width column."""
    names, groups = list(dict.fromkeys(table[row]))[::-1], list(dict.fromkeys(table[group])) if group else [None]
    figure, axis = _figure(6.4, 1.3 + 0.2 * len(names) * max(1.6, len(groups) * 0.8))
    for i, name in enumerate(groups):
        part = (table if name is None else table[table[group] == name]).set_index(row).reindex(names)
        height = np.arange(len(names)) - (i - (len(groups) - 1) / 2) * 0.7 / len(groups)
        half = part[error] if error else None
        style = {"marker": MARKERS[i], "color": GREYS[i % 3], "markersize": 5, "capsize": 2, "linestyle": "none"}
        axis.errorbar(part[x], height, xerr=half, label=name, **style)
    axis.set_yticks(np.arange(len(names)), names)
    axis.locator_params(axis="x", nbins=6)
    axis.set(xlabel=xlabel or x)
    if group:
        axis.legend(fontsize=8, ncols=len(groups), loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return figure


def similarity(own: np.ndarray, other: np.ndarray):
    """Cosine of a text with its user's history beside that with another user's history."""
    figure, axis = _figure(5.6, 3.6)
    edges = np.linspace(min(own.min(), other.min()), max(own.max(), other.max()), 30)
    axis.hist(own, edges, histtype="step", color="black", linewidth=2, label=f"own user (mean {own.mean():.3f})")
    axis.hist(other, edges, color=GREYS[2], label=f"another user (mean {other.mean():.3f})")
    axis.set(xlabel="cosine of text and mean liked item", ylabel=f"texts (n = {len(own)})")
    axis.legend(fontsize=9)
    return figure


def split_half(halves: dict[str, dict]):
    """Scatter of one half's reward deviations against the other's, a panel a reward."""
    figure, axes = _figure(3.2 * len(halves), 3.4, len(halves), squeeze=False)
    for axis, (name, half) in zip(axes[0], halves.items(), strict=True):
        axis.scatter(half["x"], half["y"], s=6, alpha=0.25, color="black", linewidths=0, rasterized=True)
        axis.set_title(f"{name}: r = {half['r']:.2f} (n = {half['users']} users)", fontsize=10)
        axis.set(xlabel="even lists, deviation", ylabel="odd lists, deviation" if axis is axes[0][0] else "")
        axis.tick_params(labelsize=8)
    return figure


def training_curves(logs: dict[str, list[dict]]):
    """DPO loss and margin a step, one line a run; the loss starts at ln 2."""
    figure, (left, right) = _figure(8, 3.4, 2)
    for i, (name, log) in enumerate(logs.items()):
        steps = [row["step"] for row in log]
        style = {"marker": MARKERS[i % 8], "markersize": 4, "color": GREYS[i % 3], "label": name}
        left.plot(steps, [row["loss"] for row in log], **style)
        right.plot(steps, [row.get("rewards/margins", np.nan) for row in log], **style)
    left.axhline(np.log(2), linestyle=":", color="black")
    left.set(xlabel="step", ylabel="DPO loss (dotted: ln 2)")
    right.set(xlabel="step", ylabel="margin (nats)")
    left.legend(fontsize=8)
    return figure


def rounds(table: pd.DataFrame, series: dict[str, tuple[str, str]]):
    """Change of reward since round 0 with its interval, one line a series: label -> (split, reward) of `rounds_table`."""
    figure, axis = _figure(6.2, 4.2)
    for i, (label, (split, reward)) in enumerate(series.items()):
        part = table[(table.split == split) & (table.reward == reward) & (table["round"] > 0)]
        mean = np.r_[0, part.difference_to_round_0]
        half = np.r_[0, 1.96 * np.abs(part.difference_to_round_0 / part.t.replace(0, np.nan))]
        place = np.r_[0, part["round"]] + (i - (len(series) - 1) / 2) * 0.06
        style = {"marker": MARKERS[i], "color": GREYS[i % 3], "linestyle": ["-", "--"][reward.startswith("claimed")]}
        axis.errorbar(place, mean, half, capsize=3, markersize=5, label=label, **style)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="DPO round", ylabel="change of log-likelihood (nats)\n95 % interval")
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1)
    return figure


def power_curves(table: pd.DataFrame, users: int):
    """Smallest difference that is seen with 80 % power against the number of users, mean of the backbones."""
    figure, axis = _figure(5.8, 3.6)
    for i, (scorer, part) in enumerate(table.groupby("scorer", sort=False)):
        mean = part.groupby("users")[["alone", "holm"]].mean()
        for name, line in (("holm", "-"), ("alone", "--")):
            label = f"{scorer} scorers, " + ("Holm's strictest step" if name == "holm" else "one test at 0.05")
            axis.plot(mean.index, mean[name], line, marker=MARKERS[i], color=GREYS[i], label=label)
    axis.axvline(users, color="black", linewidth=0.8, linestyle=":")
    axis.set(xlabel=f"test users (dotted: this study, {users})", ylabel="detectable NDCG@7 difference")
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


def forest(table: pd.DataFrame, label: str = "comparison", group: str = "backbone", xlabel: str = "difference"):
    """Forest plot: difference with interval, a row a `label`, a marker a `group`; filled where p_holm, if given, < 0.05."""
    tested = "p_holm" in table
    names = list(dict.fromkeys(table[label]))[::-1]
    groups = list(dict.fromkeys(table[group]))
    figure, axis = _figure(6.4, 1.3 + 0.14 * len(names) * max(2, len(groups)))
    for i, name in enumerate(groups):
        part = table[table[group] == name].set_index(label).reindex(names)
        height = np.arange(len(names)) - (i - (len(groups) - 1) / 2) * 0.8 / len(groups)
        low, high = part.difference - part.ci_low, part.ci_high - part.difference
        axis.errorbar(part.difference, height, xerr=[low, high], fmt="none", ecolor=GREYS[i % 4], capsize=2)
        fill = ["black" if p < 0.05 else "white" for p in part.p_holm] if tested else "white"
        axis.scatter(
            part.difference, height, marker=MARKERS[i % len(MARKERS)], c=fill, edgecolors="black", s=22, zorder=3
        )
        axis.scatter([], [], marker=MARKERS[i % len(MARKERS)], c="white", edgecolors="black", label=name)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(np.arange(len(names)), names, fontsize=9)
    note = ", filled: Holm p < 0.05" if tested else ""
    axis.set(xlabel=f"{xlabel}\n95 % interval, n = {int(table.users.max())} users{note}")
    axis.legend(fontsize=8, ncols=len(groups), loc="lower center", bbox_to_anchor=(0.4, 1.0))
    return figure


def cost_and_effect(table: pd.DataFrame, x: str, y: str, half: str, xlabel: str, ylabel: str):
    """Effect with its interval (`half` width), and the minutes spent so far on a second axis."""
    figure, axis = _figure(5.8, 3.6)
    axis.errorbar(table[x], table[y], table[half], marker="o", color="black", capsize=3)
    axis.set(xlabel=xlabel, ylabel=ylabel, xticks=table[x])
    cost = axis.twinx()
    cost.plot(table[x], table.minutes, marker="s", linestyle="--", color=GREYS[2])
    cost.set_ylabel("minutes so far (dashed)")
    cost.set_ylim(bottom=0)
    cost.grid(False)
    return figure


def words(table: pd.DataFrame):
    """Share of texts that hold a word, before (hollow) and after (filled), a row a word."""
    figure, axis = _figure(5.6, 1.0 + 0.24 * len(table))
    place = np.arange(len(table))
    axis.hlines(place, table.before, table.after, color=GREYS[2], linewidth=2)
    axis.scatter(table.before, place, marker="o", c="white", edgecolors="black", s=28, zorder=3, label="before")
    axis.scatter(table.after, place, marker="o", c="black", s=28, zorder=3, label="after")
    axis.set_yticks(place, table.word)
    axis.set(xlabel="share of texts that hold the word", xlim=(-0.02, 1.02))
    axis.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure
