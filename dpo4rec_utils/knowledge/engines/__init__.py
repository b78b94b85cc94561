"""Engines that sample texts from a policy: one `Sampler` protocol, one file an engine, shards as they come.

Sampling is seeded per prompt and a shard is sampled whole, so an interrupted run resumes from its last shard with the
texts it would have had. (Seeds alone do not suffice: the CPU engine's arithmetic varies with what else is in a batch.)

The completions of a prompt are exchangeable: whatever order an engine gives them in, they are put in one that the
request's seed draws. OpenVINO GenAI sorts them by likelihood, so that a first of eight had 23 tokens and a last one 37.
"""

import functools
import json
import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import pandas as pd
from tqdm import tqdm

from dpo4rec_utils.config import Config
from dpo4rec_utils.device import sampling_weights
from dpo4rec_utils.files import StudyError, require_free_memory, write_text
from dpo4rec_utils.keys import content_key
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.registries import ENGINES
from dpo4rec_utils.seeds import generator
from dpo4rec_utils.store import Stage, made_by

DECODING = ("engine", "max_new_tokens", "temperature", "top_p", "shard_users")


class Request(NamedTuple):
    """What is asked of a policy: whose text it is, the prompt, how many samples, and the seed they are drawn with."""

    id: str
    prompt: str
    samples: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """A sampled continuation: text after the prompt, its tokens, and whether the model ended it itself."""

    text: str
    tokens: int
    finished: bool


class Sampler(Protocol):
    """An engine that samples continuations of prompts."""

    def sample(self, prompts: Sequence[str], samples: Sequence[int], seeds: Sequence[int]) -> list[list[Completion]]:
        """`samples[i]` continuations of prompt i, drawn with `seeds[i]`, in any order; same arguments, same texts."""
        ...


def completion_of(tokens: Sequence[int], tokenizer, ends: Sequence[int]) -> Completion:
    """The completion of sampled tokens, of which the last may be an end token; it counts for neither text nor
    length."""
    finished = tokens[-1] in ends
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    return Completion(text, len(tokens) - finished, finished)


def exchangeable(completions: Sequence[Completion], seed: int) -> list[Completion]:
    """The completions of a request in an order that its seed draws: the first n are a random n."""
    return [completions[place] for place in generator(seed, "order of completions").permutation(len(completions))]


def open_sampler(policy: Policy, config: Config, workspace: Path) -> Sampler:
    """The engine named by `config.llm.engine`, loaded with the policy; `workspace` holds files it needs to write."""
    return ENGINES[config.llm.engine].load()(policy, config, workspace)


def texts_stage(name: str, policy: Policy, requests: Sequence[Request], config: Config) -> Stage:
    """Texts of a policy for every request; read back as id, sample, text, tokens, finished."""

    def build(folder):
        require_free_memory(2)
        open_engine = functools.partial(open_sampler, policy, config, folder)
        sample_shards(folder, requests, open_engine, config.llm.shard_users, f"sample {name}")
        table = read_shards(folder)
        counts = {"tokens": table.tokens.sum(), "distinct": table.text.nunique(), "finished": table.finished.sum()}
        return {"texts": len(table)} | {name: int(count) for name, count in counts.items()}

    depends = {"policy": policy.key, "decoding": _decoding(config), "requests": content_key(requests)}
    engine = ENGINES[config.llm.engine]
    depends["engine"] = made_by(engine.module) | {"class": engine.code}
    return Stage("texts", name, depends, build, read_shards)


def _decoding(config: Config) -> dict:
    """The settings that decide the texts of a policy: those of every engine, and those of this one."""
    decoding = {name: getattr(config.llm, name) for name in DECODING}
    for name in ENGINES[config.llm.engine].settings:
        value = operator.attrgetter(name)(config)
        decoding[name] = sampling_weights(value) if name == "device.sampling" else value
    return decoding


def sample_shards(folder: Path, requests: Sequence[Request], open_engine, shard_size: int, title: str) -> None:
    """Sample every request into `folder/shard-*.jsonl`, skipping the shards that are there.

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
                for name, seed, completions in zip(names, seeds, answers, strict=True)
                for i, completion in enumerate(exchangeable(completions, seed))
            ]
            write_text(folder / f"shard-{start:06d}.jsonl", "".join(json.dumps(r) + "\n" for r in rows))
            bar.update(len(shard))


def read_shards(folder: Path) -> pd.DataFrame:
    """All texts of a folder: id, sample, text, tokens, finished."""
    rows = []
    for path in sorted(folder.glob("shard-*.jsonl")):
        try:
            rows += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError:
            raise StudyError(f"{path} is damaged; delete it and run again.") from None
    return pd.DataFrame(rows, columns=["id", "sample", "text", "tokens", "finished"])
