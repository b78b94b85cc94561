"""Every figure of every committed profile, measured: axes keep half of the width, no label covers another, no legend
is cut."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest

from dpo4rec_utils.evidence import across, plots
from dpo4rec_utils.evidence.committed import committed, read_loops, read_records
from dpo4rec_utils.evidence.contents import FIGURES
from dpo4rec_utils.files import MissingRecordError

RESULTS = Path(__file__).parents[2] / "results"
PROFILES = committed(RESULTS)


def faults(figure) -> list[str]:
    """What a reader of the figure would stumble over."""
    figure.canvas.draw()
    renderer, whole = figure.canvas.get_renderer(), figure.bbox
    axes = [axis.get_window_extent(renderer) for axis in figure.axes]
    out = [] if sum(box.width for box in axes) >= 0.5 * whole.width else ["the axes have less than half of the width"]
    texts = [figure.legends, [figure._supxlabel] if figure._supxlabel else []]
    texts += [[axis.get_legend()] if axis.get_legend() else [] for axis in figure.axes]
    for part in (text for group in texts for text in group):
        box = part.get_window_extent(renderer)
        if box.x0 < -1 or box.x1 > whole.width + 1 or box.y0 < -1 or box.y1 > whole.height + 1:
            out.append(f"{type(part).__name__} is cut")
    for axis in figure.axes:
        for side, labels in (("x", axis.get_xticklabels()), ("y", axis.get_yticklabels())):
            boxes = [label.get_window_extent(renderer) for label in labels if label.get_text() and label.get_visible()]
            boxes = sorted(boxes, key=lambda box: (box.x0, box.y0) if side == "x" else (box.y0, box.x0))
            out += [f"{side} labels overlap" for a, b in zip(boxes, boxes[1:], strict=False) if a.overlaps(b)]
    return out


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_figure_can_be_read(profile, name):
    try:
        figure, finding = FIGURES[name](read_records(RESULTS / profile))
    except MissingRecordError:
        assert not list((RESULTS / profile / "figures").glob(f"{name}.*")), "a figure that no record draws"
        return
    assert faults(figure) == [] and finding.endswith(".")
    plt.close("all")


@pytest.mark.parametrize("name", across.FIGURES)
def test_a_figure_over_all_loops_can_be_read(name):
    figure, finding = across.FIGURES[name][0](read_loops(RESULTS))
    assert faults(figure) == [] and finding.endswith(".")
    plt.close("all")


def test_a_picture_keeps_the_colours_of_all_series():
    figure, axis = plt.subplots(figsize=(6, 4))
    for place, (marker, colour, _) in enumerate(plots.STYLES):
        axis.errorbar(np.arange(9), np.full(9, place), 0.3, ecolor=colour, fmt=marker, color=colour, markersize=5)
    picture = PIL.Image.open(io.BytesIO(plots.png(figure))).convert("RGB")
    there = np.array([colour for _, colour in picture.getcolors(2**24)])
    for _, colour, _ in plots.STYLES:
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        assert np.abs(there - wanted).sum(axis=1).min() <= 24, f"{colour} is merged with another"
    plt.close("all")


def test_faults_are_seen():
    figure, axis = plt.subplots(figsize=(4, 3))
    axis.set_position([0.8, 0.1, 0.15, 0.8])
    axis.set_yticks([0, 0.01, 1], ["one label", "another label", "a third"])
    figure.legend(
        [axis.plot([0, 1])[0]], ["a name that is wider than the whole figure is, and is cut" * 2], loc="center"
    )
    assert {"the axes have less than half of the width", "y labels overlap", "Legend is cut"} <= set(faults(figure))
    plt.close("all")
