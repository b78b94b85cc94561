"""Causal language models and their tokenizers, from the asset, a folder or the Hub, and one sentence for each that
cannot be used.

Only safetensors and GGUF are read, never code or pickles of a model's repository.
"""

import functools
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import get_safetensors_metadata
from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
from transformers.utils import logging as transformers_logging

from dpo4rec_utils import assets
from dpo4rec_utils.device import free_memory
from dpo4rec_utils.files import StudyError, file_sha256, partial_folder, read_json, sweep
from dpo4rec_utils.locks import LOCKS, alone

NO_CODE = {"trust_remote_code": False}  # left out, transformers would ask on the terminal
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")


@contextmanager
def readable(key: str, model: str):
    """Turn whatever a library raises while it loads `model`, the value of the setting `key`, into one sentence."""
    try:
        yield
    except (StudyError, MemoryError):
        raise
    except Exception as error:
        raise StudyError(f"{key} = {model!r} could not be loaded: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What went wrong and a way out."""
    text = " ".join(str(error).split())
    if "gated repo" in text or "awaiting a review" in text:
        return "it is gated; accept its licence on the Hub and set HF_TOKEN."
    if any(
        part in text for part in ("couldn't connect", "not the path to a directory", "is not a local folder", "offline")
    ):
        return "the Hub cannot be reached and it is not in the cache; connect, or name a folder."
    if any(part in text for part in ("is not a valid model identifier", "Repository Not Found", "404 Client Error")):
        return "the Hub has no such model; check the name."
    if type(error).__name__ == "SafetensorError":
        return f"its weights are cut or damaged ({text[:80]}); copy or download them again."
    return f"{text[:200] or type(error).__name__}; see the model's card, or give another model."


def source_of(model: str) -> str | Path:
    """The folder of an embedded or local model, or the Hub id. Raises `StudyError` for what can be neither."""
    if model in assets.EMBEDDED["llm"]:
        return assets.fetch(assets.EMBEDDED["llm"][model])
    path = Path(model).expanduser()
    if path.is_file():
        raise StudyError(f"llm.model = {model!r} is a file; name the folder that holds it.")
    if path.is_dir():
        return path
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise StudyError(f"llm.model = {model!r} is no local folder and no Hub id (owner/name).")
    return model


def gguf_of(model: str) -> Path | None:
    """The GGUF file that a model comes as, or None; `StudyError` where its folder holds several."""
    folder = source_of(model)
    files = sorted(folder.glob("*.gguf")) if isinstance(folder, Path) else []
    if len(files) > 1:
        raise StudyError(f"llm.model = {model!r} holds {len(files)} GGUF files; leave one in the folder.")
    return files[0] if files else None


@functools.cache
def dense_source(model: str) -> str:
    """Where `from_pretrained` finds dense weights: a GGUF is dequantised once and kept as safetensors in the cache."""
    source, folder = gguf_of(model), source_of(model)
    if source is None or (source.parent / "config.json").exists():
        if isinstance(folder, Path):
            _check_folder(model, folder)
        return str(folder)
    target = assets.cache_folder() / f"dense-{file_sha256(source)[:12]}"
    if not assets.is_whole(target):
        lock = assets.cache_folder() / LOCKS / f"{target.name}.lock"
        with alone(lock, f"the dense weights of {model}", wait=math.inf):
            assets.is_whole.cache_clear()
            if not assets.is_whole(target):
                _keep_dense(model, source, target)
    return str(target)


def _keep_dense(model: str, source: Path, target: Path) -> None:
    sweep(target.parent, least_age=assets.DAY)
    shutil.rmtree(target, ignore_errors=True)
    with partial_folder(target.parent) as temporary:
        with readable("llm.model", model):
            _dequantise(source, temporary)
        assets.seal(temporary)
        assets.is_whole.cache_clear()
        os.replace(temporary, target)


def _dequantise(source: Path, target: Path) -> None:
    options = {"gguf_file": source.name}
    quantised = GgufConfig(dequantize=True)
    dense = AutoModelForCausalLM.from_pretrained(
        source.parent, quantization_config=quantised, dtype=torch.float32, **NO_CODE, **options
    )
    dense.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, **NO_CODE, **options).save_pretrained(target)


def _check_folder(model: str, folder: Path) -> None:
    """A folder that transformers would read in part, or fill with random numbers or an empty vocabulary, is an
    error."""
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        missing.append("a tokenizer (tokenizer.json or tokenizer.model)")
    if not any(folder.glob("*.safetensors")):
        missing.append("weights (*.safetensors)")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = read_json(index).get("weight_map", {}).values()
        missing += sorted({str(part) for part in parts if not _is_part(folder, part)})[:1]
    if missing:
        raise StudyError(
            f"llm.model = {model!r} lacks {' and '.join(missing)}; copy the whole model, or save it with save_pretrained."
        )


