"""Alignment with trl and peft: supervised warm start, DPO, GRPO as an ablation. trl is called here and in
`trainer_classes` alone.

DPO (Rafailov et al., arXiv 2305.18290, eq. 7): -log sigmoid(beta * [log pi/ref (chosen) - log pi/ref (rejected)]),
with log-probabilities summed over completion tokens. A larger beta keeps the policy closer to the reference; at the
first step policy and reference are the same, the margin is 0 and the loss ln 2 = 0.6931, and the chosen texts' own
beside it where `chosen_weight` is above 0.

`PrefixSharedDPOTrainer` computes each prompt once for all its completions in a batch (packing.py) and the reference
log-probabilities once. So that a user's pairs meet in a batch, rows are shuffled by prompt and read in order.
"""

import functools
import json
import math
import shutil
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset as TableDataset
from datasets import disable_progress_bars
from peft import LoraConfig
from safetensors import safe_open
from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from dpo4rec_utils.alignment.trainer_classes import PrefixSharedDPOTrainer, PrefixSharedSFTTrainer, StockDPOTrainer
from dpo4rec_utils.config import AlignmentConfig, DeviceConfig
from dpo4rec_utils.device import DTYPES, the_device
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.models import load_tokenizer, token_ids, turn_end
from dpo4rec_utils.knowledge.policies import Policy, load_model

disable_progress_bars()

REFERENCE_PAIRS = 16  # of a pass that keeps nothing for a gradient


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


