"""Alignment with trl and peft: supervised warm start and DPO. Every call to trl is in this module.

DPO (Rafailov et al., arXiv 2305.18290, eq. 7): -log sigmoid(beta * [log pi/ref (chosen) - log pi/ref (rejected)]), with
log-probabilities summed over completion tokens. A larger beta keeps the policy closer to the reference; at the first
step policy and reference are the same, the margin is 0 and the loss ln 2 = 0.6931.

`PrefixSharedDPOTrainer` computes each prompt once for all its completions in a batch (prefix sharing: Wang et al., arXiv
2410.20305), logits at completion positions only, and the reference log-probabilities once. So that a user's pairs meet in
a batch, rows are shuffled by prompt before training and read in order.
"""

import functools
import math
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from datasets import Dataset as TableDataset
from datasets import disable_progress_bars
from peft import LoraConfig
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from dpo4rec_utils.artifacts import StudyError, read_json, write_json
from dpo4rec_utils.config import AlignmentConfig
from dpo4rec_utils.policies import Policy, load_model, load_tokenizer

# Distinct prompts of a forward pass, which decide its memory; gradients are accumulated to the batch size.
MICRO_PROMPTS = 2

disable_progress_bars()


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
    """Pack (N, L) right-padded rows, labels -100 on the prompt, into one row a distinct prompt: [prompt | c1 | c2 | ...].

    Positions restart after the prompt for every completion, and the mask hides completions from each other, so hidden
    states equal those of the unpacked rows. Of a preference batch, chosen and rejected share a row, and so do all pairs of
    one user that stand in the batch.
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


def prefix_shared_forward(model, pad_token_id: int, *, input_ids, attention_mask, labels, **_):
    """trl's fused-head forward, computed on packed rows with logits from the prompts' last column on.

    Returns what trl reads: `log_probs`, `mean_logits`, `entropy`, `is_top1` and `label_mask`, each (N, L-1) and 0 off
    the completions.
    """
    packed = pack_rows(input_ids, attention_mask, labels, pad_token_id)
    logits = model(
        input_ids=packed.ids,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        use_cache=False,
        logits_to_keep=packed.ids.shape[1] - packed.prompt_width + 1,
    ).logits
    rows, columns = torch.nonzero(labels != -100, as_tuple=True)
    inside = columns - (labels != -100).int().argmax(dim=1)[rows]
    # A completion's first token is predicted by the prompt's last column, every other by the token before it.
    source = torch.where(inside == 0, 0, packed.offset[rows] + inside)
    picked = logits[packed.group[rows], source].float()
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


class PrefixSharedDPOTrainer(DPOTrainer):
    """`DPOTrainer` with every distinct prompt of a batch computed once; same losses, metrics and options.

    Needs `precompute_ref_log_probs=True`, and no truncation, which would cut chosen and rejected differently.
    """

    def __init__(self, model, *, args: DPOConfig, **options):
        if not args.precompute_ref_log_probs or args.max_length is not None:
            raise ValueError("PrefixSharedDPOTrainer needs precompute_ref_log_probs=True and max_length=None")
        super().__init__(model, args=args, **options)

    def _shared(self, model):
        return functools.partial(prefix_shared_forward, model, self._tokenizer.pad_token_id)

    def compute_ref_log_probs(self, model, inputs):
        return super().compute_ref_log_probs(self._shared(model), inputs)

    def _compute_loss(self, model, inputs, return_outputs):
        return super()._compute_loss(self._shared(model), inputs, return_outputs)


class PrefixSharedSFTTrainer(SFTTrainer):
    """`SFTTrainer` with every distinct prompt of a batch computed once and logits at completion positions only."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        shared = functools.partial(prefix_shared_forward, model, self.processing_class.pad_token_id)
        return super().compute_loss(shared, inputs, return_outputs, num_items_in_batch)


class PlainProgress(TrainerCallback):
    """One plain tqdm bar, which papermill's log shows as well."""

    def __init__(self, title: str):
        self.title = title

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, unit="step")

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{logs['loss']:.4f}")

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


