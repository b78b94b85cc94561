"""Ratios, each measured side by side in one run: `make bench` (about 15 minutes on 2 CPU cores).

1. Sampling: tokens a second, OpenVINO GenAI and our batches with transformers, each against transformers' `generate` with one
   prompt a call; eight samples a prompt.
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

from dpo4rec_utils.alignment import trainers
from dpo4rec_utils.files import project_root, write_json
from dpo4rec_utils.knowledge.engines import open_sampler
from dpo4rec_utils.rerankers import build_reranker, training
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.store import environment
from dpo4rec_utils.study import Study


def seconds_of(action, repeats: int) -> float:
    """Median wall time of `action()` after one uncounted run."""
    action()
    runs = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        runs.append(time.perf_counter() - start)
    return statistics.median(runs)


def one_by_one(sampler, prompts, samples: int) -> list[list]:
    """`generate` as it is most often called: one prompt, its samples in a batch, the prompt computed once a sample."""
    found = []
    for prompt in prompts:
        inputs = sampler.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(sampler.model.device)
        config = sampler.config
        options = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        options |= {"max_new_tokens": config.max_new_tokens, "num_return_sequences": samples, "do_sample": True}
        with torch.inference_mode():
            tokens = sampler.model.generate(**inputs, **options, pad_token_id=sampler.tokenizer.pad_token_id)
        new = tokens[:, inputs.input_ids.shape[1] :]
        found.append([int((row != sampler.tokenizer.pad_token_id).sum()) for row in new])
    return found


def with_engine(config, engine: str, weights: str):
    """A configuration with another engine, whose weights have this type."""
    return config.changed(llm=config.llm.changed(engine=engine), device=config.device.changed(sampling=weights))


def tokens_a_second(study, engine: str, folder, weights: str = "float32", plain: bool = False) -> float:
    """Median of three calls; every call has prompts of its own, so no prefix is in a cache that users share."""
    count = 4 if plain else 48
    sampler, rates = open_sampler(study.zero_shot, with_engine(study.config, engine, weights), folder), []
    for call in range(4):
        prompts = study.knowledge.prompts()[call * count : (call + 1) * count]
        start = time.perf_counter()
        if plain:
            tokens = sum(map(sum, one_by_one(sampler, prompts, 8)))
        else:
            answers = sampler.sample(prompts, [8] * count, list(range(count)))
            tokens = sum(c.tokens for row in answers for c in row)
        rates.append(tokens / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def sampling(study, folder, engine: str, weights: str = "float32") -> dict:
    """An engine against `generate` in float32, one prompt a call."""
    fast = tokens_a_second(study, engine, folder, weights)
    slow = tokens_a_second(study, "transformers", folder, plain=True)
    return {"fast": fast, "slow": slow, "ratio": fast / slow}


def preference_step(study, folder) -> dict:
    """Seconds of loss and gradients over eight pairs of the default prompt length, as a round trains them."""
    users = study.data.cohort.of("train")[:3]
    drawn = study.knowledge.template_texts(6, full=False)
    prompts = study.knowledge.prompts()
    rows = [(prompts[u], drawn[u][i], drawn[u][5 - i]) for u in users for i in range(3)][:8]
    pairs = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    found = {}
    for implementation, precision in (("prefix_shared", study.aligner.precision), ("stock", "fp32")):
        config = study.config.alignment.changed(implementation=implementation)
        trainer = trainers.dpo_trainer(
            study.zero_shot, pairs, trainers.Run(folder / implementation, config, 1, precision)
        )
        batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))]))
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
    """What a knowledge-augmented re-ranker is often fed by: one list at a time, with the texts of its ten items."""

    def __init__(self, task):
        self.task = task

    def __len__(self):
        return len(self.task.train)

    def __getitem__(self, row):
        task, lists = self.task, self.task.train
        user, items = lists.user[row], lists.items[row]
        return (
            torch.tensor(items),
            torch.tensor(task.text[user, 0]),
            torch.stack([torch.tensor(task.item_text[i]) for i in items]),
            torch.tensor(lists.labels[row]),
        )


def per_sample_scores(model, items, user_text, item_text):
    """`KnowledgeReranker.forward` with a text for every candidate (B, C, T) instead of a table of distinct items."""
    user = model._known("user", user_text).unsqueeze(1)
    knowledge = model._known("item", item_text)
    own = [model.item_id(items), model.tag(model.tags[items]), knowledge]
    x = model.features(torch.cat([*own, user.expand_as(knowledge), user * knowledge], dim=-1))
    return (model.core(x) + model.scale * (user * knowledge).sum(dim=-1)) / model.temperature


def reranker_epoch(study) -> dict:
    """Seconds of one PRM epoch; both ways train the same model with one thread, and score alike."""
    task = study.scorers.task("prm", "popularity", study.knowledge.template_vectors(1, full=True), 1)
    few = task.validation.of_users(task.validation.user[:1])
    task = replace(task, config=task.config.changed(epochs=1), validation=few)
    torch.set_num_threads(1)
    batches = DataLoader(SampleDataset(task), task.config.batch_size, shuffle=True)
    model = training.load_reranker(task, training.train_reranker(task))
    items, user, item_text, _ = next(iter(batches))
    table = model(items, [user], torch.tensor(task.item_text))
    assert torch.allclose(table, per_sample_scores(model, items, user, item_text), atol=1e-4)

    def per_sample():
        model = build_reranker("prm", task.config, torch.tensor(task.tags), (task.item_text.shape[1], ("user",)))
        optimiser = torch.optim.AdamW(model.parameters())
        for items, user, item_text, labels in batches:
            scores = per_sample_scores(model, items, user, item_text)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    table, sample = seconds_of(lambda: training.train_reranker(task), 3), seconds_of(per_sample, 3)
    return {"fast": table, "slow": sample, "ratio": sample / table}


def main() -> None:
    """Run the benchmarks that are asked for and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["sampling", "batched", "batched_bfloat16", "dpo", "reranker"])
    asked = parser.parse_args().only
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        study = Study(load_config("ml-100k"), root=folder)  # so that no record of a study is touched
        runs = {
            "sampling": ("tokens/s", 5, lambda: sampling(study, folder, "openvino")),
            "batched": ("tokens/s", 8, lambda: sampling(study, folder, "transformers")),
            "batched_bfloat16": ("tokens/s", 8, lambda: sampling(study, folder, "transformers", "bfloat16")),
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
    if not asked:
        write_json(project_root() / "results" / "benchmarks.json", {"results": found, **environment()})


if __name__ == "__main__":
    main()
