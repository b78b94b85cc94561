"""Ratios, each measured side by side in one run: `make bench` (about ten minutes on 2 CPU cores). `docs/results.md`
shows them.

1. Sampling: tokens a second, OpenVINO GenAI and our batches with transformers, each against transformers' `generate`
   with one prompt a call; eight samples a prompt.
2. DPO: seconds of one step over eight pairs, the reference's log-probabilities, forward and backward, prefix-shared in
   the precision of the study against stock trl in float32.
"""

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from dpo4rec_utils.alignment import trainers
from dpo4rec_utils.config import as_dict
from dpo4rec_utils.device import fast_precision
from dpo4rec_utils.environment import environment
from dpo4rec_utils.files import project_root, read_json, write_json
from dpo4rec_utils.knowledge.engines import open_sampler
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.store import Store
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
    lengths = []
    for prompt in prompts:
        inputs = sampler.tokenizer(prompt, return_tensors="pt", add_special_tokens=False).to(sampler.model.device)
        config = sampler.config
        options = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        options |= {"max_new_tokens": config.max_new_tokens, "num_return_sequences": samples, "do_sample": True}
        with torch.inference_mode():
            tokens = sampler.model.generate(**inputs, **options, pad_token_id=sampler.tokenizer.pad_token_id)
        new = tokens[:, inputs.input_ids.shape[1] :]
        lengths.append([int((row != sampler.tokenizer.pad_token_id).sum()) for row in new])
    return lengths


def with_engine(config, engine: str, weights: str):
    """A configuration with another engine, whose weights have this type."""
    return config.changed(llm=config.llm.changed(engine=engine), device=config.device.changed(sampling=weights))


def tokens_a_second(study, engine: str, folder, weights: str = "float32", plain: bool = False) -> float:
    """Mean of two calls behind an uncounted one; every call has prompts of its own, so no prefix is in a cache that
    users share."""
    count = 2 if plain else 24
    sampler, rates = open_sampler(study.zero_shot, with_engine(study.config, engine, weights), folder), []
    for call in range(3):
        prompts = study.knowledge.prompts()[call * count : (call + 1) * count]
        start = time.perf_counter()
        if plain:
            tokens = sum(map(sum, one_by_one(sampler, prompts, 8)))
        else:
            answers = sampler.sample(prompts, [8] * count, list(range(count)))
            tokens = sum(c.tokens for row in answers for c in row)
        rates.append(tokens / (time.perf_counter() - start))
    return statistics.mean(rates[1:])


@functools.cache
def plain_rate(study, folder) -> float:
    """Tokens a second of `generate` in float32, one prompt a call: measured once a run, beside what is compared with
    it."""
    return tokens_a_second(study, "transformers", folder, plain=True)


def sampling(study, folder, engine: str, weights: str = "float32") -> dict:
    """An engine against `generate` in float32, one prompt a call."""
    fast, slow = tokens_a_second(study, engine, folder, weights), plain_rate(study, folder)
    return {"fast": fast, "slow": slow, "ratio": fast / slow}


def preference_step(study, folder) -> dict:
    """Seconds of loss and gradients over eight pairs of the default prompt length, as a round trains them."""
    users = study.data.cohort.of("train")[:3]
    drawn = study.knowledge.template_texts(6, full=False)
    prompts = study.knowledge.prompts()
    rows = [(prompts[u], drawn[u][i], drawn[u][5 - i]) for u in users for i in range(3)][:8]
    pairs = pd.DataFrame(rows, columns=["prompt", "chosen", "rejected"])
    seconds = {}
    for implementation, precision in (("prefix_shared", study.aligner.precision), ("stock", "fp32")):
        config = study.config.alignment.changed(implementation=implementation)
        trainer = trainers.dpo_trainer(
            study.zero_shot, pairs, trainers.Run(folder / implementation, config, 1, precision)
        )
        batch = trainer._prepare_inputs(trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))]))

        def step(trainer=trainer, batch=batch, ours=implementation == "prefix_shared"):
            if ours:  # before training and once a pair; stock trl does it within the step
                chosen, rejected = trainer.compute_ref_log_probs(trainer.model, batch)
                batch |= {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
            with trainer.accelerator.autocast():
                loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()

        seconds[implementation] = seconds_of(step, 3 if implementation == "prefix_shared" else 1)
    fast, slow = seconds["prefix_shared"], seconds["stock"]
    return {"fast": fast, "slow": slow, "ratio": slow / fast}


# What is measured, against what, in which unit, by name.
LABELS = {
    "sampling": ("OpenVINO GenAI, F16", "generate, one prompt a call", "tokens/s"),
    "batched": ("our batches with transformers, fp32", "generate, one prompt a call", "tokens/s"),
    "batched_bfloat16": ("our batches with transformers, bf16", "generate in fp32, one prompt a call", "tokens/s"),
    "dpo": ("DPO step of 8 pairs, shared prompts", "stock trl", "s"),
}


def main() -> None:
    """Run the benchmarks that are named, print their ratios, and keep all of them, one entry a machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(LABELS))
    only, results = parser.parse_args().only, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder, config = Path(temporary), load_config("ml-100k")
        study = Study(config, Store(folder, as_dict(config)))  # so that no record of a study is touched
        runs = {
            "sampling": lambda: sampling(study, folder, "openvino"),
            "batched": lambda: sampling(study, folder, "transformers"),
            "batched_bfloat16": lambda: sampling(study, folder, "transformers", "bfloat16"),
            "dpo": lambda: preference_step(study, folder),
        }
        if fast_precision() == "fp32":  # where bf16 is emulated, a product takes a hundred times as long
            del runs["batched_bfloat16"]
        for name, run in runs.items():
            if only in (None, name):
                fast, slow, unit = LABELS[name]
                results[name] = run() | {"measured": fast, "against": slow, "unit": unit}
                print("{measured}: {fast:.2f} {unit}; {against}: {slow:.2f}; {ratio:.1f}x".format(**results[name]))
    if not only:
        path, made = project_root() / "results" / "benchmarks.json", environment()
        machines = read_json(path) if path.exists() else {}
        write_json(path, machines | {made["device"]: {"results": results, **made}})


if __name__ == "__main__":
    main()