def micro_batch(prompts: pd.Series, batch_size: int, at_once: int = 2) -> int:
    """Rows of a forward pass, a power of two that divides `batch_size`: about `at_once` prompts with two rows each.

    A pass is no larger where a user has more pairs. Gradients are accumulated
    to the batch size.
    """
    rows = at_once * min(2, max(1, len(prompts) // prompts.nunique()))
    return math.gcd(batch_size, 2 ** int(math.log2(rows)))


@dataclass(frozen=True)
class Run:
    """One training: where it writes, its settings, its seed, 'fp32' or 'bf16' arithmetic, and how it computes.

    The adapter is left in `folder/adapter`.
    """

    folder: Path
    config: AlignmentConfig
    seed: int
    precision: str
    device: DeviceConfig = DeviceConfig()

    @property
    def title(self) -> str:
        """What the progress bar says."""
        return self.folder.name.rsplit("-", 1)[0]


def _model(policy: Policy, run: Run):
    return load_model(policy, DTYPES[run.device.training])


def _arguments(kind, run: Run, prompts: pd.Series, **extra):
    config, rows = run.config, len(prompts)
    micro = micro_batch(prompts, config.batch_size, run.device.micro_prompts)
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    settings = {
        "use_cpu": the_device() == "cpu",
        "output_dir": str(run.folder / "checkpoints"),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": config.batch_size // micro,
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "lr_scheduler_type": "linear",
        "warmup_steps": max(1, round(0.1 * config.epochs * rows / config.batch_size)),
        "bf16": run.precision == "bf16",
        "gradient_checkpointing": run.device.gradient_checkpointing,
        "logging_steps": 1,
        "logging_first_step": True,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_steps,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": run.seed,
        "data_seed": run.seed,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": False,
    }
    return kind(**settings | extra)


def shuffled_by_prompt(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows with prompts in random order and the rows of a prompt side by side."""
    prompts = table.prompt.unique()
    place = dict(zip(prompts, np.random.default_rng(seed).permutation(len(prompts)), strict=True))
    return table.sort_values("prompt", key=lambda column: column.map(place), kind="stable", ignore_index=True)


def _lora(config: AlignmentConfig, model) -> LoraConfig:
    lower = range(model.config.get_text_config().num_hidden_layers // 2 if config.lora_layers == "upper_half" else 0)
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        exclude_modules=rf"\D*\.({'|'.join(map(str, lower))})\..*" if lower else None,
        task_type="CAUSAL_LM",
    )


def complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end, or None; what was cut is deleted."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.rsplit("-", 1)[1]), reverse=True):
        if _whole(path):
            return str(path)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _whole(checkpoint: Path) -> bool:
    """Whether everything that training resumes from can be read."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
        with safe_open(checkpoint / "adapter_model.safetensors", "pt") as weights:
            weights.keys()
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            with zipfile.ZipFile(checkpoint / name) as archive:  # as torch.save writes; nothing is unpickled here
                if archive.testzip():
                    return False
    except Exception:  # whatever a library makes of a file that is cut
        return False
    return True


def _train(trainer, run: Run) -> list[dict]:
    """Train, resuming from the newest whole checkpoint; save the adapter; return the log, one dict a step."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(PlainProgress(run.title))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        trainer.train(resume_from_checkpoint=complete_checkpoint(run.folder / "checkpoints"))
    trainer.model.save_pretrained(run.folder / "adapter")
    return [row for row in trainer.state.log_history if "loss" in row]


def pair_rows(model: str, pairs: pd.DataFrame) -> TableDataset:
    """(prompt, chosen, rejected) as `prompt_ids`, `chosen_ids`, `rejected_ids`, a completion with its end."""
    rows = [
        {"prompt_ids": token_ids(load_tokenizer(model), row.prompt)}
        | {f"{side}_ids": _ended(model, getattr(row, side)) for side in ("chosen", "rejected")}
        for row in pairs.itertuples()
    ]
    return TableDataset.from_list(rows)


def example_rows(model: str, examples: pd.DataFrame) -> TableDataset:
    """(prompt, completion) as `input_ids` and `labels`, -100 on the prompt."""
    rows = []
    for prompt, completion in zip(examples.prompt, examples.completion, strict=True):
        head, tail = token_ids(load_tokenizer(model), prompt), _ended(model, completion)
        rows.append({"input_ids": head + tail, "labels": [-100] * len(head) + tail})
    return TableDataset.from_list(rows)


def _ended(model: str, completion: str) -> list[int]:
    return [*token_ids(load_tokenizer(model), completion), turn_end(model)]


def fine_tune(policy: Policy, examples: pd.DataFrame, run: Run) -> list[dict]:
    """Supervised fine-tuning on (prompt, completion) rows, loss on completions only.

    The warm start, and the controls that imitate: the best of N, or templates. Raises `StudyError` without examples.
    """
    if examples.empty:
        raise StudyError("No examples to fine-tune on: give more users or samples.")
    tokenizer = load_tokenizer(policy.model)
    examples = shuffled_by_prompt(examples, run.seed)
    arguments = _arguments(
        SFTConfig,
        run,
        examples.prompt,
        max_length=None,
        packing=False,
    )
    model = _model(policy, run)
    trainer = (PrefixSharedSFTTrainer if run.config.implementation == "prefix_shared" else SFTTrainer)(
        model,
        args=arguments,
        train_dataset=example_rows(policy.model, examples),
        processing_class=tokenizer,
        peft_config=_lora(run.config, model),
    )
    return _train(trainer, run)


def dpo_trainer(policy: Policy, pairs: pd.DataFrame, run: Run) -> DPOTrainer:
    """The trainer of one DPO run on (prompt, chosen, rejected) rows; the reference is `policy` itself.

    Raises `StudyError` without pairs.
    """
    if pairs.empty:
        raise StudyError(
            "No preference pairs: no user has two texts of unequal reward; sample more texts a user (llm.train_samples)."
        )
    config, shared = run.config, run.config.implementation == "prefix_shared"
    pairs = shuffled_by_prompt(pairs, run.seed)
    arguments = _arguments(
        DPOConfig,
        run,
        pairs.prompt,
        max_length=None,
        beta=config.beta,
        # Preferring alone lets the likelihood of both texts fall; the second term holds that of the chosen one (Pang
        # et al., Iterative Reasoning Preference Optimization, arXiv 2404.19733).
        loss_type=[config.loss] + (["sft"] if config.chosen_weight else []),
        loss_weights=[1.0] + ([config.chosen_weight] if config.chosen_weight else []),
        label_smoothing=config.label_smoothing,
        precompute_ref_log_probs=shared or config.length_margin > 0,
        precompute_ref_batch_size=REFERENCE_PAIRS,
    )
    tokenizer, model = load_tokenizer(policy.model), _model(policy, run)
    return (PrefixSharedDPOTrainer if shared else StockDPOTrainer)(
        model,
        args=arguments,
        length_margin=config.length_margin,
        train_dataset=pair_rows(policy.model, pairs),
        processing_class=tokenizer,
        peft_config=_lora(run.config, model),
    )


def dpo(policy: Policy, pairs: pd.DataFrame, run: Run) -> list[dict]:
    """One round of DPO. Returns the log, one dict a step."""
    trainer = dpo_trainer(policy, pairs, run)
    return _train(trainer, run)


def grpo(policy: Policy, groups: pd.DataFrame, run: Run) -> list[dict]:
    """GRPO (Shao et al., arXiv 2402.03300) on rows of prompt, texts and rewards.

    Every text weighs by its reward less the mean of its prompt's texts, over their deviation; one without a reward
    weighs nothing. The texts are not sampled anew but those that DPO's pairs are made of, in as many steps as
    `config.pairs` pairs take (an equal budget of samples), and taken as the policy's own at every step. No penalty
    for leaving the reference. Raises `StudyError` without groups.
    """
    if groups.empty:
        raise StudyError("No rewarded texts for GRPO: sample more texts a user.")
    groups, config = shuffled_by_prompt(groups.drop_duplicates("prompt"), run.seed), run.config
    count = len(groups.texts.iloc[0])
    prompts_a_step = max(1, min(len(groups), round(len(groups) * config.batch_size / config.pairs)))
    arguments = _arguments(
        GRPOConfig,
        run,
        groups.prompt,
        per_device_train_batch_size=count,
        gradient_accumulation_steps=prompts_a_step,
        warmup_steps=max(1, round(0.1 * config.epochs * len(groups) / prompts_a_step)),
        num_generations=count,
        loss_type="grpo",
        beta=0.0,
        shuffle_dataset=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rollout_func.*")
        model = _model(policy, run)
        trainer = GRPOTrainer(
            model,
            reward_funcs=_stored_reward,
            rollout_func=functools.partial(_stored_texts, policy.model, groups.set_index("prompt")),
            args=arguments,
            train_dataset=TableDataset.from_pandas(groups[["prompt"]], preserve_index=False),
            processing_class=load_tokenizer(policy.model),
            peft_config=_lora(run.config, model),
        )
    return _train(trainer, run)


def _stored_texts(model: str, groups: pd.DataFrame, prompts: list[str], trainer) -> dict:
    """trl's `rollout_func`: a prompt stands in `prompts` once for each of its texts."""
    tokenizer, turn = load_tokenizer(model), Counter()
    out = {"prompt_ids": [], "completion_ids": [], "logprobs": None, "reward": []}
    for prompt in prompts:
        row, number = groups.loc[prompt], turn[prompt]
        turn[prompt] += 1
        out["prompt_ids"].append(token_ids(tokenizer, prompt))
        out["completion_ids"].append(_ended(model, row.texts[number]))
        out["reward"].append(row.rewards[number])
    return out


def _stored_reward(reward: list, **_) -> list:
    """trl's reward function: what `_stored_texts` handed over."""
    return reward
