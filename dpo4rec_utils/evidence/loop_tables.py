"""Tables about the loop and its parts: rankers, texts, rewards, training, ablations, rounds, samples, cost."""

import itertools

import numpy as np
import pandas as pd

from dpo4rec_utils.arms import ABLATION_ARMS, ARMS, LOOPS, round_name, trained_loops
from dpo4rec_utils.config import REFEREE_KINDS, SPLITS
from dpo4rec_utils.evidence.records import Records
from dpo4rec_utils.evidence.statistics import clustered_share, t_of_mean
from dpo4rec_utils.files import MissingRecordError

PROBES = {  # how the table writes them
    "longer wins": "the longer wins",
    "facts": "facts named",
    "vector": "the vector",
    "cosine": "fit to the history",
    "fit": "all of these",
}

REFEREE_SPLITS = (*SPLITS, "train_later")


def sanity_rankers(records: Records) -> pd.DataFrame:
    """Random, popularity and mean-rating rankers on validation lists: protocol, ranker, metric, k, mean, lists."""
    return pd.DataFrame(records.metrics("data", "sanity")["rows"])


def knowledge_texts(records: Records) -> pd.DataFrame:
    """What zero-shot texts and templates say: the guards of both arms."""
    return pd.DataFrame([records.metrics("guards", name) for name in ("zero_shot", "template")])


def hostile_title(records: Records) -> pd.DataFrame:
    """What a title with control words does: title, control_tokens of a prompt, tokens a text, mean reward, a_text."""
    return pd.DataFrame(records.metrics("title", "hostile")["rows"])


def reward_reliability(records: Records) -> pd.DataFrame:
    """Split-half reliability of every reward model: reward_model, split, reward, r, gain, users."""
    rows = []
    for record in records.kind("reward"):
        for name, values in record["metrics"]["reliability"].items():
            split, kind = name.split("/")
            rows.append({"reward_model": record["name"], "split": split, "reward": kind} | values)
    if not rows:
        raise MissingRecordError(f"There is no reward record in {records.profile}; run notebook 03.")
    return pd.DataFrame(rows)


def untrained_policies(records: Records) -> list[str]:
    """Names of the policies before any round: the zero-shot LLM, and the warm start where there is one."""
    warm = "warm_start" in (records.start, *records.config["evaluation"]["arms"])
    return ["zero_shot", "warm_start"] if warm else ["zero_shot"]


def trained_policies(records: Records, loops: list[str] | None = None) -> list[str]:
    """Names of the policies after each round of these loops, or of all that this profile trains, the headline's
    first."""
    numbers = range(1, records.config["alignment"]["rounds"] + 1)
    return [
        round_name(r, loop) for loop in loops or trained_loops(records.config["evaluation"]["arms"]) for r in numbers
    ]


def probe(records: Records) -> pd.DataFrame:
    """Can it be learned? How often probes and "the longer wins" order pairs rightly, for two estimates of the reward:
    estimate, equal_length, probe, pairs, users, accuracy, ci_low, ci_high (of users)."""
    name, rows = records.start, []
    values, sizes = records.values("probe", name), records.metrics("probe", name)["sizes"]
    for (estimate, equal, probe_name), part in values.groupby(
        ["estimate", "equal_length", "probe"], observed=True, sort=False
    ):
        share = clustered_share(part.value.to_numpy(), part.user.to_numpy())
        row = {
            "estimate": estimate,
            "equal_length": equal == "True",
            "probe": PROBES[probe_name],
            **sizes[f"{estimate}/{equal}"],
        }
        rows.append(row | dict(zip(("accuracy", "ci_low", "ci_high"), share, strict=True)))
    return pd.DataFrame(rows)


def repetitive_share(records: Records, name: str) -> float:
    """Share of a policy's texts that repeat themselves; NaN where they were not counted, as of templates."""
    if f"repetition-{name}" not in records.listed:
        return float("nan")
    counts = records.metrics("repetition", name)
    return counts["repetitive"] / counts["texts"]


def training_summary(records: Records) -> pd.DataFrame:
    """DPO runs: policy, pairs, steps, first_loss, last_loss, last_margin (nats times beta), accuracy on new pairs."""
    rows = []
    for name in aligned_policies(records):
        log = records.metrics("policy", name)["log"]
        row = {
            "policy": name,
            "pairs": records.metrics("policy", name)["examples"],
            "steps": len(log),
            "first_loss": log[0]["loss"],
            "last_loss": log[-1]["loss"],
        }
        rows.append(row | {"last_margin": log[-1]["rewards/margins"], "accuracy": accuracy_on_new_pairs(log)})
    return pd.DataFrame(rows)


def aligned_policies(records: Records) -> list[str]:
    """The policies that DPO trained: those of loops that imitate are left out."""
    return [name for name in trained_policies(records) if not LOOPS[name.partition("_round_")[0]].supervised]


