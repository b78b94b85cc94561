"""The loop of the paper as a picture, drawn by code."""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from dpo4rec_utils.evidence import plots
from dpo4rec_utils.files import atomic_path

# Text, left edge, bottom edge; boxes are 2.2 wide and 0.9 high.
BOXES = {
    "history": ("user's history\n→ prompt", 0.0, 2.0),
    "llm": ("LLM (policy)", 2.9, 2.0),
    "texts": ("N texts a user", 5.8, 2.0),
    "encoder": ("sentence encoder\n+ adapter", 8.7, 2.0),
    "ranker": ("re-rankers: DLCM,\nPRM, SetRank, MIR", 11.6, 2.0),
    "reward": ("reward model, a re-ranker:\nhow likely are the labels\nof the user's lists?", 8.7, 0.3),
    "pairs": ("best and worst text:\nchosen, rejected", 5.8, 0.3),
    "dpo": ("DPO (trl, peft)", 2.9, 0.3),
}
ARROWS = [
    *(("history", "llm"), ("llm", "texts"), ("texts", "encoder"), ("encoder", "ranker")),
    *(("encoder", "reward"), ("reward", "pairs"), ("pairs", "dpo"), ("dpo", "llm")),
]
WIDTH, HEIGHT = 2.2, 0.9


def draw_loop(path: Path) -> None:
    """Write the diagram as SVG."""
    figure, axis = plots.blank(9.2, 2.4)
    for text, left, bottom in BOXES.values():
        style = {"boxstyle": "round,pad=0.02,rounding_size=0.12", "facecolor": "white", "edgecolor": "black"}
        axis.add_patch(FancyBboxPatch((left, bottom), WIDTH, HEIGHT, **style))
        axis.text(left + WIDTH / 2, bottom + HEIGHT / 2, text, ha="center", va="center", fontsize=8)
    for start, end in ARROWS:
        axis.add_patch(FancyArrowPatch(*_ends(start, end), arrowstyle="-|>", mutation_scale=11, color="black"))
    axis.text(1.0, 0.75, "the next round\nsamples from the\naligned policy", ha="center", va="center", fontsize=8)
    axis.set(xlim=(-0.1, 13.9), ylim=(0.1, 3.1), aspect="equal")
    axis.axis("off")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
    plt.close(figure)


def _ends(start: str, end: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves one box and reaches another: along the row, or straight up or down."""
    (_, left, bottom), (_, to_left, to_bottom) = BOXES[start], BOXES[end]
    middle, gap = HEIGHT / 2, 0.05
    if bottom == to_bottom:
        right = to_left > left
        return (
            (left + (WIDTH + gap if right else -gap), bottom + middle),
            (to_left + (-gap if right else WIDTH + gap), to_bottom + middle),
        )
    down = to_bottom < bottom
    centre = left + WIDTH / 2
    return (centre, bottom + (-gap if down else HEIGHT + gap)), (centre, to_bottom + (HEIGHT + gap if down else -gap))
