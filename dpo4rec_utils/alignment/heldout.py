"""What a round has learnt, measured on pairs of users that no step was trained on."""

from dpo4rec_utils.alignment.log_probs import completion_log_probs
from dpo4rec_utils.alignment.story import Round
from dpo4rec_utils.keys import content_key, fingerprint
from dpo4rec_utils.knowledge.knowledge import Knowledge
from dpo4rec_utils.store import Stage, write_values

MOST_USERS = 32  # whose texts estimate how far a policy has moved
KNOWN = ["user", "tokens", "realised", "probe"]


def heldout_stage(knowledge: Knowledge, turn: Round) -> Stage:
    """Log-ratio of a round's policy and the policy before it: chosen less rejected text of every held-out pair.

    Values: user, tokens, realised, probe (see `probe.described_pairs`) and value, the difference of log-ratios in nats; a pair
    is ordered rightly where it is above 0. Log-probabilities are of texts without their end, which training counts. Metrics:
    loop, round, pairs and pair_users trained on, and `kl`, the mean log-ratio of new texts of validation users in nats a text,
    an estimate of the Kullback-Leibler divergence from the policy before.
    """
    pairs, prompts = turn.heldout.sort_values("user", kind="stable"), knowledge.prompts()
    texts = knowledge.texts(turn.after)
    users = knowledge.data.cohort.of("validation")[:MOST_USERS]
    new = texts[(texts["sample"] == 0) & texts.user.isin(users)]
    asked = [*pairs.prompt.repeat(2), *(prompts[user] for user in new.user)]
    answers = [*pairs[["chosen", "rejected"]].to_numpy().ravel(), *new.text]

    def build(folder):
        after, before = (completion_log_probs(policy, asked, answers) for policy in (turn.after, turn.before))
        ratio, count = after - before, 2 * len(pairs)
        margin = ratio[0:count:2] - ratio[1:count:2]
        write_values(pairs[KNOWN].assign(value=margin), folder)
        trained = {"pairs": len(turn.pairs), "pair_users": turn.pairs.user.nunique()}
        return {"loop": turn.loop, "round": turn.number} | trained | {"kl": float(ratio[count:].mean())}

    depends = {"after": turn.after.key, "before": turn.before.key, "texts": content_key([asked, answers])}
    depends |= {"known": fingerprint(pairs[KNOWN]), "pairs": fingerprint(turn.pairs[["user"]]), "loop": turn.loop}
    return Stage("heldout", turn.after.name, depends, build)
