"""The sentence encoder against the libraries: pooling, prompts, control words, and vectors that depend on their text
alone."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from transformers import AutoModel, AutoTokenizer

from dpo4rec_utils import assets
from dpo4rec_utils.config import EncoderConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge import encoder as encoder_module
from dpo4rec_utils.knowledge.encoder import TextEncoder
from tests.made_models import made_model

TEXTS = ["crime dramas", "a much longer text about slow crime dramas from the nineties", "crime dramas", ""]


def by_hand(text: str) -> np.ndarray:
    """MiniLM's vector as its model card says: the mean over tokens, unit length; control words are text."""
    folder = assets.fetch("minilm")
    asked = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", split_special_tokens=True)
    assert sum(i in (101, 102, 103) for i in asked.input_ids[0].tolist()) == 2
    with torch.inference_mode():
        states = AutoModel.from_pretrained(folder)(**asked).last_hidden_state[0].mean(0).numpy()
    return states / np.linalg.norm(states)


def test_minilm_by_hand_and_from_memory(tmp_path):
    encoder = TextEncoder(EncoderConfig(), tmp_path)
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, 384) and vectors.dtype == np.float32 and (vectors[0] == vectors[2]).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    again = TextEncoder(EncoderConfig(), tmp_path)
    again._compute = lambda *_: pytest.fail("everything is in memory")
    assert (again.encode(TEXTS) == vectors).all()
    for text in (TEXTS[1], "", "crime [SEP] drama", "[MASK]"):
        assert np.allclose(by_hand(text), encoder.encode([text])[0], atol=1e-5), text


def test_vectors_are_kept_as_they_come_and_by_all_who_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_module, "SHARD", 2)
    monkeypatch.setattr(encoder_module, "load_encoder", lambda _: SimpleNamespace(tokenizer=tokens))
    monkeypatch.setattr(encoder_module, "control_words", lambda _: ())

    def tokens(text):
        return SimpleNamespace(input_ids=[0] * len(text))

    def encoded(self, texts):
        if "stop" in texts:
            raise KeyboardInterrupt
        return np.array([[float(len(text))] for text in texts], np.float32)

    monkeypatch.setattr(TextEncoder, "_encoded", encoded)
    first, second = (TextEncoder(EncoderConfig(batch_size=1), tmp_path) for _ in range(2))
    first.encode(["a"])
    second.encode(["bb"])
    with pytest.raises(KeyboardInterrupt):
        first.encode(["ccc", "ddd", "stop"])
    again = TextEncoder(EncoderConfig(), tmp_path)
    assert sorted(float(vector[0]) for vector in again.memory.values()) == [1, 2, 3, 3], "four of five, by two encoders"


def test_a_vector_depends_on_its_text_alone(tmp_path):
    """Bit by bit, whatever was encoded with it or before it."""
    rng = np.random.default_rng(0)
    words = [
        "crime",
        "drama",
        "slow",
        "films",
        "the",
        "and",
        "Heat",
        "Alien",
        "romance",
        "comedy",
        "nineties",
        "viewer",
        "enjoys",
        "with",
        "stories",
    ]
    texts = list(dict.fromkeys(" ".join(rng.choice(words, rng.integers(1, 12))) for _ in range(120)))
    together = TextEncoder(EncoderConfig(), tmp_path / "a").encode(texts)
    order = rng.permutation(len(texts))[:40]
    few, apart = TextEncoder(EncoderConfig(), tmp_path / "b"), []
    for part in np.array_split(order, 7):
        apart.append(few.encode([texts[i] for i in part]))
    assert (np.concatenate(apart) == together[order]).all()


@pytest.fixture(scope="module")
def last_token(tmp_path_factory):
    """An encoder that reads the last token, with prompts and without normalisation, as several of the newer ones do."""
    folder = tmp_path_factory.mktemp("encoder")
    words = modules.Transformer(made_model("qwen", folder / "llm"))
    words.tokenizer.pad_token = words.tokenizer.eos_token
    made = SentenceTransformer(
        modules=[words, modules.Pooling(32, "lasttoken")],
        prompts={"query": "Describe: ", "document": ""},
        default_prompt_name="query",
        device="cpu",
    )
    made.save(str(folder / "saved"))
    return folder / "saved", made


@pytest.mark.parametrize("prompt", [None, "document"])
def test_another_encoder_is_what_the_library_makes_of_it(last_token, prompt, tmp_path):
    folder, made = last_token
    ours = TextEncoder(EncoderConfig(model=str(folder), prompt=prompt), tmp_path).encode(TEXTS)
    assert np.allclose(ours, made.encode(TEXTS, prompt_name=prompt), atol=1e-5)
    assert not np.allclose(np.linalg.norm(ours, axis=1), 1, atol=0.1), "its configuration normalises nothing"
    other = TextEncoder(EncoderConfig(model=str(folder), prompt="document" if prompt is None else None), tmp_path / "o")
    assert not np.allclose(ours[0], other.encode(TEXTS)[0], atol=1e-3), "the prompt changes nothing"


BROKEN = {
    "a pickle": (lambda f: (f / "1_Pooling" / "pytorch_model.bin").write_bytes(b"x"), "a pickle, which can run code"),
    "no modules": (lambda f: (f / "modules.json").unlink(), "no modules.json"),
    "no tokenizer": (lambda f: [path.unlink() for path in f.rglob("tokenizer*")], "has no tokenizer"),
    "no weights": (lambda f: [path.unlink() for path in f.rglob("*.safetensors")], "could not be loaded"),
    "cut weights": (lambda f: next(f.rglob("*.safetensors")).write_bytes(b"x" * 99), "cut or damaged"),
    "cut modules": (lambda f: (f / "modules.json").write_text("[{"), "could not be loaded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_encoder_is_one_sentence(case, last_token, tmp_path):
    folder = shutil.copytree(last_token[0], tmp_path / "encoder")
    breaks, expected = BROKEN[case]
    breaks(folder)
    with pytest.raises(StudyError, match=expected) as error:
        TextEncoder(EncoderConfig(model=str(folder)), tmp_path / "v").encode(["x"])
    assert "\n" not in str(error.value) and "encoder.model" in str(error.value)


def test_names_that_nothing_has_are_one_sentence(last_token, tmp_path):
    with pytest.raises(StudyError, match="no prompt of .* it has: query, document"):
        TextEncoder(EncoderConfig(model=str(last_token[0]), prompt="passage"), tmp_path).encode(["x"])
    for name in ("./nowhere", "a/b/c", "nobody/nothing"):
        with pytest.raises(StudyError, match="encoder.model") as error:
            TextEncoder(EncoderConfig(model=name), tmp_path).encode(["x"])
        assert "\n" not in str(error.value)
