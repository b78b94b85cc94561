"""Policies: the base LLM and the LoRA adapters merged into it, one after another."""

import functools
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging

from dpo4rec_utils import assets
from dpo4rec_utils.config import LLMConfig
from dpo4rec_utils.files import StudyError, file_sha256, read_json, write_json
from dpo4rec_utils.keys import content_key


@dataclass(frozen=True)
class Policy:
    """A language model: the base named by `model` with `adapters` (folders) merged in this order.

    `key` identifies the weights by content, so texts are never reused for another policy of the same name. `rewarded`:
    whether its texts become pairs, so that some train users get more of them; `round`: the DPO rounds behind it.
    """

    name: str
    model: str
    adapters: tuple[Path, ...] = ()
    rewarded: bool = False
    round: int = 0

    @property
    def key(self) -> str:
        """Hash of the base model's identity, and of every adapter's weights and settings (which scale them)."""
        base = assets.weights_identity(self.model, "smollm2")
        return content_key(
            [
                base,
                *(
                    file_sha256(a / name)
                    for a in self.adapters
                    for name in ("adapter_model.safetensors", "adapter_config.json")
                ),
            ]
        )

    def extended(self, name: str, adapter: Path, rewarded: bool = False, round: int = 0) -> "Policy":
        """This policy with one more adapter on top."""
        return Policy(name, self.model, (*self.adapters, adapter), rewarded, round)


def base_policy(config: LLMConfig) -> Policy:
    """The LLM as it comes: the zero-shot arm."""
    return Policy("zero_shot", config.model, rewarded=True)


def gguf_of(model: str) -> Path | None:
    """The GGUF file that a model comes as, or None."""
    folder = assets.fetch("smollm2") if model == "embedded" else Path(model)
    files = sorted(folder.glob("*.gguf")) if folder.is_dir() else []
    return files[0] if files else None


def dense_folder(model: str) -> str:
    """Where `from_pretrained` finds dense weights: a GGUF is dequantised once and kept as safetensors in the cache."""
    source = gguf_of(model)
    if source is None or (source.parent / "config.json").exists():
        return model
    target = assets.cache_folder() / f"dense-{file_sha256(source)[:12]}"
    if not (target / "config.json").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".dense-"))
        try:
            options = {"gguf_file": source.name}
            dense = AutoModelForCausalLM.from_pretrained(
                source.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **options
            )
            dense.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(source.parent, **options).save_pretrained(temporary)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return str(target)


@functools.cache
def load_tokenizer(model: str):
    """The tokenizer of a model, pad token set (the end-of-turn token where it has none)."""
    tokenizer = AutoTokenizer.from_pretrained(_known(model))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def token_ids(tokenizer, text: str) -> list[int]:
    """The tokens of a prompt or a completion as it stands: whatever begins a text, the chat template has written."""
    return tokenizer(text, add_special_tokens=False).input_ids


def _known(model: str) -> str:
    folder = dense_folder(model)
    if not Path(folder).exists() and (folder.startswith((".", "/", "~")) or folder.count("/") != 1):
        raise StudyError(f"llm.model = {model!r} is no local folder and no Hub id (owner/name).")
    return folder


def load_model(policy: Policy, dtype=torch.float32):
    """The policy as one dense model (adapters merged), on the CPU or, where there is one, on the GPU."""
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(_known(policy.model), dtype=dtype)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StudyError(
            f"llm.model = {policy.model!r} could not be loaded ({reason}); check the name or connect."
        ) from None
    if policy.adapters:
        from peft import PeftModel  # here, because it takes seconds to import and half of the notebooks load no adapter
    for adapter in policy.adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.to(device).eval()


def fast_precision(path: Path) -> str:
    """'bf16' or 'fp32', whichever multiplies matrices faster here by a clear margin (1.5x); timed once, kept in `path`."""
    if path.exists():
        return read_json(path)["precision"]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        # Small and few: where bf16 is emulated, a product takes a hundred times as long.
        a, b = torch.randn(512, 576, device=device).to(dtype), torch.randn(576, 576, device=device).to(dtype)
        runs = []
        for _ in range(15):
            start = time.perf_counter()
            (a @ b).sum().item()
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs)  # what other programs add to a run is no part of it
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    precision = "bf16" if ratio > 1.5 else "fp32"
    write_json(path, {"precision": precision, "bf16_speedup": round(ratio, 2)})
    return precision
