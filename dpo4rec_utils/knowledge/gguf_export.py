"""A policy as a GGUF file.

OpenVINO GenAI silently ignores a PEFT adapter passed to a pipeline built from a GGUF file, so a policy reaches it
merged and written as GGUF.
"""

import functools
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, quants

from dpo4rec_utils import assets
from dpo4rec_utils.files import StudyError, atomic_path, file_sha256, read_json, write_json
from dpo4rec_utils.knowledge.models import gguf_of, readable
from dpo4rec_utils.knowledge.policies import Policy, load_model

# The architectures that OpenVINO GenAI reads from GGUF and whose layout is known here.
ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


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
    copy = assets.cache_folder() / f"gguf-{file_sha256(source)[:12]}.json"
    if not copy.exists():
        with readable("llm.model", str(source)):
            reader = gguf.GGUFReader(source)
        fields = [(f.name, f.contents(), f.types[0], f.types[-1]) for f in reader.fields.values()]
        write_json(copy, {"fields": fields, "tensors": [tensor.name for tensor in reader.tensors]})
    return read_json(copy)


def gguf_obstacle(model: str) -> str | None:
    """Why a model's policies cannot be written as GGUF files, in one clause; None where they can."""
    source = gguf_of(model)
    if source is None:
        return "its base is no GGUF file to take the tokenizer from (llama.cpp's convert_hf_to_gguf.py reads the merged folder)"
    architecture = _architecture(source)
    if architecture not in ARCHITECTURES:
        return f"its architecture, {architecture}, is not among {', '.join(ARCHITECTURES)} (llama.cpp's convert_hf_to_gguf.py reads the merged folder)"
    return None


def _architecture(source: Path) -> str | None:
    return {name: value for name, value, *_ in _read_gguf(source)["fields"]}.get("general.architecture")


def export_gguf(policy: Policy, path: Path, matrices: str = "Q8_0") -> Path:
    """Write the merged policy as GGUF: norms fp32, metadata and tokenizer of the base GGUF.

    matrices: 'Q8_0', half as large, for Ollama and llama.cpp; 'F16', which OpenVINO samples from a tenth faster on a
    CPU (nothing to dequantise) and which is nearer to what DPO trained. Raises `StudyError` where `gguf_obstacle`
    names one.
    """
    obstacle = gguf_obstacle(policy.model)
    if obstacle:
        raise StudyError(
            f"llm.model = {policy.model!r} cannot be written as GGUF: {obstacle}. Set llm.engine: transformers."
        )
    source = gguf_of(policy.model)
    content, architecture = _read_gguf(source), _architecture(source)
    model = load_model(policy)
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
    names = gguf.get_tensor_name_map(ARCHITECTURES[architecture], model.config.num_hidden_layers)
    by_name = {names.get_name(name, try_suffixes=(".weight", ".bias")): w for name, w in weights.items()}
    with atomic_path(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        for name, value, kind, inner in content["fields"]:
            if name in ("general.architecture", "general.file_type") or name.startswith("GGUF."):
                continue
            inner = gguf.GGUFValueType(inner) if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, gguf.GGUFValueType(kind), sub_type=inner)
        writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{matrices}"])
        for name in content["tensors"]:
            config = model.config
            weight = by_name[name]
            if architecture == "llama":
                weight = _gguf_layout(weight, name, config.num_attention_heads, config.num_key_value_heads)
            kind = GGMLQuantizationType.F32 if weight.ndim == 1 else GGMLQuantizationType[matrices]
            writer.add_tensor(name, quants.quantize(weight, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path
