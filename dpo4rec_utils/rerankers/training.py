"""Training and scoring re-rankers: whole tables as tensors, batched indexing, a fixed schedule, calibrated scores.

Every training has the same number of epochs under one learning-rate cycle. Stopping on the validation log-likelihood
was measured to be the largest noise of the study: it falls from over-confidence while the ranking still improves, so
seeds stopped at epoch 3 or at epoch 15 and differed by 0.05 NDCG@7. What over-confidence does to a log-likelihood is
taken out afterwards, by one temperature.

A `Task` is everything one training needs, as plain arrays, so it can be shipped to a worker process; the result depends
on the task alone (one thread a training), never on which worker ran it or in which order.
"""

from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from dpo4rec_utils.config import RerankerConfig, as_dict
from dpo4rec_utils.data.cohort import Cohort
from dpo4rec_utils.data.feedback import liked
from dpo4rec_utils.data.lists import CandidateLists
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.device import the_device
from dpo4rec_utils.files import atomic_path, read_arrays
from dpo4rec_utils.keys import code_key, content_key, fingerprint
from dpo4rec_utils.metrics import log_likelihood
from dpo4rec_utils.registries import Backbone
from dpo4rec_utils.rerankers.model import KnowledgeReranker, KnowledgeShape


@dataclass(frozen=True)
class Task:
    """One training.

    user_vectors: (U, S, T), the vectors of S texts a user, one of them drawn at random for each list and epoch; a NaN
    vector is absent and never drawn. item_vectors: (I, T). tags: (I, G). history: (U, H) item positions, -1 padded on
    the left. train, validation: lists, the latter for the temperature alone. seed: of initialisation, batches and
    draws. history_vector: (U, T), a vector of the history as a second user input, or None.
    """

    backbone: Backbone
    config: RerankerConfig
    user_vectors: np.ndarray
    item_vectors: np.ndarray
    tags: np.ndarray
    history: np.ndarray
    train: CandidateLists
    validation: CandidateLists
    seed: int
    history_vector: np.ndarray | None = None

    @property
    def key(self) -> str:
        """16 hex digits of everything above, arrays by content, the backbone by its entry and its code."""
        arrays = (self.user_vectors, self.item_vectors, self.tags, self.history, self.history_vector)
        lists = [array for part in (self.train, self.validation) for array in (part.user, part.items, part.labels)]
        entry = self.backbone  # without its label, which pages show
        backbone = [entry.name, entry.code, entry.reads_history, code_key(entry.module)]
        return content_key([*backbone, as_dict(self.config), fingerprint(*arrays, *lists), self.seed])


@dataclass(frozen=True)
class Trained:
    """A trained re-ranker: weights (numpy, by name), mean training loss an epoch, validation log-likelihood at the
    end."""

    weights: dict[str, np.ndarray]
    losses: list[float]
    validation: float


def history_table(cohort: Cohort, config: DataConfig, limit: int = 15) -> np.ndarray:
    """(U, limit) positions of the latest liked history items, -1 padded on the left; MIR reads it."""
    table = np.full((len(cohort.users), limit), -1)
    for row, past in enumerate(cohort.history):
        items = past.item[liked(past.rating, config)].to_numpy()[-limit:]
        if len(items) == 0:
            items = past.item.to_numpy()[-limit:]
        table[row, limit - len(items) :] = items
    return table


def _model(task: Task) -> KnowledgeReranker:
    tags = torch.from_numpy(np.array(task.tags))
    inputs = ("user",) if task.history_vector is None else ("user", "history")
    shape = KnowledgeShape(task.item_vectors.shape[1], inputs)
    return KnowledgeReranker(task.backbone, task.config, tags, shape).to(the_device())


