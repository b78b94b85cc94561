"""A policy as a GGUF file.

OpenVINO GenAI silently ignores a PEFT adapter passed to a pipeline built from a GGUF file, so a policy reaches it merged
and written as GGUF.
"""

import functools
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants

from dpo4rec_utils import assets
from dpo4rec_utils.files import StudyError, atomic_path, file_sha256, read_json, write_json
from dpo4rec_utils.knowledge.policies import Policy, gguf_of, load_model
from dpo4rec_utils.store import Stage


def _gguf_layout(weight: np.ndarray, name: str, heads: int, kv_heads: int) -> np.ndarray:
    """Undo transformers' rotary layout: GGUF's llama stores the rows of q and k interleaved."""
    count = {"attn_q.weight": heads, "attn_k.weight": kv_heads}.get(name.split(".", 2)[-1])
    if count is None:
        return weight
    rows, columns = weight.shape
    return weight.reshape(count, 2, rows // count // 2, columns).swapaxes(1, 2).reshape(rows, columns)


@functools.cache
def _read_gguf(source: Path) -> dict:
    """`fields` (name, value, type, type of elements) and names of `tensors` of a GGUF file, kept in the cache: to parse
    the tokenizer's hundred thousand strings takes seconds."""
    kept = assets.cache_folder() / f"gguf-{file_sha256(source)[:12]}.json"
    if not kept.exists():
        reader = gguf.GGUFReader(source)
        fields = [(f.name, f.contents(), f.types[0], f.types[-1]) for f in reader.fields.values()]
        write_json(kept, {"fields": fields, "tensors": [tensor.name for tensor in reader.tensors]})
    return read_json(kept)


def export_gguf(policy: Policy, path: Path, matrices: str = "Q8_0") -> Path:
    """Write the merged policy as GGUF: norms fp32, metadata and tokenizer of the base GGUF.

    matrices: 'Q8_0', half as large, for Ollama and llama.cpp; 'F16', which OpenVINO samples from a tenth faster on a CPU
    (nothing to dequantise) and which is nearer to what DPO trained. Raises `StudyError` if the base has no GGUF file of
    the llama architecture to take the metadata from.
    """
    source = gguf_of(policy.model)
    found = _read_gguf(source) if source else {"fields": []}
    architecture = {name: value for name, value, *_ in found["fields"]}.get("general.architecture")
    if architecture != "llama":
        raise StudyError(
            f"llm.engine = 'openvino' needs a folder with a GGUF file of the llama architecture; {policy.model!r} has "
            f"{architecture or 'none'}. Set llm.engine: transformers."
        )
    model = load_model(policy)
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    by_name = {names.get_name(name, try_suffixes=(".weight",)): w for name, w in weights.items()}
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        for name, value, kind, inner in found["fields"]:
            if name in ("general.architecture", "general.file_type") or name.startswith("GGUF."):
                continue
            inner = gguf.GGUFValueType(inner) if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, gguf.GGUFValueType(kind), sub_type=inner)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{matrices}"])
        for name in found["tensors"]:
            config = model.config
            weight = _gguf_layout(by_name[name], name, config.num_attention_heads, config.num_key_value_heads)
            kind = GGMLQuantizationType.F32 if weight.ndim == 1 else GGMLQuantizationType[matrices]
            writer.add_tensor(name, quants.quantize(weight, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def export_stage(policy: Policy) -> Stage:
    """A policy as GGUF (Q8_0), for Ollama or llama.cpp; read back as its path."""
    name = "dpo4rec-q8_0.gguf"

    def build(folder):
        path = export_gguf(policy, folder / name)
        return {"mib": round(path.stat().st_size / 2**20, 1)}

    return Stage("export", policy.name, {"policy": policy.key}, build, lambda folder: folder / name)