def accuracy_on_new_pairs(log: list[dict]) -> float:
    """Share of pairs that the policy orders rightly before it is trained on them, from the fourth step on; NaN without.

    With one epoch every pair of a step is new to the policy.
    """
    accuracies = [row["rewards/accuracies"] for row in log[3:] if "rewards/accuracies" in row]
    return float(np.mean(accuracies)) if accuracies else float("nan")


def text_guards(records: Records) -> pd.DataFrame:
    """What each policy's texts and templates say; `repetitive`: the share of all its texts that repeat themselves;
    `kl_to_start`: nats a text that a round's policy has moved."""
    trained = trained_policies(records)
    arms = [*untrained_policies(records), *trained, "template"]
    guards = pd.DataFrame([records.metrics("guards", name) for name in arms])
    moved = {name: records.metrics("kl", name)["nats"] for name in trained if name.startswith("dpo_round_")}
    repetitive = [repetitive_share(records, name) for name in arms]
    return guards.assign(repetitive=repetitive, kl_to_start=guards.arm.map(moved).astype(float))


def ablation_knowledge(records: Records) -> pd.DataFrame:
    """NDCG@7 of the knowledge arms, popularity negatives, own scorers: arm, backbone, mean, std, seeds (list means)."""
    rows, few = [], None
    for arm in ("user", "noise", "none", "item", "dpo_shuffled", records.last):
        record = ("ablation", f"knowledge-popularity-{arm}") if arm in ABLATION_ARMS else ("own", f"popularity-{arm}")
        means = _ndcg_at_7(records.metrics(*record)["arms"][arm]["means"])
        few = few or list(means)
        rows += [{"arm": arm, "backbone": backbone} | _spread(means[backbone]) for backbone in few]
    order = ["none", "user", "item", "noise", "dpo_shuffled", records.last]
    table = pd.DataFrame(rows).assign(arm=lambda frame: pd.Categorical(frame.arm, order))
    return table.sort_values("arm", kind="stable", ignore_index=True).astype({"arm": str})


def ablation_adapter(records: Records) -> pd.DataFrame:
    """NDCG@7 (list means) of PRM with other adapters, with item text and with the last round's: adapter, arm, mean,
    std, seeds."""
    rows, order = [], ["hea", "moe", "mlp", "hea-no-interaction"]
    for adapter in order:
        for arm in ("item", records.last):
            means = records.metrics("ablation", f"{adapter}-popularity-{arm}")["arms"][arm]["means"]
            (values,) = _ndcg_at_7(means).values()
            rows.append({"adapter": adapter, "arm": arm} | _spread(values))
    return pd.DataFrame(rows)


def _ndcg_at_7(means: dict) -> dict[str, list[float]]:
    """backbone -> mean NDCG@7 over lists, a value a seed, of a record's `means`."""
    return {cell.split("/")[0]: values["list"] for cell, values in means.items() if cell.endswith("/ndcg@7")}


def _spread(values: list[float]) -> dict:
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return {"mean": np.mean(values), "std": spread, "seeds": len(values)}


def referee_values(records: Records) -> dict[str, np.ndarray]:
    """'arm/split/kind' -> the referees' or the reward models' value of every user."""
    values = records.values("referees", "rounds")
    groups = values.groupby(["arm", "split", "kind"], observed=True).value
    return {"/".join(key): part.to_numpy(float) for key, part in groups}


def ablation_preference(records: Records) -> pd.DataFrame:
    """What the referees think of round 1, its controls' round 1, and its variants: arm, split, reward, users,
    difference (to the policy that round 1 started from), ci_half (half the width of its 95 % interval), t."""
    metrics, rows = records.metrics("referees", "rounds"), []
    values, begin = referee_values(records), records.start
    first = list(dict.fromkeys(name for name in ("dpo_round_1", "zero_shot") if name != begin))
    # Not what only the last round has: later rounds, and the last round's texts of other users.
    others = [name for name in metrics["others"] if name != "dpo_shuffled" and not _later(name)]
    for arm, split, kind in itertools.product([*first, *others], REFEREE_SPLITS, REFEREE_KINDS):
        if f"{arm}/{split}/{kind}" in values:
            change = values[f"{arm}/{split}/{kind}"] - values[f"{begin}/{split}/{kind}"]
            half = 1.96 * change.std(ddof=1) / np.sqrt(len(change))
            rows.append((arm, split, kind, len(change), change.mean(), half, t_of_mean(change)))
    return pd.DataFrame(rows, columns=["arm", "split", "reward", "users", "difference", "ci_half", "t"])


def _later(name: str) -> bool:
    """Whether a policy is that of a round after the first."""
    number = name.partition("_round_")[2]
    return number.isdigit() and int(number) > 1


