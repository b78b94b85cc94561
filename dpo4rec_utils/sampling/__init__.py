"""Sampling texts from a policy: one `Sampler` protocol, one file an engine, shards as they come.

Sampling is seeded per prompt and a shard is sampled whole, so an interrupted run resumes from its last shard with the
texts it would have had. (Seeds alone do not suffice: the CPU engine's arithmetic varies with what else is in a batch.)
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd
from tqdm import tqdm

from dpo4rec_utils.artifacts import write_text
from dpo4rec_utils.config import LLMConfig
from dpo4rec_utils.policies import Policy


@dataclass(frozen=True)
class Completion:
    """A sampled continuation: text after the prompt, its tokens, and whether the model ended it itself."""

    text: str
    tokens: int
    finished: bool


class Sampler(Protocol):
    """An engine that samples continuations of prompts."""

    def sample(self, prompts: Sequence[str], samples: Sequence[int], seeds: Sequence[int]) -> list[list[Completion]]:
        """`samples[i]` continuations of prompt i, drawn with `seeds[i]`; same arguments, same texts."""
        ...


def open_sampler(policy: Policy, config: LLMConfig, workspace: Path) -> Sampler:
    """The engine named by `config.engine`, loaded with the policy; `workspace` holds files it needs to write."""
    if config.engine == "openvino":
        from dpo4rec_utils.sampling.openvino import OpenVINOSampler

        return OpenVINOSampler(policy, config, workspace)
    from dpo4rec_utils.sampling.transformers import TransformersSampler

    return TransformersSampler(policy, config)


def sample_shards(
    folder: Path,
    requests: Sequence[tuple[str, str, int, int]],
    open_engine,
    shard_size: int,
    title: str,
) -> None:
    """Sample every request (id, prompt, samples, seed) into `folder/shard-*.jsonl`, skipping the shards that are there.

    `open_engine()` is called only if there is work left. A shard is one file, written whole or not at all.
    """
    starts = range(0, len(requests), shard_size)
    missing = [s for s in starts if not (folder / f"shard-{s:06d}.jsonl").exists()]
    engine = open_engine() if missing else None
    with tqdm(total=len(requests), desc=title, unit="prompt") as bar:
        bar.update(len(requests) - sum(min(shard_size, len(requests) - s) for s in missing))
        for start in missing:
            shard = requests[start : start + shard_size]
            names, prompts, samples, seeds = zip(*shard, strict=True)
            answers = engine.sample(prompts, samples, seeds)
            rows = [
                {"id": name, "sample": i, **asdict(completion)}
                for name, completions in zip(names, answers, strict=True)
                for i, completion in enumerate(completions)
            ]
            write_text(folder / f"shard-{start:06d}.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
            bar.update(len(shard))


def read_shards(folder: Path) -> pd.DataFrame:
    """All texts of a folder: id, sample, text, tokens, finished."""
    rows = [json.loads(line) for path in sorted(folder.glob("shard-*.jsonl")) for line in path.open(encoding="utf-8")]
    return pd.DataFrame(rows, columns=["id", "sample", "text", "tokens", "finished"])
