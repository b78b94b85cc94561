"""Re-rankers: knowledge moves scores, items projected once equal items projected each, and training repeats."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dpo4rec_utils.config import RerankerConfig
from dpo4rec_utils.data import cohort as users
from dpo4rec_utils.data import lists as candidate
from dpo4rec_utils.data.dataset import tag_matrix
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.metrics import log_likelihood
from dpo4rec_utils.registries import BACKBONES
from dpo4rec_utils.rerankers import training
from dpo4rec_utils.rerankers.model import KnowledgeReranker, KnowledgeShape
from tests.conftest import made_dataset

CONFIG = RerankerConfig(hidden=16, knowledge_dim=8, id_dim=8, tag_dim=4, epochs=3, batch_size=16)


def made_task(backbone="prm") -> training.Task:
    dataset = made_dataset()
    cohort = users.build_cohort(dataset, DataConfig(), 0)
    made = candidate.build_lists(dataset, cohort, DataConfig(), candidate.Draw("popularity", 0))
    rng = np.random.default_rng(0)
    text = rng.normal(size=(len(cohort.users), 3, 12)).astype(np.float32)
    text[2, 1:] = np.nan
    train, validation = (made.of_users(cohort.of(split)) for split in ("train", "validation"))
    items = rng.normal(size=(len(dataset.items), 12)).astype(np.float32)
    genres, history = tag_matrix(dataset, "genres")[0], training.history_table(cohort, DataConfig(), 6)
    return training.Task(BACKBONES[backbone], CONFIG, text, items, genres, history, train, validation, 5)


@pytest.fixture(scope="module")
def task():
    return made_task()


@pytest.mark.parametrize("adapter", ["hea", "moe", "mlp"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_shuffling_knowledge_moves_scores(task, backbone, adapter):
    config = CONFIG.changed(adapter=adapter)
    trained = training.train_reranker(replace(task, backbone=BACKBONES[backbone], config=config))
    own = replace(task, backbone=BACKBONES[backbone], config=config)
    model = training.load_reranker(own, trained)
    scores = training.score_lists(model, own, task.validation)
    users = training.score_lists(model, own, task.validation, np.roll(task.user_vectors, 1, axis=0))
    moved = replace(own, item_vectors=np.roll(task.item_vectors, 1, axis=0))
    items = training.score_lists(model, moved, task.validation)
    assert scores.shape == task.validation.items.shape
    for other in (users, items):
        ranks = [np.argsort(-s, axis=1) for s in (scores, other)]
        assert np.abs(scores - other).max() > 0.1 * scores.std() and (ranks[0] != ranks[1]).any()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_repeats_and_learns(task, backbone):
    first, second = (training.train_reranker(replace(task, backbone=BACKBONES[backbone])) for _ in range(2))
    assert first.validation == second.validation
    assert all((first.weights[name] == second.weights[name]).all() for name in first.weights)
    other = training.train_reranker(replace(task, backbone=BACKBONES[backbone], seed=6))
    assert other.validation != first.validation
    long = training.train_reranker(replace(task, backbone=BACKBONES[backbone], config=CONFIG.changed(epochs=12)))
    assert long.losses[-1] < long.losses[0] - 0.01


def test_the_temperature_is_the_best_and_keeps_the_order(task):
    trained = training.train_reranker(task)
    model = training.load_reranker(task, trained)
    scores, best = training.score_lists(model, task, task.validation), model.temperature.item()
    assert log_likelihood(scores, task.validation.labels).mean() == pytest.approx(trained.validation, abs=1e-5)
    for factor in (0.7, 1.4):
        model.temperature.fill_(best * factor)
        other = training.score_lists(model, task, task.validation)
        assert log_likelihood(other, task.validation.labels).mean() < trained.validation
        assert np.allclose(other * factor, scores, atol=1e-5)
    assert training.calibrate(model, task) == pytest.approx(trained.validation, abs=1e-5)
    assert model.temperature.item() == pytest.approx(best, rel=1e-2)


@pytest.mark.parametrize("backbone", ["setrank", "dasalc"])
def test_set_rankers_ignore_the_order_of_candidates(backbone):
    torch.manual_seed(0)
    model = KnowledgeReranker(BACKBONES[backbone], CONFIG, torch.rand(40, 3), KnowledgeShape(12, ("user",))).eval()
    items, user, text = torch.arange(10)[None], [torch.randn(1, 12)], torch.randn(40, 12)
    order = torch.randperm(10)
    assert torch.allclose(model(items[:, order], user, text), model(items, user, text)[:, order], atol=1e-5)


def test_mir_reads_the_history_and_padding_is_ignored():
    torch.manual_seed(0)
    model = KnowledgeReranker(BACKBONES["mir"], CONFIG, torch.rand(40, 3), KnowledgeShape(12, ("user",))).eval()
    items, user, text = torch.arange(10)[None], [torch.randn(1, 12)], torch.randn(40, 12)
    short, other = torch.tensor([[20, 21, 22]]), torch.tensor([[20, 25, 22]])
    padded = torch.tensor([[-1, -1, 20, 21, 22]])
    assert torch.allclose(model(items, user, text, short), model(items, user, text, padded), atol=1e-6)
    assert (model(items, user, text, short) - model(items, user, text, other)).abs().max() > 1e-5


def test_a_second_user_input_is_read_and_learnt_from(task):
    rng = np.random.default_rng(0)
    past = rng.normal(size=(len(task.user_vectors), task.user_vectors.shape[2])).astype(np.float32)
    both = replace(task, history_vector=past)
    assert both.key != task.key != replace(task, history_vector=past + 1).key
    trained = training.train_reranker(both)
    model = training.load_reranker(both, trained)
    assert {"history_mean", "history_std"} <= set(trained.weights) and trained.weights["scale"].shape == (2,)
    scores = training.score_lists(model, both, task.train)
    other = training.score_lists(model, replace(both, history_vector=past[::-1].copy()), task.train)
    assert np.abs(scores - other).max() > 1e-4
    known = past[np.unique(task.train.user)]
    assert np.allclose(trained.weights["history_mean"], known.mean(axis=0), atol=1e-5)


def test_an_absent_text_is_never_used(task):
    trained = training.train_reranker(task)
    model = training.load_reranker(task, trained)
    each = training.score_texts(model, task, task.train, task.user_vectors)
    assert np.isnan(each[task.train.user == 2][:, 1:]).all() and not np.isnan(each[task.train.user != 2]).any()
    mean = training.score_lists(model, task, task.train)
    assert np.allclose(mean[task.train.user == 2], each[task.train.user == 2][:, 0])


def test_workers_and_resume_give_what_one_process_gives(task, tmp_path):
    tasks = {f"seed{s}": replace(task, seed=s) for s in range(3)}
    finish = dict.fromkeys(tasks, keep_trace)
    found = training.train_all(tasks, tmp_path, 2, "t", finish)
    (tmp_path / "seed1.npz").unlink()
    again = training.train_all(tasks, tmp_path, 1, "t", finish)
    for name, one in tasks.items():
        alone = training.train_reranker(one).validation
        assert float(found[name]["validation"]) == float(again[name]["validation"]) == alone


def keep_trace(task, trained):
    return {"validation": np.array(trained.validation)}
