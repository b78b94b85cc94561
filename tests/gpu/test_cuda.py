"""LLM, encoder, re-rankers and alignment on a CUDA device, against the CPU; skipped, loudly, where there is none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import papermill
import pytest
import torch

from dpo4rec_utils import device, store
from dpo4rec_utils.alignment import log_probs, trainers
from dpo4rec_utils.config import AlignmentConfig, Config, DeviceConfig, EncoderConfig
from dpo4rec_utils.execute import KERNEL, install_kernel
from dpo4rec_utils.files import project_root
from dpo4rec_utils.knowledge import policies
from dpo4rec_utils.knowledge.encoder import TextEncoder
from dpo4rec_utils.knowledge.engines import open_sampler
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.metrics import log_likelihood
from dpo4rec_utils.rerankers import training
from tests.equivalence.test_rerankers import made_task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
BASE = Policy("zero_shot", "embedded")
PROMPTS = ["<|im_start|>user\nMovies liked: Heat.<|im_end|>\n<|im_start|>assistant\nThis viewer enjoys"] * 2


def on_the_cpu(patch):
    for module in (device, policies, training):
        patch.setattr(module, "the_device", lambda: "cpu")
    patch.setattr("dpo4rec_utils.knowledge.encoder.the_device", lambda: "cpu")


def test_the_policy_is_on_the_device_samples_and_is_named(tmp_path):
    config = Config(profile="made")
    config = config.changed(llm=config.llm.changed(engine="transformers", max_new_tokens=8))
    sampler = open_sampler(BASE, config, tmp_path)
    assert sampler.model.device.type == "cuda" and sampler.model.dtype == torch.bfloat16
    first = sampler.sample(PROMPTS, [4, 4], [1, 2])
    assert first == sampler.sample(PROMPTS, [4, 4], [1, 2]) and len(first[0]) == 4
    assert torch.cuda.get_device_name() in store.environment()["device"]


def test_log_probabilities_equal_those_of_the_cpu():
    texts = [" crime.", " slow films and more."]
    ours = log_probs.completion_log_probs(BASE, PROMPTS, texts)
    with pytest.MonkeyPatch.context() as patch:
        on_the_cpu(patch)
        assert np.allclose(ours, log_probs.completion_log_probs(BASE, PROMPTS, texts), atol=1e-2)


def test_vectors_equal_those_of_the_cpu(tmp_path):
    texts = ["crime dramas", "a much longer text about slow crime dramas from the nineties", ""]
    ours = TextEncoder(EncoderConfig(), tmp_path / "gpu").encode(texts)
    with pytest.MonkeyPatch.context() as patch:
        on_the_cpu(patch)
        assert np.allclose(ours, TextEncoder(EncoderConfig(), tmp_path / "cpu").encode(texts), atol=1e-4)


@pytest.mark.parametrize("backbone", ["dlcm", "prm", "setrank", "mir", "dasalc"])
def test_a_reranker_scores_and_trains_as_on_the_cpu(backbone):
    task = made_task(backbone)
    task = replace(task, config=task.config.changed(text_dropout=0.0))  # what is dropped differs by device
    trained = training.train_reranker(task)
    scores = training.score_lists(training.load_reranker(task, trained), task, task.validation)
    assert log_likelihood(scores, task.validation.labels).mean() == pytest.approx(trained.validation, abs=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        on_the_cpu(patch)
        same = training.score_lists(training.load_reranker(task, trained), task, task.validation)
        assert np.allclose(scores, same, atol=1e-3)
        assert training.train_reranker(task).validation == pytest.approx(trained.validation, abs=0.02)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_a_round_of_alignment(weights, tmp_path):
    pairs = pd.DataFrame({"prompt": PROMPTS, "chosen": [" crime."] * 2, "rejected": [" cartoons."] * 2})
    config = AlignmentConfig(batch_size=2, lora_rank=4, epochs=4.0)
    how = DeviceConfig(training=weights, gradient_checkpointing=weights == "bfloat16")
    log = trainers.dpo(BASE, pairs, trainers.Run(tmp_path, config, 1, "bf16", how))
    assert log[0]["loss"] == pytest.approx(np.log(2), abs=0.02) and log[-1]["loss"] < log[0]["loss"]


def test_the_toy_of_dpo_computes_by_hand_what_the_device_trains(tmp_path):
    """Its models are on the device, its numbers by hand on the CPU."""
    install_kernel()
    book, root = "04a_dpo_by_hand.ipynb", project_root()
    run = {"parameters": {"PROFILE": "smoke"}, "kernel_name": KERNEL, "cwd": root, "progress_bar": False}
    cells = papermill.execute_notebook(root / "notebooks" / book, tmp_path / book, **run).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")