def _is_part(folder: Path, name) -> bool:
    """Whether a part of the weights is a safetensors file of this folder: never a pickle, never elsewhere."""
    return (
        isinstance(name, str)
        and name == Path(name).name
        and name.endswith(".safetensors")
        and (folder / name).is_file()
    )


@functools.cache
def load_tokenizer(model: str):
    """The tokenizer of a model, pad token set (the end token where it has none)."""
    with readable("llm.model", model):
        tokenizer = AutoTokenizer.from_pretrained(dense_source(model), **NO_CODE)
    if tokenizer.eos_token is None:
        raise StudyError(f"llm.model = {model!r} has a tokenizer without an end token; set its eos_token and save it.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def token_ids(tokenizer, text: str) -> list[int]:
    """The tokens of a prompt or a completion as it stands: whatever begins a text, `prompts.render` has written."""
    return tokenizer(text, add_special_tokens=False).input_ids


@functools.cache
def end_tokens(model: str) -> tuple[int, ...]:
    """The tokens at which a model stops: those of its generation configuration, and its tokenizer's end token."""
    source, tokenizer = dense_source(model), load_tokenizer(model)
    settings = Path(source) / "generation_config.json"
    if settings.is_file():  # transformers takes one that is cut for an absent one
        read_json(settings)
    try:
        ends = GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:  # it has none; its weights' configuration, which old models have instead, may
        with readable("llm.model", model):
            ends = GenerationConfig.from_model_config(_config(source)).eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    if not all(end is None or (type(end) is int and 0 <= end < len(tokenizer)) for end in ends):
        raise StudyError(
            f"llm.model = {model!r} names end tokens {str(ends)[:80]}, which are no tokens; mend its files."
        )
    return tuple(sorted({tokenizer.eos_token_id, *ends} - {None}))


def _config(source: str):
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(source, **NO_CODE)


@functools.cache
def turn_end(model: str) -> int:
    """The token that ends a completion in training: what the chat template writes behind an answer, where it is an
    end token."""
    tokenizer = load_tokenizer(model)
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        behind = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("answer")[2]
        for token in token_ids(tokenizer, behind):
            if token in end_tokens(model):
                return token
    return tokenizer.eos_token_id


def parameters(model: str) -> int | None:
    """How many numbers a model's weights hold, read from their headers; None where the Hub does not say."""
    source = dense_source(model)
    if not Path(source).is_dir():
        try:
            return sum(get_safetensors_metadata(source).parameter_count.values())
        except (OSError, HfHubHTTPError, NotASafetensorsRepoError):
            return None
    count = 0
    for path in sorted(Path(source).glob("*.safetensors")):
        with readable("llm.model", model), safe_open(path, "pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count


def _require_room(model: str, dtype: torch.dtype) -> None:
    """Say what a model needs before it is loaded, where that is more than is free."""
    need, free = (parameters(model) or 0) * dtype.itemsize / 2**30, free_memory()
    if need > free:
        raise StudyError(
            f"llm.model = {model!r} needs {need:.1f} GiB for its weights and {free:.1f} GiB are free; set device.training and "
            "device.sampling to bfloat16, close other programs, or take a smaller model."
        )


def load_base(model: str, dtype=torch.float32):
    """The model on the CPU, in evaluation mode.

    Raises `StudyError` for one that is damaged, partial, no causal LM, or larger than the memory that is free.
    """
    transformers_logging.disable_progress_bar()
    source = dense_source(model)
    _require_room(model, dtype)
    with readable("llm.model", model):
        loaded, loading = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, **NO_CODE
        )
    if absent := sorted(loading["missing_keys"]):
        raise StudyError(
            f"llm.model = {model!r} is no whole causal language model: it lacks {absent[0]} and {len(absent) - 1} more."
        )
    vocabulary, rows = len(load_tokenizer(model)), loaded.get_input_embeddings().weight.shape[0]
    if vocabulary > rows:
        raise StudyError(
            f"llm.model = {model!r} has a tokenizer of {vocabulary} tokens and weights for {rows}; they are of two models."
        )
    broken = next((name for name, weight in loaded.named_parameters() if not weight.isfinite().all()), None)
    if broken:
        raise StudyError(
            f"llm.model = {model!r} has weights that are no numbers ({broken}); copy or download it again."
        )
    return loaded.eval()
