"""Prefix sharing: every distinct prompt of a batch is computed once for all its completions (Wang et al., arXiv
2410.20305).

Rows are packed as [prompt | completion | completion | ...] with positions that restart and a mask that hides
completions from each other, and logits are computed at completion positions only. Nothing here knows a loss.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from dpo4rec_utils.files import StudyError

FULL, SLIDING = "full_attention", "sliding_attention"  # as transformers names kinds of layers


@dataclass(frozen=True)
class PackedRows:
    """Completions packed behind each distinct prompt, G rows of W columns.

    ids, positions: (G, W); mask: (G, 1, W, W) bool, True where a query may look; prompt_width: columns of the prompts,
    padded on the left so that completions start in the same column of every row; group, offset: (N,) the packed row of
    each original row and where its completion starts behind the prompt.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    prompt_width: int
    group: torch.Tensor
    offset: torch.Tensor


def pack_rows(input_ids, attention_mask, labels, pad_token_id: int) -> PackedRows:
    """Pack (N, L) right-padded rows, labels -100 on the prompt, into one row a distinct prompt: [prompt | c1 | c2 |
    ...].

    Positions restart after the prompt for every completion, and the mask hides completions from each other, so hidden
    states equal those of the unpacked rows. Of a preference batch, chosen and rejected share a row, and so do all
    pairs of one user that stand in the batch.
    """
    starts = (labels != -100).int().argmax(dim=1).tolist()
    ends = attention_mask.sum(dim=1).tolist()
    groups: dict[tuple, list[int]] = {}
    for row, start in enumerate(starts):
        groups.setdefault(tuple(input_ids[row, :start].tolist()), []).append(row)
    prompt_width = max(starts)
    width = prompt_width + max(sum(ends[r] - starts[r] for r in rows) for rows in groups.values())
    ids = input_ids.new_full((len(groups), width), pad_token_id)
    positions, segment = torch.zeros_like(ids), torch.full_like(ids, -1)
    group, offset = ids.new_zeros(len(starts)), ids.new_zeros(len(starts))
    for index, (prompt, rows) in enumerate(groups.items()):
        left = prompt_width - len(prompt)
        ids[index, left:prompt_width] = input_ids[rows[0], : len(prompt)]
        positions[index, left:prompt_width] = torch.arange(len(prompt))
        segment[index, left:prompt_width] = 0
        column = prompt_width
        for part, row in enumerate(rows, start=1):
            begin, end = starts[row], ends[row]
            here = slice(column, column + end - begin)
            ids[index, here] = input_ids[row, begin:end]
            positions[index, here] = torch.arange(begin, end)
            segment[index, here] = part
            group[row], offset[row] = index, column - prompt_width
            column += end - begin
    query, key = segment.unsqueeze(2), segment.unsqueeze(1)
    causal = torch.ones(width, width, dtype=torch.bool, device=ids.device).tril()
    return PackedRows(
        ids, positions, (causal & ((key == 0) | (key == query))).unsqueeze(1), prompt_width, group, offset
    )


def _masks(config, packed: PackedRows):
    """What layers may see: the packed mask, or where some or all have a sliding window, that mask within it, by the
    kind of layer."""
    kinds = set(getattr(config, "layer_types", None) or ())
    if others := kinds - {FULL, SLIDING}:
        raise StudyError(
            f"Layers of this LLM are of a kind that packed rows do not serve ({', '.join(sorted(others))}); set "
            "alignment.implementation to stock."
        )
    window = getattr(config, "sliding_window", None)
    if not window or kinds == {FULL} or packed.ids.shape[1] <= window:
        return packed.mask
    distance = packed.positions.unsqueeze(2) - packed.positions.unsqueeze(1)
    near = packed.mask & (distance < window).unsqueeze(1)
    return {FULL: packed.mask, SLIDING: near} if kinds else near


def prefix_shared_forward(model, pad_token_id: int, *, input_ids, attention_mask, labels, **_):
    """trl's fused-head forward, computed on packed rows with logits from the prompts' last column on.

    Returns what trl reads: `log_probs`, `mean_logits`, `entropy`, `is_top1` and `label_mask`, each (N, L-1) and 0 off
    the completions. Raises `StudyError` for layers that are neither full nor sliding attention.
    """
    packed = pack_rows(input_ids, attention_mask, labels, pad_token_id)
    logits = model(
        input_ids=packed.ids,
        attention_mask=_masks(model.config.get_text_config(), packed),
        position_ids=packed.positions,
        use_cache=False,
        logits_to_keep=packed.ids.shape[1] - packed.prompt_width + 1,
    ).logits
    rows, columns = torch.nonzero(labels != -100, as_tuple=True)
    inside = columns - (labels != -100).int().argmax(dim=1)[rows]
    # A completion's first token is predicted by the prompt's last column, every other by the token before it.
    source = torch.where(inside == 0, 0, packed.offset[rows] + inside)
    # Not logits[group, source]: completions share the prompt's last column, and the gradient of plain indexing would
    # add there in whatever order the threads come, so that two runs would differ.
    picked = logits.flatten(0, 1).index_select(0, packed.group[rows] * logits.shape[1] + source).float()
    target = labels[rows, columns]
    normaliser = picked.logsumexp(dim=1)
    values = picked.gather(1, target[:, None])[:, 0] - normaliser
    with torch.no_grad():
        mean_logits, top1 = picked.mean(dim=1), picked.argmax(dim=1) == target
        entropy = normaliser - (picked.softmax(dim=1) * picked).sum(dim=1)

    def spread(column):
        shape = (len(labels), labels.shape[1] - 1)
        return column.new_zeros(shape).index_put((rows, columns - 1), column)

    return SimpleNamespace(
        log_probs=spread(values),
        mean_logits=spread(mean_logits),
        entropy=spread(entropy),
        is_top1=spread(top1),
        label_mask=labels[:, 1:] != -100,
    )
