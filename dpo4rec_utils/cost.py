"""What a run takes on this machine, told before it begins: minutes from a trial of a few seconds, memory and disk.

Sampling and re-rankers are tried. Training, Kullback-Leibler distances and encoding are the same model's or a similar
one's arithmetic, so they are counted in sampled texts; how many was measured in the default study.
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from dpo4rec_utils.alignment.heldout import MOST_USERS
from dpo4rec_utils.arms import LOOPS, cut_arms, table_arms, trained_loops
from dpo4rec_utils.config import PROTOCOLS, Config, as_dict
from dpo4rec_utils.data.data import Data
from dpo4rec_utils.knowledge.engines import open_sampler
from dpo4rec_utils.registries import BACKBONES
from dpo4rec_utils.rerankers.scorers import Scorers
from dpo4rec_utils.rerankers.training import train_reranker
from dpo4rec_utils.rungs import with_compared
from dpo4rec_utils.study import Study
from dpo4rec_utils.variants import RERANKER_CHANGES, VARIANTS, knowledge_backbones

TRIAL_USERS = 48  # half a shard: with fewer, the engine is slower
# Sampled texts that take as long, in the record of ml-100k: a pair of DPO, an example of supervised fine-tuning, a
# text whose log-probabilities are compared, a text that is encoded.
PAIR, EXAMPLE, LOG_PROB, ENCODED = 9, 4.6, 2.2, 0.08
# A re-ranker trained beside another is slower than the one that is tried; the walkthrough does a little of
# everything; and notebooks start and draw, in minutes.
CROWDED, WALKTHROUGH, NOTEBOOKS = 1.5, 1.1, 3
TEXT_WIDTH = 384  # of the default encoder
GIB = 2**30


def cost_sentences(study: Study) -> list[str]:
    """Texts, pairs and re-rankers of a whole run, and minutes, memory and disk. Samples a few texts and keeps none."""
    config, (seconds, tokens) = study.config, _sampling_trial(study)
    texts, trained, encoded = sampled_texts(study), trained_texts(study), len(study.data.dataset.items)
    rerankers = trained_rerankers(config)
    sampling, training = texts * seconds / 60, (trained + ENCODED * (texts + encoded)) * seconds / 60
    ranking = rerankers * CROWDED * _reranker_trial(study) / config.evaluation.workers / 60
    minutes = WALKTHROUGH * (sampling + training) + ranking + NOTEBOOKS
    return [
        f"a run: {texts} texts of about {tokens:.0f} tokens ({sampling:.1f} min), alignment ({training:.1f} min), {rerankers} "
        f"re-rankers ({ranking:.1f} min) and the notebooks themselves: about {minutes:.0f} minutes on this machine when nothing "
        "else runs, by a trial of a few seconds; what is in runs/ already is not made again",
        f"memory: about {memory(study.data):.0f} GiB with the default LLM and encoder; disk: 5 GiB with the environment",
    ]


def sampled_texts(study: Study) -> int:
    """Texts that a whole run samples: every policy's for every user, more for the users whose texts become pairs."""
    config, users = study.config, len(study.data.cohort.users)
    few, many, rounds = config.llm.evaluation_samples, config.llm.train_samples, config.alignment.rounds
    train = len(study.data.cohort.of("train")) - config.alignment.heldout_users
    paired = min(config.alignment.pair_users or train, train) + config.alignment.heldout_users
    start = 1 + _warm_start(study)
    rewarded = study.zero_shot.rewarded + study.begins_with("warm_start") + (rounds - 1) * len(study.loops)
    each = users * few * (start + rounds * len(study.loops)) + paired * (many - few) * rewarded
    if "item_llm" in config.evaluation.arms:
        each += len(study.data.dataset.items)
    samples = [VARIANTS[name].samples or 0 for name in config.evaluation.ablations]
    most = max(config.evaluation.most_samples or 0, *samples, 0)  # sampled once, for notebooks 06 and 07
    wide = users * few + paired * (most - few) if most > many else 0
    variants = few * len(config.evaluation.ablations) * len(study.data.cohort.of("validation"))
    repeats = 2 * users * few * config.evaluation.repeats
    return round(each + wide + variants + repeats)


