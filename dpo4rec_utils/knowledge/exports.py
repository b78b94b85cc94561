"""Policies to take home: merged weights, one PEFT adapter, and a GGUF file where the architecture has one."""

from pathlib import Path

from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.gguf_export import export_gguf, gguf_obstacle
from dpo4rec_utils.knowledge.models import load_base, load_tokenizer
from dpo4rec_utils.knowledge.policies import Policy, load_model
from dpo4rec_utils.store import Stage

GGUF = "dpo4rec-q8_0.gguf"


def save_merged(policy: Policy, folder: Path) -> Path:
    """Weights with all adapters merged, and the tokenizer, as `save_pretrained` writes them: transformers and
    servers read the folder."""
    load_model(policy).save_pretrained(folder)
    load_tokenizer(policy.model).save_pretrained(folder)
    return folder


def save_adapter(policy: Policy, folder: Path) -> Path:
    """All adapters of a policy as one PEFT adapter of the base LLM: their ranks add up, their sum is the same.

    Raises `StudyError` for a policy without adapters.
    """
    from peft import PeftModel

    if not policy.adapters:
        raise StudyError(f"{policy.name} is the LLM as it comes and has no adapter.")
    names = [f"part_{number}" for number in range(len(policy.adapters))]
    model = PeftModel.from_pretrained(load_base(policy.model), policy.adapters[0], adapter_name=names[0])
    for name, adapter in zip(names[1:], policy.adapters[1:], strict=True):
        model.load_adapter(adapter, name)
    model.add_weighted_adapter(names, [1.0] * len(names), "all", combination_type="cat")
    for name, weight in model.named_parameters():
        if ".all." in name:  # zeros where an adapter leaves a layer alone, of a sign that peft leaves to chance
            weight.data.add_(0.0)
    model.save_pretrained(folder, selected_adapters=["all"])
    return folder / "all"


def export_stage(policy: Policy) -> Stage:
    """A policy as `merged/`, `adapter/all/` and a GGUF file (Q8_0, for Ollama and llama.cpp); read back as their
    folder.

    The record says why there is no GGUF file, where there is none.
    """

    def build(folder):
        save_merged(policy, folder / "merged")
        if policy.adapters:
            save_adapter(policy, folder / "adapter")
        obstacle = gguf_obstacle(policy.model)
        if obstacle is None:
            export_gguf(policy, folder / GGUF)
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".gguf"))
        sizes = {path.relative_to(folder).as_posix(): round(path.stat().st_size / 2**20, 1) for path in files}
        return {"mib": sizes, "no_gguf": obstacle}

    return Stage("export", policy.name, {"policy": policy.key}, build)
