"""Log-probabilities of completions under a policy, and how far a policy has moved from another."""

import numpy as np
import torch
from tqdm import tqdm

from dpo4rec_utils.alignment.packing import prefix_shared_forward
from dpo4rec_utils.keys import content_key
from dpo4rec_utils.knowledge.models import load_tokenizer, token_ids, turn_end
from dpo4rec_utils.knowledge.policies import Policy, load_model
from dpo4rec_utils.store import Stage


@torch.no_grad()
def completion_log_probs(
    policy: Policy, prompts: list[str], completions: list[str], ended: bool = False, rows: int = 12
) -> np.ndarray:
    """(n,) log-probability of each completion after its prompt, summed over tokens, in nats, in fp32.

    `ended` counts the token that ends the turn, as training does. A pass takes whole runs of one prompt until it has
    `rows` completions, so that equal prompts side by side are computed once.
    """
    model, tokenizer = load_model(policy), load_tokenizer(policy.model)
    end, out = [turn_end(policy.model)] if ended else [], []
    for part in tqdm(_passes(prompts, rows), desc=f"read by {policy.name}", unit="pass"):
        heads = [token_ids(tokenizer, prompt) for prompt in prompts[part]]
        tails = [[*token_ids(tokenizer, completion), *end] for completion in completions[part]]
        width = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        ids = torch.full((len(heads), width), tokenizer.pad_token_id)
        attention, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            ids[row, : len(head) + len(tail)] = torch.tensor(head + tail)
            attention[row, : len(head) + len(tail)] = 1
            labels[row, len(head) : len(head) + len(tail)] = torch.tensor(tail)
        ids, attention, labels = (tensor.to(model.device) for tensor in (ids, attention, labels))
        answer = prefix_shared_forward(
            model, tokenizer.pad_token_id, input_ids=ids, attention_mask=attention, labels=labels
        )
        out.append(answer.log_probs.sum(dim=1).cpu().numpy())
    return np.concatenate(out)


def _passes(prompts: list[str], rows: int) -> list[slice]:
    """Slices of whole runs of equal prompts, each of `rows` or a run more."""
    cuts, start = [], 0
    for row in range(1, len(prompts) + 1):
        if row == len(prompts) or (row - start >= rows and prompts[row] != prompts[row - 1]):
            cuts.append(slice(start, row))
            start = row
    return cuts


def log_ratio_stage(policy: Policy, reference: Policy, prompts: list[str], texts: list[str]) -> Stage:
    """Mean log-ratio of policy and reference in nats per text.

    An estimate of KL(policy || reference) for texts sampled as the study does (temperature, top-p), without the end.
    """

    def build(_):
        of_policy, of_reference = (completion_log_probs(p, prompts, texts) for p in (policy, reference))
        return {"reference": reference.name, "texts": len(texts), "nats": float(np.mean(of_policy - of_reference))}

    depends = {"policy": policy.key, "reference": reference.key, "texts": content_key([prompts, texts])}
    return Stage("kl", policy.name, depends, build)
