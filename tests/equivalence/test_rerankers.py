"""Re-rankers: knowledge moves scores, items projected once equal items projected each, and training repeats."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
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
from dpo4rec_utils.rerankers.adapter import ADAPTERS
from dpo4rec_utils.rerankers.dlcm import DLCM
from dpo4rec_utils.rerankers.mir import MIR
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


def test_a_training_is_known_by_what_computes_and_not_by_how_it_is_called_in_figures(task):
    entry = task.backbone
    assert replace(task, backbone=replace(entry, label="another")).key == task.key
    for change in ({"code": f"{entry.module}:Other"}, {"reads_history": not entry.reads_history}):
        assert replace(task, backbone=replace(entry, **change)).key != task.key


def test_a_history_is_the_latest_liked_items_or_the_latest_of_all():
    histories = [
        pd.DataFrame({"item": [1, 2, 3, 4], "rating": [5.0, 1, 4, 5]}),
        pd.DataFrame({"item": [5, 6, 7], "rating": [1.0, 2, 1]}),
        pd.DataFrame({"item": [8], "rating": [5.0]}),
    ]
    cohort = SimpleNamespace(users=np.arange(3), history=histories)
    table = training.history_table(cohort, DataConfig(), 2)
    assert table.tolist() == [[3, 4], [6, 7], [-1, 8]]


def test_the_loss_of_an_epoch_is_a_mean_over_candidates(task):
    """About one nat at first, in one batch or in many."""
    for batch_size in (16, 1024):
        config = CONFIG.changed(epochs=1, batch_size=batch_size)
        (loss,) = training.train_reranker(replace(task, config=config)).losses
        assert 0.3 < loss < 3


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


def test_the_temperature_is_the_best_and_keeps_the_order(task, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cpu", torch.Tensor.clone)  # as from a GPU: weights are a copy, not a view
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


@pytest.mark.parametrize("backbone", ["dlcm", "prm"])
def test_readers_of_a_list_know_where_a_candidate_stands(backbone):
    torch.manual_seed(0)
    model = KnowledgeReranker(BACKBONES[backbone], CONFIG, torch.rand(40, 3), KnowledgeShape(12, ("user",))).eval()
    items, user, text = torch.arange(10)[None], [torch.randn(1, 12)], torch.randn(40, 12)
    order = torch.arange(9, -1, -1)
    assert (model(items[:, order], user, text) - model(items, user, text)[:, order]).abs().max() > 1e-4


def test_dlcm_scores_a_state_by_the_last_one_as_in_its_equation_5():
    torch.manual_seed(0)
    model, x = DLCM(4, 1, 0.0).eval(), torch.randn(1, 3, 4)
    cell, state, states = torch.nn.GRUCell(4, 4), torch.zeros(1, 4), []
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in model.encoder.state_dict().items()})
    for place in range(3):
        state = cell(x[:, place], state)
        states.append(state)
    by_hand = [model.score[1](one * torch.tanh(model.context(state))) for one in states]
    assert torch.allclose(model(x), torch.cat(by_hand, dim=1), atol=1e-6)


class Constant(torch.nn.Module):
    """An expert that says one number."""

    def __init__(self, value: float):
        super().__init__()
        self.value = value

    def forward(self, vectors):
        return torch.full((*vectors.shape[:-1], 1), self.value)


def test_experts_are_shared_and_dedicated_and_mixed_by_a_gate():
    made = ADAPTERS["hea"](2, 1, 0.0, ("user", "item")).eval()
    assert (len(made.shared), {side: len(part) for side, part in made.dedicated.items()}) == (1, {"user": 1, "item": 1})
    made.shared[0] = Constant(8.0)
    for side, value in (("user", 4.0), ("item", 0.0)):
        made.dedicated[side][0] = Constant(value)
        torch.nn.init.zeros_(made.gate[side].weight)
        made.gate[side].bias.data = torch.tensor([0.0, float(np.log(3))])  # a quarter and three quarters
    vectors = torch.randn(5, 2)
    assert torch.allclose(made(vectors, "user"), torch.full((5, 1), 5.0)), "8 / 4 + 3 * 4 / 4"
    assert torch.allclose(made(vectors, "item"), torch.full((5, 1), 2.0))
    mixture, plain = (ADAPTERS[name](2, 1, 0.0, ("user", "item")).eval() for name in ("moe", "mlp"))
    assert len(mixture.shared) == 2 and not any(map(len, mixture.dedicated.values()))
    assert not hasattr(plain, "shared") and not torch.allclose(plain(vectors, "user"), plain(vectors, "item"))


def test_mir_forgets_what_is_old_as_fast_as_its_decay_says():
    torch.manual_seed(0)
    model, x, states = MIR(4, 1, 0.0).eval(), torch.randn(1, 3, 4), torch.randn(1, 5, 4)
    mask, older = torch.ones(1, 5, dtype=torch.bool), states.clone()
    older[:, :-1] += 1
    for decay, forgotten in ((50.0, True), (-50.0, False)):
        model.decay.data = torch.tensor(decay)
        assert torch.allclose(model(x, (states, mask)), model(x, (older, mask)), atol=1e-6) == forgotten


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
    parallel = training.train_all(tasks, tmp_path, 2, "t", finish)
    (tmp_path / "seed1.npz").unlink()
    again = training.train_all(tasks, tmp_path, 1, "t", finish)
    for name, one in tasks.items():
        alone = training.train_reranker(one).validation
        assert float(parallel[name]["validation"]) == float(again[name]["validation"]) == alone


def keep_trace(task, trained):
    return {"validation": np.array(trained.validation)}
