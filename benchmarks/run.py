"""Three ratios, each measured side by side in one run: `make bench` (about 8 minutes on 2 CPU cores).

1. Sampling: tokens a second, OpenVINO GenAI against transformers, eight samples a prompt.
2. DPO: seconds of one forward and backward over eight pairs, prefix-shared against stock trl.
3. Re-ranker: seconds of an epoch, whole-table indexing against a per-sample Dataset and DataLoader of the same model.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dpo4rec_utils import alignment, training
from dpo4rec_utils.artifacts import environment, project_root, write_json
from dpo4rec_utils.rerankers import build_reranker
from dpo4rec_utils.sampling import open_sampler
from dpo4rec_utils.study import open_study


def seconds_of(action, repeats: int) -> float:
    """Median wall time of `action()` after one uncounted run."""
    action()
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


def sampling(study, folder) -> dict:
    """Tokens a second of both engines on the same prompts."""
    speed = {}
    for engine, prompts, repeats in (("openvino", 32, 2), ("transformers", 4, 1)):
        config = replace(study.config.llm, engine=engine)
        sampler = open_sampler(study.zero_shot, config, folder)
        seeds = list(range(prompts))
        tokens = sum(c.tokens for row in sampler.sample(study.prompts[:prompts], [8] * prompts, seeds) for c in row)
        speed[engine] = tokens / seconds_of(
            lambda s=sampler, n=prompts, z=seeds: s.sample(study.prompts[:n], [8] * n, z), repeats
        )
    return {
        "fast": speed["openvino"],
        "slow": speed["transformers"],
        "ratio": speed["openvino"] / speed["transformers"],
    }


def preference_step(study, folder) -> dict:
    """Seconds of loss and gradients over eight pairs of the default prompt length, as a round trains them."""
    users = study.cohort.of("train")[:3]
    drawn = study.template_texts(6, full=False)
    rows = [(study.prompts[u], drawn[u][i], drawn[u][5 - i]) for u in users for i in range(3)][:8]
    pairs = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    found = {}
    for implementation, precision in (("prefix_shared", study.precision), ("stock", "fp32")):
        config = replace(study.config.alignment, implementation=implementation)
        trainer = alignment.dpo_trainer(study.zero_shot, pairs, folder / implementation, config, 1, precision)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))])
        if implementation == "prefix_shared":
            chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
            batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}

        def step(trainer=trainer, batch=batch):
            with trainer.accelerator.autocast():
                loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()

        found[implementation] = seconds_of(step, 3 if implementation == "prefix_shared" else 1)
    return {"fast": found["prefix_shared"], "slow": found["stock"], "ratio": found["stock"] / found["prefix_shared"]}


class SampleDataset(TorchDataset):
    """What a re-ranker is often fed by: one list at a time, its ten items one by one."""

    def __init__(self, task):
        self.task = task

    def __len__(self):
        return len(self.task.train)

    def __getitem__(self, row):
        lists, user = self.task.train, self.task.train.user[row]
        return (
            torch.tensor(lists.items[row]),
            torch.tensor(self.task.text[user, 0]),
            torch.stack([torch.tensor(self.task.item_text[i]) for i in lists.items[row]]),
            torch.tensor(lists.labels[row]),
        )


def reranker_epoch(study) -> dict:
    """Seconds of one PRM epoch; both ways train the same model with one thread."""
    text = study.template_knowledge(1, full=True)
    task = study.task("prm", "popularity", text, 1)
    few = task.validation.of_users(task.validation.user[:1])
    task = replace(task, config=replace(task.config, epochs=1), validation=few)
    torch.set_num_threads(1)

    def per_sample():
        model = build_reranker("prm", task.config, len(task.genres), torch.tensor(task.genres), task.item_text.shape[1])
        optimiser = torch.optim.AdamW(model.parameters())
        for items, user, item_text, labels in DataLoader(SampleDataset(task), task.config.batch_size, shuffle=True):
            table = item_text.flatten(0, 1)
            distinct = torch.zeros(len(task.genres), table.shape[1])
            distinct[items.flatten()] = table
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(items, user, distinct), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    table, sample = seconds_of(lambda: training.train_reranker(task), 3), seconds_of(per_sample, 1)
    return {"fast": table, "slow": sample, "ratio": sample / table}


def main() -> None:
    """Run the benchmarks that are asked for and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["sampling", "dpo", "reranker"])
    asked = parser.parse_args().only
    study = open_study("ml-100k")
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = {
            "sampling": ("tokens/s", 5, lambda: sampling(study, folder)),
            "dpo": ("s a batch of 8 pairs", 7, lambda: preference_step(study, folder)),
            "reranker": ("s an epoch", 10, lambda: reranker_epoch(study)),
        }
        for name, (unit, goal, run) in runs.items():
            if asked in (None, name):
                result = run()
                found[name] = result | {"unit": unit, "goal": goal}
                print(
                    f"{name}: {result['fast']:.2f} against {result['slow']:.2f} {unit}, {result['ratio']:.1f}x (goal {goal}x)"
                )
    write_json(project_root() / "results" / "benchmarks.json", {"results": found, **environment()})


if __name__ == "__main__":
    main()