def _tensor(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(np.array(array)).to(the_device())


def _draw(present: list[np.ndarray], users: np.ndarray, rng) -> np.ndarray:
    return np.array([present[u][int(rng.random() * len(present[u]))] for u in users])


def train_reranker(task: Task) -> Trained:
    """Train one re-ranker: per-candidate cross-entropy, AdamW, one learning-rate cycle, then `calibrate`.

    On the GPU where there is one, else on one thread, so that results do not depend on how many there are; the caller's
    number is set again afterwards.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model, losses = _train(task)
        validation = calibrate(model, task)  # before its weights are copied: they hold the temperature
        return Trained({name: t.cpu().numpy() for name, t in model.state_dict().items()}, losses, validation)
    finally:
        torch.set_num_threads(threads)


def _train(task: Task):
    torch.manual_seed(task.seed)
    rng = np.random.default_rng(task.seed)
    config, model = task.config, _model(task)
    steps = config.epochs * -(-len(task.train) // config.batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay, fused=True)
    # Smith and Topin, Super-Convergence, arXiv 1708.07120.
    cycle = OneCycleLR(optimiser, config.learning_rate, max(steps, 2), pct_start=0.15, cycle_momentum=False)
    item_vectors, user_vectors = _tensor(task.item_vectors), _tensor(task.user_vectors)
    present = [np.flatnonzero(~np.isnan(rows[:, 0])) for rows in np.asarray(task.user_vectors)]
    train_vectors = user_vectors[torch.from_numpy(np.unique(task.train.user))].flatten(0, 1)
    model.standardise("user", train_vectors[~train_vectors[:, 0].isnan()])
    model.standardise("item", item_vectors)
    history_vector = _tensor(task.history_vector)
    if history_vector is not None:
        model.standardise("history", history_vector[torch.from_numpy(np.unique(task.train.user))])
    history = _tensor(task.history) if task.backbone.reads_history else None
    items, labels = _tensor(task.train.items), _tensor(task.train.labels)
    losses = []
    for _ in range(config.epochs):
        order = rng.permutation(len(task.train))
        drawn = _draw(present, task.train.user, rng)
        total = 0.0
        for start in range(0, len(order), config.batch_size):
            rows = order[start : start + config.batch_size]
            users = task.train.user[rows]
            past = None if history is None else history[users]
            inputs = [user_vectors[users, drawn[rows]]] + ([] if history_vector is None else [history_vector[users]])
            logits = model(items[rows], inputs, item_vectors, past)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            total += loss.item() * len(rows)
        losses.append(total / len(order))
    return model, losses


def calibrate(model, task: Task) -> float:
    """Set the model's temperature to the one with the best validation log-likelihood, which is returned.

    Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599. The order of candidates stays.
    """
    model.temperature.fill_(1.0)
    scores, labels = score_lists(model, task, task.validation), task.validation.labels
    optimum = minimize_scalar(lambda t: -log_likelihood(scores / np.exp(t), labels).mean(), bounds=(-3, 3))
    model.temperature.fill_(float(np.exp(optimum.x)))
    return float(-optimum.fun)


def load_reranker(task: Task, trained: Trained):
    """The trained module, ready to score."""
    model = _model(task)
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in trained.weights.items()})
    return model.eval()


SCORED_LISTS = 1024  # at a time


@torch.no_grad()
def score_lists(model, task: Task, lists: CandidateLists, user_vectors: np.ndarray | None = None):
    """Scores (L, C), averaged over the texts a user has; `user_vectors` (U, S, T) replace the task's."""
    each = score_texts(model, task, lists, task.user_vectors if user_vectors is None else user_vectors)
    return np.nanmean(each, axis=1)


@torch.no_grad()
def score_texts(model, task: Task, lists: CandidateLists, user_vectors: np.ndarray) -> np.ndarray:
    """Scores (L, S, C) with each of a user's S texts in turn, of vectors (U, S, T); NaN where a text is absent."""
    model.eval()
    item_vectors, samples = _tensor(task.item_vectors), user_vectors.shape[1]
    out = np.full((len(lists), samples, lists.items.shape[1]), np.nan, dtype=np.float32)
    for sample in range(samples):
        for start in range(0, len(lists), SCORED_LISTS):
            rows = np.arange(start, min(start + SCORED_LISTS, len(lists)))
            users = lists.user[rows]
            vectors = user_vectors[users, sample]
            there = ~np.isnan(vectors[:, 0])
            if not there.any():
                continue
            rows, users, vectors = rows[there], users[there], vectors[there]
            past = _tensor(np.asarray(task.history)[users]) if task.backbone.reads_history else None
            inputs = [_tensor(vectors)] + ([] if task.history_vector is None else [_tensor(task.history_vector[users])])
            logits = model(_tensor(lists.items[rows]), inputs, item_vectors, past)
            out[rows, sample] = logits.cpu().numpy()
    return out


def arm_scores(task: Task, trained: Trained, lists: CandidateLists, arms: dict[str, np.ndarray]) -> dict:
    """What a worker keeps of a scorer: scores (L, C) of `lists` and of the validation lists under each arm's user
    vectors."""
    model, out = load_reranker(task, trained), {}
    for arm, user_vectors in arms.items():
        out[f"scores/{arm}"] = score_lists(model, task, lists, user_vectors)
        out[f"validation/{arm}"] = score_lists(model, task, task.validation, user_vectors)
    return out


def train_all(tasks: dict[str, Task], folder: Path, workers: int, title: str, finish: dict) -> dict[str, dict]:
    """Run `finish[name](task, trained) -> dict of arrays` for every task, in `workers` processes; keep each as an npz.

    Tasks whose file is there are not trained again, so an interruption loses at most `workers` trainings. Returns the
    arrays of every task by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.npz" for name in tasks}
    missing = [name for name in tasks if not paths[name].exists()]
    jobs = (joblib.delayed(_train_one)(name, tasks[name], paths[name], finish[name]) for name in missing)
    with tqdm(total=len(tasks), initial=len(tasks) - len(missing), desc=title, unit="model") as bar:
        parallel = joblib.Parallel(n_jobs=min(workers, max(1, len(missing))), return_as="generator_unordered")
        for _ in parallel(jobs):
            bar.update(1)
    results = {}
    for name, path in paths.items():
        results[name] = read_arrays(path)
    return results


def _train_one(name: str, task: Task, path: Path, finish) -> str:
    arrays = finish(task, train_reranker(task))
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **arrays)
    return name
