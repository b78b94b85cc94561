"""Sentence encoder: texts to unit vectors, in length-sorted batches, each distinct text once.

Default all-MiniLM-L6-v2 (Wang et al., MiniLM, arXiv 2002.10957; mean pooling as its model card says).
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from dpo4rec_utils import assets
from dpo4rec_utils.config import EncoderConfig
from dpo4rec_utils.files import StudyError, atomic_path
from dpo4rec_utils.keys import content_key


class TextEncoder:
    """Encode texts with a memory on disk: `folder/vectors.npz` maps each distinct text (by hash) to its vector."""

    def __init__(self, config: EncoderConfig, folder: Path):
        self.config = config
        self.path = folder / "vectors.npz"
        self.memory: dict[str, np.ndarray] = {}
        if self.path.exists():
            with np.load(self.path) as saved:
                self.memory = dict(zip(saved["keys"].tolist(), saved["vectors"], strict=True))
        self._model = None

    def encode(self, texts: Iterable[str], title: str = "encode") -> np.ndarray:
        """(n, d) float32, rows of unit length. An empty text is encoded as it is."""
        texts = list(texts)
        keys = [content_key(text) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self.memory}
        if new:
            self._compute(new, title)
        return np.stack([self.memory[key] for key in keys]).astype(np.float32)

    def _load(self):
        model = self.config.model
        source = assets.fetch("minilm") if model == "embedded" else model
        transformers_logging.disable_progress_bar()
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source)
            self._model = AutoModel.from_pretrained(source, dtype=torch.float32).eval()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise StudyError(
                f"encoder.model = {model!r} could not be loaded ({reason}); check it or connect."
            ) from None
        if torch.cuda.is_available():
            self._model.cuda()

    @torch.inference_mode()
    def _compute(self, new: dict[str, str], title: str) -> None:
        if self._model is None:
            self._load()
        ordered = sorted(new.items(), key=lambda pair: (len(pair[1]), pair[0]))
        size = self.config.batch_size
        for start in tqdm(range(0, len(ordered), size), desc=title, unit="batch"):
            keys, texts = zip(*ordered[start : start + size], strict=True)
            batch = self._tokenizer(
                list(texts),
                padding=True,
                truncation=True,
                max_length=self.config.max_tokens,
                return_tensors="pt",
                split_special_tokens=True,  # "[SEP]" in a title is five letters, no end of a sentence
            ).to(self._model.device)
            states = self._model(**batch).last_hidden_state
            if self.config.pooling == "cls":
                pooled = states[:, 0]
            else:
                weight = batch["attention_mask"].unsqueeze(-1)
                pooled = (states * weight).sum(1) / weight.sum(1)
            unit = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
            self.memory.update(zip(keys, unit, strict=True))
        with atomic_path(self.path) as temporary:
            np.savez(temporary, keys=np.array(list(self.memory)), vectors=np.stack(list(self.memory.values())))