def rewards_by_round(records: Records) -> pd.DataFrame:
    """round, split, reward, mean, difference_to_round_0, t, mean_tokens, distinct_texts.

    Splits are train users (whose lists the referees were trained on), validation users (who set their temperature),
    test users, and 'train_later', the later lists of train users, where anybody has some. `distinct_texts` and
    `mean_tokens` are of all texts.

    Round 0 is the policy before the first DPO round; -1 is the zero-shot LLM where a warm start precedes it. `reward`
    is 'independent_log_likelihood', 'independent_ndcg' (referees) or 'claimed_log_likelihood' (the reward models' own
    view, its differences summed over rounds; the level has no meaning across models and is left out).
    """
    metrics = records.metrics("referees", "rounds")
    loop, values, rows = metrics["loop"], referee_values(records), []
    for name in metrics["policies"]:
        number = loop.index(name) if name in loop else -1
        texts = records.metrics("texts", name)
        shape = (texts["tokens"] / texts["texts"], texts["distinct"] / texts["texts"])
        for split in REFEREE_SPLITS:
            for kind in REFEREE_KINDS:
                if f"{name}/{split}/{kind}" not in values:  # nobody has later lists
                    continue
                value = values[f"{name}/{split}/{kind}"]
                change = value - values[f"{loop[0]}/{split}/{kind}"]
                row = (number, split, f"independent_{kind}", value.mean(), change.mean(), t_of_mean(change))
                rows.append((*row, *shape))
            if number > 0 and split in ("train", "validation"):
                claim = sum(values[f"{p}/{split}/claimed"] for p in loop[1 : number + 1])
                row = (number, split, "claimed_log_likelihood", float("nan"), claim.mean(), t_of_mean(claim))
                rows.append((*row, *shape))
    columns = ["round", "split", "reward", "mean", "difference_to_round_0", "t", "mean_tokens", "distinct_texts"]
    return pd.DataFrame(rows, columns=columns).sort_values(["round", "split", "reward"], ignore_index=True)


def cost(records: Records) -> pd.DataFrame:
    """What a round takes and gives: round, mean (independent log-likelihood, test users), difference_to_round_0, t,
    ci_half (of its 95 % interval), minutes of sampling, rewarding and training so far, gain_a_minute."""
    metrics, table, minutes, total = records.metrics("referees", "rounds"), rewards_by_round(records), {}, 0.0
    for name in metrics["policies"]:
        kinds = [("policy", name), ("texts", name)] if name != "zero_shot" else [("texts", name)]
        if name in metrics["loop"][:-1]:
            kinds.append(("reward", name))
        total += sum(records.get(*kind)["seconds"] for kind in kinds) / 60
        minutes[metrics["loop"].index(name) if name in metrics["loop"] else -1] = total
    test = table[(table.split == "test") & (table.reward == "independent_log_likelihood")]
    half = 1.96 * (test.difference_to_round_0 / test.t).abs().fillna(0)
    costs = test.assign(minutes=test["round"].map(minutes), ci_half=half)
    costs["gain_a_minute"] = costs["mean"].diff() / costs.minutes.diff()
    return costs[["round", "mean", "difference_to_round_0", "t", "ci_half", "minutes", "gain_a_minute"]]


def samples(records: Records) -> pd.DataFrame:
    """What the best of N texts gains on the other half of a user's lists: samples, reward, r, gain, ci_half (of its
    95 % interval), users, minutes, gain_a_minute."""
    metrics = records.metrics("samples", "gain")
    texts = records.get("texts", metrics["texts"])
    a_text = texts["seconds"] / texts["metrics"]["texts"] / 60
    table = pd.DataFrame(metrics["rows"])
    table["minutes"] = a_text * table.samples * metrics["users"]
    by_reward = table.groupby("reward")
    return table.assign(gain_a_minute=by_reward.gain.diff() / by_reward.minutes.diff())


def stages(records: Records) -> pd.DataFrame:
    """stage, seconds, peak_rss_mib: what each recorded stage took when it ran."""
    rows = [(f"{r['kind']}:{r['name']}", r["seconds"], r["peak_rss_mib"]) for r in records.all()]
    return pd.DataFrame(rows, columns=["stage", "seconds", "peak_rss_mib"]).sort_values("stage", ignore_index=True)


def arms(records: Records) -> pd.DataFrame:
    """The arms of this profile's main table: arm, words in figures, question."""
    names = records.config["evaluation"]["arms"]
    rows = [(name, ARMS[name].label, ARMS[name].question) for name in names]
    rows.append(("dpo_round_r", "DPO round r", "DPO4Rec after round r"))
    return pd.DataFrame(rows, columns=["arm", "in figures", "question"])