def trained_texts(study: Study) -> float:
    """What a run trains, as the number of sampled texts that take as long."""
    config, settings, trained = study.config, study.config.alignment, 0.0
    examples, rounds = settings.pairs * settings.epochs, settings.rounds
    compared = 2 * (2 * settings.pairs_per_user * settings.heldout_users + MOST_USERS)
    for loop in study.loops:
        trained += rounds * ((EXAMPLE if LOOPS[loop].supervised else PAIR) * examples + LOG_PROB * compared)
    trained += EXAMPLE * _warm_start(study) * settings.warm_start_examples
    variants = sum(not VARIANTS[name].prompt for name in config.evaluation.ablations)
    repeats = PAIR * examples * config.evaluation.repeats
    return trained + repeats + variants * (PAIR * examples + LOG_PROB * compared / 2)


def trained_rerankers(config: Config) -> int:
    """Re-rankers that a run trains: own and shared scorers, reward models, referees, those of notebook 06."""
    evaluation, reward, plain = config.evaluation, config.reward, as_dict(config)
    arms = sum(len(table_arms(plain["evaluation"], plain["alignment"], protocol)) for protocol in PROTOCOLS)
    shared = 1 + bool(evaluation.uniform_arms)
    rewards = reward.folds * reward.seeds * _reward_models(config)
    adapters = 2 * (len(knowledge_backbones(evaluation.backbones)) + len(RERANKER_CHANGES))  # two arms of each
    ablations = (adapters + len(cut_arms(evaluation.arms)) * len(evaluation.backbones)) * evaluation.seeds
    judged = len(evaluation.backbones) * reward.referee_seeds
    main = len(evaluation.backbones) * (arms * evaluation.seeds + shared * evaluation.shared_seeds)
    rungs = with_compared(evaluation.ladder)
    repeats = 2 * evaluation.repeats * len(evaluation.backbones) * evaluation.seeds
    ladder = len(rungs) * sum(not BACKBONES[name].reads_history for name in evaluation.backbones) * evaluation.seeds
    return main + rewards + ablations + judged + ladder + repeats


def _reward_models(config: Config) -> int:
    """One a round of every loop, those of one start shared, notebook 03's without templates, and that of zero-shot
    texts where the ladder asks it and no loop does."""
    loops = [LOOPS[name] for name in trained_loops(config.evaluation.arms)]
    first = {(loop.starts_at(config.alignment.warm_start), loop.residual) for loop in loops}
    ladder = ("zero_shot", False) not in first and any(
        rung.rewarded for rung in with_compared(config.evaluation.ladder)
    )
    return len(first) + len(loops) * (config.alignment.rounds - 1) + 1 + ladder


def _warm_start(study: Study) -> bool:
    """Whether there is a warm start: a loop begins with it, or it is an arm."""
    return "warm_start" in study.config.evaluation.arms or study.begins_with("warm_start")


def memory(data: Data) -> float:
    """GiB at the peak: 4.5 with the default LLM, and the tables of interactions and vectors where they are large."""
    vectors = len(data.cohort.users) * 32 + 3 * len(data.dataset.items)
    return 4.5 + (len(data.dataset.interactions) * 400 + vectors * TEXT_WIDTH * 4) / GIB


def _sampling_trial(study: Study) -> tuple[float, float]:
    """Seconds a sampled text, and its tokens."""
    llm, prompts = study.config.llm, study.knowledge.prompts()
    chosen = [prompts[user] for user in study.data.cohort.of("validation")[:TRIAL_USERS]]
    with tempfile.TemporaryDirectory() as folder:
        sampler = open_sampler(study.zero_shot, study.config, Path(folder))
        sampler.sample(chosen[:1], [1], [0])  # what the first call compiles is no part of the speed
        start = time.perf_counter()
        answers = sampler.sample(chosen, [llm.evaluation_samples] * len(chosen), list(range(len(chosen))))
        seconds = time.perf_counter() - start
    return seconds / sum(map(len, answers)), float(np.mean([c.tokens for answer in answers for c in answer]))


def _reranker_trial(study: Study) -> float:
    """Seconds of training one PRM on the train users' lists with vectors of noise."""
    rng = np.random.default_rng(0)
    items = rng.standard_normal((len(study.data.dataset.items), TEXT_WIDTH), np.float32)
    text = rng.standard_normal((len(study.data.cohort.users), 1, TEXT_WIDTH), np.float32)
    task = Scorers(study.data, items, study.config).task("prm", "popularity", text, 1)
    start = time.perf_counter()
    train_reranker(task)
    return time.perf_counter() - start
