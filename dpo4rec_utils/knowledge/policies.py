"""Policies: the base LLM and the LoRA adapters merged into it, one after another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError

from dpo4rec_utils import assets
from dpo4rec_utils.arms import Choices
from dpo4rec_utils.config import LLMConfig
from dpo4rec_utils.device import the_device
from dpo4rec_utils.files import StudyError, file_sha256, read_json
from dpo4rec_utils.keys import content_key
from dpo4rec_utils.knowledge.models import load_base


@dataclass(frozen=True)
class Policy(Choices):
    """A language model: the base named by `model` with `adapters` (folders) merged in this order.

    `key` identifies the weights by content, so texts are never reused for another policy of the same name.
    `rewarded`: whether its texts become pairs, so that some train users get more of them; `round`: the rounds of a
    loop behind it. `users`: whom it is asked about, all or one split; `prompt`: by which user template of the
    domain, None: the configuration's. `draw`: 0, or the number of another draw of its texts.
    """

    name: str
    model: str
    adapters: tuple[Path, ...] = ()
    rewarded: bool = False
    round: int = 0
    users: Literal["all", "validation"] = "all"
    prompt: str | None = None
    draw: int = 0

    @property
    def key(self) -> str:
        """Hash of the base model's identity, and of every adapter's weights and settings (which scale them)."""
        return content_key([assets.weights_identity(self.model, "llm"), *map(_adapter_identity, self.adapters)])

    def extended(self, name: str, adapter: Path, **fields) -> "Policy":
        """This policy's weights with one more adapter on top; `fields` are the new policy's own."""
        return Policy(name, self.model, (*self.adapters, adapter), **fields)


def _adapter_identity(adapter: Path) -> list:
    """Weights by hash, and the settings that scale them; sets of names are written in any order."""
    settings = read_json(adapter / "adapter_config.json")
    plain = {k: sorted(v) if isinstance(v, list) else v for k, v in settings.items() if k != "base_model_name_or_path"}
    return [file_sha256(adapter / "adapter_model.safetensors"), plain]


def base_policy(config: LLMConfig) -> Policy:
    """The LLM as it comes: the zero-shot arm."""
    return Policy("zero_shot", config.model, rewarded=True)


def load_model(policy: Policy, dtype=torch.float32):
    """The policy as one dense model (adapters merged), where models compute.

    Raises `StudyError` for a base that cannot be loaded and for an adapter of another base.
    """
    model = load_base(policy.model, dtype)
    for adapter in policy.adapters:
        model = _merged(model, adapter)
    return model.to(the_device()).eval()


def _merged(model, adapter: Path):
    from peft import PeftModel  # here, because it takes seconds to import and half of the notebooks load no adapter

    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StudyError(
            f"The adapter {adapter} is of another base model or damaged: {reason}; train it again."
        ) from None