def fast_precision(path: Path) -> str:
    """'bf16' or 'fp32', whichever multiplies matrices faster here by a clear margin (1.3x); timed once, kept in `path`."""
    if path.exists():
        return read_json(path)["precision"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        # Small and few: where bf16 is emulated, a product takes a hundred times as long.
        a, b = torch.randn(512, 576, device=device).to(dtype), torch.randn(576, 576, device=device).to(dtype)
        runs = []
        for _ in range(7):
            start = time.perf_counter()
            (a @ b).sum().item()
            runs.append(time.perf_counter() - start)
        seconds[dtype] = sorted(runs)[len(runs) // 2]
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    precision = "bf16" if ratio > 1.3 else "fp32"
    write_json(path, {"precision": precision, "bf16_speedup": round(ratio, 2)})
    return precision


SUPERVISED = ("warm_start_learning_rate", "batch_size", "epochs", "lora_rank", "implementation")
PREFERENCE = (
    *("loss", "beta", "label_smoothing", "learning_rate"),
    *("batch_size", "epochs", "lora_rank", "implementation"),
)


def micro_batch(prompts: pd.Series, batch_size: int) -> int:
    """Rows of a forward pass: 1, 2 or 4, about `MICRO_PROMPTS` prompts with all their rows; it divides `batch_size`."""
    rows = MICRO_PROMPTS * max(1, len(prompts) // prompts.nunique())
    return math.gcd(batch_size, 4 if rows >= 4 else 2)


def _arguments(kind, folder: Path, config: AlignmentConfig, seed: int, precision: str, prompts: pd.Series, **extra):
    micro, rows = micro_batch(prompts, config.batch_size), len(prompts)
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    return kind(
        use_cpu=not torch.cuda.is_available(),
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=config.batch_size // micro,
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        lr_scheduler_type="linear",
        warmup_steps=max(1, round(0.1 * config.epochs * rows / config.batch_size)),
        bf16=precision == "bf16",
        gradient_checkpointing=False,
        logging_steps=1,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="sequential",
        max_length=None,
        dataloader_pin_memory=False,
        **extra,
    )


def shuffled_by_prompt(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows with prompts in random order and the rows of a prompt side by side."""
    prompts = table.prompt.unique()
    place = dict(zip(prompts, np.random.default_rng(seed).permutation(len(prompts)), strict=True))
    return table.sort_values("prompt", key=lambda column: column.map(place), kind="stable", ignore_index=True)


def _lora(config: AlignmentConfig) -> LoraConfig:
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end (`trainer_state.json` is written last), or None."""
    found = [p.parent for p in folder.glob("checkpoint-*/trainer_state.json") if p.stat().st_size]
    newest = max(found, key=lambda p: int(p.name.rsplit("-", 1)[1]), default=None)
    return str(newest) if newest else None


def _run(trainer, folder: Path, title: str) -> list[dict]:
    """Train, resuming from the newest whole checkpoint; save the adapter; return the log, one dict a step."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(PlainProgress(title))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        trainer.train(resume_from_checkpoint=complete_checkpoint(folder / "checkpoints"))
    trainer.model.save_pretrained(folder / "adapter")
    return [row for row in trainer.state.log_history if "loss" in row]


def warm_start(policy: Policy, examples: pd.DataFrame, folder: Path, config, seed: int, precision: str) -> list[dict]:
    """Supervised fine-tuning on (prompt, completion) rows, loss on completions only; the adapter is in `folder/adapter`.

    Also rejection-sampling fine-tuning, when the completions are the best of N. Raises `StudyError` without examples.
    """
    if examples.empty:
        raise StudyError("No examples to fine-tune on: give more users or samples.")
    tokenizer = load_tokenizer(policy.model)
    examples = shuffled_by_prompt(examples, seed)
    rows = [
        {"prompt": prompt, "completion": completion + tokenizer.eos_token}
        for prompt, completion in zip(examples.prompt, examples.completion, strict=True)
    ]
    supervised = replace(config, learning_rate=config.warm_start_learning_rate)
    arguments = _arguments(
        SFTConfig, folder, supervised, seed, precision, examples.prompt, completion_only_loss=True, packing=False
    )
    trainer = (PrefixSharedSFTTrainer if config.implementation == "prefix_shared" else SFTTrainer)(
        load_model(policy),
        args=arguments,
        train_dataset=TableDataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_lora(config),
    )
    return _run(trainer, folder, folder.name.rsplit("-", 1)[0])


def dpo_trainer(policy: Policy, pairs: pd.DataFrame, folder: Path, config, seed: int, precision: str) -> DPOTrainer:
    """The trainer of one DPO run on (prompt, chosen, rejected) rows; the reference is `policy` itself.

    Raises `StudyError` without pairs.
    """
    if pairs.empty:
        raise StudyError("No preference pairs: lower alignment.margin or sample more texts a user.")
    shared = config.implementation == "prefix_shared"
    pairs = shuffled_by_prompt(pairs, seed)
    arguments = _arguments(
        DPOConfig,
        folder,
        config,
        seed,
        precision,
        pairs.prompt,
        beta=config.beta,
        loss_type=[config.loss],
        label_smoothing=config.label_smoothing,
        precompute_ref_log_probs=shared,
    )
    return (PrefixSharedDPOTrainer if shared else DPOTrainer)(
        load_model(policy),
        args=arguments,
        train_dataset=TableDataset.from_pandas(pairs[["prompt", "chosen", "rejected"]], preserve_index=False),
        processing_class=load_tokenizer(policy.model),
        peft_config=_lora(config),
    )


def align(policy: Policy, pairs: pd.DataFrame, folder: Path, config, seed: int, precision: str) -> list[dict]:
    """One round of DPO; the adapter is in `folder/adapter`. Returns the log, one dict a step."""
    trainer = dpo_trainer(policy, pairs, folder, config, seed, precision)
    return _run(trainer, folder, folder.name.rsplit("-", 1)[0])


@torch.no_grad()
def completion_log_probs(policy: Policy, prompts: list[str], completions: list[str], batch: int = 8) -> np.ndarray:
    """(n,) log-probability of each completion after its prompt, summed over tokens, in nats, in fp32."""
    model, tokenizer = load_model(policy), load_tokenizer(policy.model)
    out = []
    for start in range(0, len(prompts), batch):
        heads = [tokenizer(p, add_special_tokens=False).input_ids for p in prompts[start : start + batch]]
        tails = [tokenizer(c, add_special_tokens=False).input_ids for c in completions[start : start + batch]]
        width = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        ids = torch.full((len(heads), width), tokenizer.pad_token_id)
        attention, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
            attention[row, : len(head) + len(tail)] = 1
            labels[row, len(head) : len(head) + len(tail)] = torch.tensor(tail)
        ids, attention, labels = (tensor.to(model.device) for tensor in (ids, attention, labels))
        answer = prefix_shared_forward(
            model, tokenizer.pad_token_id, input_ids=ids, attention_mask=attention, labels=labels
        )
        out.append(answer.log_probs.sum(dim=1).cpu().numpy())
    return np.concatenate(out)
