"""What a round has learnt, measured on pairs of users that no step of the LLM was trained on."""

import functools

import numpy as np

from dpo4rec_utils.alignment.log_probs import completion_log_probs
from dpo4rec_utils.alignment.probe import HELDOUT_PROBES
from dpo4rec_utils.alignment.round import Round
from dpo4rec_utils.keys import content_key, fingerprint
from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.store import Stage, write_values

MOST_USERS = 32  # whose texts estimate how far a policy has moved
DESCRIBED = ["user", "tokens", "unseen", *(f"probe_{name}" for name in HELDOUT_PROBES)]


def heldout_stage(knowledge: Knowledge, turn: Round) -> Stage:
    """Log-ratio of a round's policy and the policy before it: chosen less rejected text of every held-out pair.

    Values: user, tokens, unseen, probes (see `probe.described_pairs`) and value, the difference of log-ratios in
    nats; a pair is ordered rightly where it is above 0. Log-probabilities count the texts' end, as training does.
    Metrics: loop, round, pairs (of GRPO: groups) and pair_users trained on, and `kl`, the mean log-ratio of new texts
    of validation users in nats a text without its end, which would estimate the Kullback-Leibler divergence from the
    policy before if texts were sampled at temperature 1 and top-p 1.
    """
    pairs, prompts = turn.heldout.sort_values("user", kind="stable"), knowledge.prompts()
    texts = knowledge.texts(turn.after)
    users = knowledge.data.cohort.of("validation")[:MOST_USERS]
    new = texts[(texts["sample"] == 0) & texts.user.isin(users)]
    pair_prompts, pair_texts = tuple(pairs.prompt.repeat(2)), tuple(pairs[["chosen", "rejected"]].to_numpy().ravel())
    new_prompts = [prompts[user] for user in new.user]

    def build(folder):
        after, before = (_log_probs(policy, pair_prompts, pair_texts) for policy in (turn.after, turn.before))
        ratio = after - before
        write_values(pairs[DESCRIBED].assign(value=ratio[::2] - ratio[1::2]), folder)
        after, before = (
            completion_log_probs(policy, new_prompts, list(new.text)) for policy in (turn.after, turn.before)
        )
        trained = {"pairs": len(turn.examples), "pair_users": turn.examples.user.nunique()}
        return {"loop": turn.loop, "round": turn.number} | trained | {"kl": float(np.mean(after - before))}

    depends = {"after": turn.after.key, "before": turn.before.key, "loop": turn.loop}
    depends |= {"texts": content_key([pair_prompts, pair_texts, new_prompts, list(new.text)])}
    depends |= {"described": fingerprint(pairs[DESCRIBED]), "examples": fingerprint(turn.examples[["user"]])}
    return Stage("heldout", turn.after.name, depends, build)


@functools.lru_cache(maxsize=8)
def _log_probs(policy: Policy, prompts: tuple[str, ...], texts: tuple[str, ...]) -> np.ndarray:
    """Kept, because the loops that borrow the headline's pairs are compared with the same policies on the same
    texts."""
    return completion_log_probs(policy, prompts, texts, ended=True)
