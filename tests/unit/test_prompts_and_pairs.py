"""Prompts by hand, templated profiles and preference pairs by property."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo4rec_utils.alignment import pairs as preference
from dpo4rec_utils.alignment.controls import rewarded_otherwise
from dpo4rec_utils.alignment.pairs import PairRules, RewardedTexts
from dpo4rec_utils.arms import LOOPS
from dpo4rec_utils.config import AlignmentConfig, RewardConfig
from dpo4rec_utils.data.dataset import Dataset
from dpo4rec_utils.data.domain import load_domain, render_words
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge import guards, prompts
from dpo4rec_utils.knowledge.facts import FactReader, Facts, named_facts
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.knowledge.repetition import is_repetitive
from dpo4rec_utils.rewards.estimates import TextFeatures
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.variants import VARIANTS
from tests.conftest import made_study

ITEMS = pd.DataFrame(
    {
        "item_id": ["a", "b", "c"],
        "title": ["Net, The", "Heat", "Alien"],
        "year": pd.array([1995, 1995, None], dtype="Int64"),
        "genres": [("Drama", "Thriller"), ("Drama",), ("Horror",)],
    }
)
HISTORY = pd.DataFrame({"item": [0, 2, 1], "rating": [5.0, 1.0, 4.0], "timestamp": [1, 2, 3]})
DATASET = Dataset("made", HISTORY, ITEMS, ("genres",))
MOVIES = load_domain("movies")
CONFIG = load_config("smoke")
FACTS = FactReader(DATASET, MOVIES, CONFIG).facts(HISTORY)
VOCABULARY = guards.Vocabulary(("drama", "thriller", "horror", "comedy", "war"), tuple(MOVIES.profile))


def facts_of(history, items=ITEMS, **config):
    changed = CONFIG.changed(data=CONFIG.data.changed(**config))
    return FactReader(Dataset("made", history, items, ("genres",)), MOVIES, changed).facts(history)


def fits(text):
    return True


def test_facts_by_hand():
    assert FACTS.titles == ("The Net", "Heat")
    assert FACTS.liked == (("Drama", 2), ("Thriller", 1))
    assert FACTS.disliked == (("Horror", 1),) and FACTS.avoided == ("Horror",)
    assert FACTS.decades == (("1990s", 2),) and FACTS.items == (0, 1)


def test_a_prompt_asks_with_demographics_where_there_are_any():
    known = replace(FACTS, demographics=("24 years", "male", "writer"))
    plain = prompts.user_question(known, MOVIES, "counts")
    assert prompts.user_question(known, MOVIES, "demographics") == f"Viewer: 24 years, male, writer\n{plain}"
    assert (
        prompts.user_question(FACTS, MOVIES, "demographics") == plain == prompts.user_question(FACTS, MOVIES, "counts")
    )


def test_liked_and_avoided_are_disjoint_and_counted_over_the_whole_history():
    genres = [("A",)] * 4 + [("B",), ("C",), ("D",), ("E",), ("F",)] + [("A",)] * 3 + [("G",)] * 2
    items = pd.DataFrame(
        {
            "item_id": [str(i) for i in range(len(genres))],
            "title": [f"T{i}" for i in range(len(genres))],
            "year": pd.array([1990] * len(genres), dtype="Int64"),
            "genres": genres,
        }
    )
    # A is liked four times and disliked three times; G is disliked twice and never liked; five others are liked once.
    rating = [5.0] * 9 + [1.0] * 5
    history = pd.DataFrame({"item": range(len(genres)), "rating": rating, "timestamp": range(len(genres))})
    facts = facts_of(history, items)
    assert facts.liked[0] == ("A", 4) and facts.avoided == ("G",)
    assert not set(facts.avoided) & {name for name, _ in facts.liked}
    late = facts_of(history.assign(rating=[5.0, 1.0, 1.0, 1.0] + [5.0] * 5 + [1.0] * 5), items)
    assert late.avoided == ("A", "G") and "A" not in dict(late.liked), "liked once, disliked six times"


def test_what_was_liked_as_often_as_disliked_is_not_avoided():
    history = pd.DataFrame({"item": [1, 0], "rating": [5.0, 1.0], "timestamp": [1, 2]})
    facts = facts_of(history)
    assert facts.avoided == ("Thriller",) and facts.liked == (("Drama", 1),), "one drama each"


def test_implicit_feedback_has_no_dislikes():
    facts = facts_of(HISTORY.assign(rating=1.0), feedback="implicit")
    assert facts.disliked == () and facts.titles == ("Heat", "Alien", "The Net")


def test_prompt_by_hand():
    lines = prompts.user_question(FACTS, MOVIES, "counts").splitlines()
    assert lines[:2] == ["Movies liked: The Net; Heat", "Genres liked: drama 2, thriller 1"]
    assert lines[2:] == [
        "Genres disliked: horror 1",
        "Decades liked: 1990s 2",
        "Describe this viewer's taste in movies in one sentence.",
    ]
    assert "Genres" not in prompts.user_question(FACTS, MOVIES, "titles")
    text = [render_words(MOVIES.item.facts, prompts.item_words(ITEMS.iloc[i], DATASET)) for i in (0, 2)]
    assert text == ["The Net (1995), a drama, thriller movie.", "Alien, a horror movie."]
    with pytest.raises(StudyError, match="llm.prompt = 'kounts' .* counts, titles"):
        prompts.user_question(FACTS, MOVIES, "kounts")


@pytest.mark.parametrize("name", ["movies", "books", "games", "products"])
def test_an_absent_fact_leaves_no_hole(name):
    domain, nothing = load_domain(name), Facts(("Title",), (), (), ())
    for facts in (FACTS, nothing):
        for seed in range(30):
            text = prompts.templated_profile(facts, domain, np.random.default_rng(seed), fits, seed % 2 == 0)
            assert text.startswith(" ") and text.endswith(".") and "  " not in text and " ," not in text, text
            assert "unknown" not in text and "None" not in text and " ." not in text and "by ." not in text, text
        for words in domain.user:
            question = prompts.user_question(facts, domain, words)
            assert "\n\n" not in question and ": \n" not in question and not question.startswith("\n")


def test_a_template_that_names_an_unknown_fact_is_one_sentence():
    with pytest.raises(StudyError, match="'colour' is undefined; known: genres, title, year"):
        render_words("{{ title }} {{ colour }}", prompts.item_words(ITEMS.iloc[0], DATASET))
    with pytest.raises(StudyError, match="data.domain = 'films' is no domain; allowed: books, games, movies, products"):
        load_domain("films")


def test_a_long_title_loses_whole_words():
    def tokenizer(text, add_special_tokens):
        return SimpleNamespace(input_ids=text.split())

    assert prompts.shortened("one two three", tokenizer, 3) == "one two three"
    assert prompts.shortened("one two, three", tokenizer, 2) == "one two"
    assert prompts.shortened("onlyoneword", tokenizer, 0) == "onlyoneword"


class Chat:
    """A chat template that writes down the roles and contents it is given."""

    chat_template = "made"

    def apply_chat_template(self, turns, tokenize, add_generation_prompt):
        return "".join(f"<{turn['role']}>{turn['content']}" for turn in turns)


def domain(**changes):
    return load_domain("movies").model_copy(update=changes)


def test_the_system_turn_is_the_domains():
    assert prompts.render(Chat(), domain(system=""), "Q", " P") == "<system><user>Q P"
    assert prompts.render(Chat(), domain(system=None), "Q", " P") == "<user>Q P"


def test_an_empty_history_is_one_sentence():
    with pytest.raises(StudyError, match="empty history"):
        facts_of(HISTORY[:0])


def test_a_user_who_liked_nothing_still_has_a_prompt():
    facts = facts_of(HISTORY.assign(rating=1.0))
    assert facts.titles and "Movies liked" in prompts.user_question(facts, MOVIES, "counts")
    rating = [1.0, 2, 1, 2, 1, 1]
    long = pd.DataFrame({"item": [0, 1, 2, 2, 0, 1], "rating": rating, "timestamp": range(6)})
    assert facts_of(long).titles == ("Alien", "Heat"), "the best rated third, the latest first"


def test_a_title_has_its_year_where_it_is_known():
    assert [prompts.titled(item) for _, item in ITEMS.iterrows()] == ["The Net (1995)", "Heat (1995)", "Alien"]


def test_a_randomised_profile_states_some_of_the_facts_as_often_as_it_says():
    names = [f"n{i}" for i in range(9)]
    pairs = tuple((name, 1) for name in names)
    facts, rng = Facts(tuple(names), pairs, pairs, pairs), np.random.default_rng(0)
    drawn = [prompts._some_facts(facts, rng) for _ in range(4000)]
    counts = {name: np.array([len(one[name]) for one in drawn]) for name in drawn[0]}
    for name, low, high, chance in (
        ("values", 2, 4, 1),
        ("decades", 1, 1, 0.5),
        ("titles", 1, 4, 0.85),
        ("avoided", 1, 2, 0.7),
    ):
        stated = counts[name][counts[name] > 0]
        assert len(stated) / 4000 == pytest.approx(chance, abs=0.03) and set(stated) == set(range(low, high + 1))
        assert all(one[name] == sorted(set(one[name])) for one in drawn), "each once, in the prompt's order"
    assert {name for one in drawn for name in one["avoided"]} == set(names[:3])
    plain = [prompts._some_facts(replace(facts, liked=()), rng)["titles"] for _ in range(200)]
    assert all(plain), "without values a title is always there"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_a_template_says_nothing_but_facts(seed, full):
    text = prompts.templated_profile(FACTS, MOVIES, np.random.default_rng(seed), fits, full)
    assert text.startswith(" ") and text.endswith(".") and "{" not in text
    named = guards.describe_text(text, FACTS, VOCABULARY)
    assert named["value"] == 1 and named["liked_wrong"] == 0 and "comedy" not in text and "war" not in text
    if full:
        assert "The Net" in text and "1990s" in text and "not horror" in text


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_pairs_properties(data):
    users, n = data.draw(st.integers(1, 6)), data.draw(st.integers(2, 9))
    values = st.floats(-5, 0, allow_nan=False, width=32)
    rewards = np.array([[data.draw(values) for _ in range(n)] for _ in range(users)])
    texts = [[f"text {u} {data.draw(st.integers(0, 3))}" for _ in range(n)] for u in range(users)]
    config = AlignmentConfig().changed(pairs_per_user=3, pairs=7)
    choice = RewardedTexts(np.arange(users), ["p"] * users, texts, rewards, np.ones(users))
    pairs = preference.build_pairs(choice, config)
    assert len(pairs) <= 7 and list(pairs.columns) == preference.COLUMNS
    for row in pairs.itertuples():
        assert rewards[row.user, row.chosen_sample] - rewards[row.user, row.rejected_sample] == row.gap > 0
        assert row.chosen != row.rejected
        assert row.chosen == texts[row.user][row.chosen_sample]
    assert (pairs.groupby("user").size() <= min(3, n // 2)).all()


def test_best_against_worst_by_hand():
    texts = [["a", "b", "c", "d"]]
    config = AlignmentConfig().changed(pairs_per_user=2, pairs=10)
    choice = RewardedTexts(np.array([4]), ["p"], texts, np.array([[0.1, 0.9, 0.5, 0.3]]), np.array([1]))
    pairs = preference.build_pairs(choice, config)
    assert list(zip(pairs.chosen, pairs.rejected, strict=True)) == [("b", "a"), ("c", "d")]


def test_of_more_pairs_than_asked_for_those_of_large_gaps_and_many_lists_are_kept():
    """Gap times the root of the lists: 0.3 x 3, 1.0 x 1, 0.4 x 2."""
    rewards = np.array([[0.3, 0], [1.0, 0], [0.4, 0]])
    choice = RewardedTexts(np.array([4, 5, 6]), ["p"] * 3, [["a", "b"]] * 3, rewards, np.array([9, 1, 4]))
    pairs = preference.build_pairs(choice, AlignmentConfig().changed(pairs_per_user=1, pairs=2))
    assert pairs.user.tolist() == [5, 4]


def test_an_unfinished_text_is_rejected_and_never_chosen():
    texts, rewards = [["a", "b", "c", "d", "e"]], np.array([[0.9, 0.4, 0.5, 0.3, 0.1]])  # a and b were cut
    ended = np.array([[False, False, True, True, True]])
    choice = RewardedTexts(np.array([4]), ["p"], texts, rewards, np.array([1]), choosable=ended, lowest=~ended)
    pairs = preference.build_pairs(choice, AlignmentConfig().changed(pairs_per_user=2, pairs=10))
    assert list(zip(pairs.chosen, pairs.rejected, strict=True)) == [("c", "b"), ("d", "a")]
    few = replace(choice, choosable=np.array([[False, False, True, False, False]]))
    pairs = preference.build_pairs(few, AlignmentConfig().changed(pairs_per_user=2, pairs=10))
    assert pairs.chosen.tolist() == ["c"], "there is one text that may be chosen"
    assert preference.build_pairs(replace(choice, choosable=~ended & ended), AlignmentConfig()).empty


def test_an_unchosen_text_is_rejected_where_its_reward_puts_it():
    texts, rewards = [["a", "b", "c", "d", "e"]], np.array([[0.9, 0.2, 0.5, 0.3, 0.1]])  # a and b repeat themselves
    whole = np.array([[False, False, True, True, True]])
    choice = RewardedTexts(np.array([4]), ["p"], texts, rewards, np.array([1]), choosable=whole)
    pairs = preference.build_pairs(choice, AlignmentConfig().changed(pairs_per_user=3, pairs=10))
    assert list(zip(pairs.chosen, pairs.rejected, strict=True)) == [("c", "e"), ("d", "b")], "e is worse than b"


@settings(max_examples=80)
@given(st.integers(2, 9), st.integers(0, 10**6))
def test_masks_keep_pairs_true(n, seed):
    """Whatever may not be chosen or counts as worst: none is chosen that may not be, no text is in two pairs, the
    chosen one is ahead."""
    rng = np.random.default_rng(seed)
    rewards, masks = rng.choice([0.1, 0.3, 0.5, 0.9, np.nan], (1, n)), rng.random((2, 1, n)) < 0.5
    texts = [[chr(97 + place) for place in range(n)]]
    choice = RewardedTexts(np.array([0]), ["p"], texts, rewards, np.array([1]), choosable=masks[0], lowest=masks[1])
    pairs = preference.build_pairs(choice, AlignmentConfig().changed(pairs_per_user=9))
    paired = [*pairs.chosen_sample, *pairs.rejected_sample]
    assert len(set(paired)) == len(paired) and masks[0][0][pairs.chosen_sample].all()
    order = choice.order[0]
    assert (order[pairs.chosen_sample] > order[pairs.rejected_sample]).all() and np.isfinite(order[paired]).all()


def test_a_repetitive_text_says_three_words_twice_and_more_often_than_its_prompt():
    assert is_repetitive("Films from the 1990s, especially from the 1980s; especially, from the 1990s.", "A viewer.")
    assert not is_repetitive("Films from the 1990s and from the 1980s.", "A viewer."), "two words are no phrase"
    prompt = "Liked: The Lord of the Rings, The Lord of the Rings 2."
    assert not is_repetitive("The Lord of the Rings and The Lord of the Rings 2.", prompt)
    assert is_repetitive("The lord of the rings, the lord of the rings, THE LORD OF the rings.", prompt)
    assert not is_repetitive("", prompt)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_repetition_counted_another_way(text, prompt):
    def times(words, phrase):
        return sum(words[place : place + 3] == phrase for place in range(len(words)))

    expected = any(times(text, text[n : n + 3]) > max(1, times(prompt, text[n : n + 3])) for n in range(len(text) - 2))
    assert is_repetitive(" ".join(text), " ".join(prompt)) == expected


def test_no_text_stands_in_two_pairs_even_if_it_was_sampled_twice():
    texts, rewards = [["a", "b ", " b", "c", "d"]], np.array([[0.5, 0.9, 0.9, 0.1, 0.3]])
    choice = RewardedTexts(np.array([0]), ["p"], texts, rewards, np.array([1]))
    pairs = preference.build_pairs(choice, AlignmentConfig().changed(pairs_per_user=3, pairs=10))
    assert list(zip(pairs.chosen, pairs.rejected, strict=True)) == [("b ", "c"), ("a", "d")]


def rewarded_texts_of(tokens: list[list[int]], **more) -> RewardedTexts:
    """Two users' texts, named by user and place, with lengths and rewards."""
    users, texts = np.arange(len(tokens)), [[f"{u}{n}" for n in range(len(row))] for u, row in enumerate(tokens)]
    facts = np.zeros((*np.shape(tokens), 6))
    facts[..., -1] = tokens
    features = TextFeatures(facts, facts, facts[:, 0], users)
    rewards = np.arange(np.size(tokens), dtype=float).reshape(np.shape(tokens))
    return RewardedTexts(users, ["p"] * len(users), texts, rewards, np.full(len(users), 10), features, **more)


def test_longer_wins_pairs_the_longest_text_that_may_be_chosen_with_the_shortest():
    choosable = np.array([[True, True, True, True], [True, False, True, True]])
    rewarded = rewarded_texts_of([[9, 30, 20, 12], [9, 30, 20, 12]], choosable=choosable, lowest=~choosable)
    longer = rewarded_otherwise(rewarded, "length", np.random.default_rng(0))
    pairs = preference.build_pairs(longer, AlignmentConfig().changed(pairs_per_user=2, pairs=10))
    sides = pairs.groupby("user")[["chosen", "rejected"]].agg(list)
    assert sides.loc[0].tolist() == [["01", "02"], ["00", "03"]] and pairs[pairs.user == 0].gap.tolist() == [21, 8]
    # The longest text of user 1 was cut: it counts as the worst, with the reward of the shortest.
    assert sides.loc[1].tolist() == [["12", "13"], ["11", "10"]] and pairs[pairs.user == 1].gap.tolist() == [11, 3]


def test_random_labels_say_nothing_of_the_reward_and_keep_its_rules():
    choosable = np.tile([True] * 7 + [False], (400, 1))
    rewarded = rewarded_texts_of([[9] * 8] * 400, choosable=choosable)
    rewarded.rewards[:, 0] = np.nan  # may not be paired
    random = rewarded_otherwise(rewarded, "random", np.random.default_rng(0))
    pairs = preference.build_pairs(random, AlignmentConfig().changed(pairs_per_user=1, pairs=400))
    assert len(pairs) == 400 and not pairs.chosen_sample.isin([0, 7]).any() and (pairs.rejected_sample != 0).all()
    better = pairs.chosen_sample > pairs.rejected_sample  # by the rewards, which rise with the place
    assert 0.35 < better[pairs.rejected_sample != 7].mean() < 0.65
    counts = pairs.chosen_sample.value_counts()
    assert sorted(counts.index) == [1, 2, 3, 4, 5, 6] and counts.min() > 35, "every text is chosen as often, 67 times"


def test_supervised_controls_have_as_many_examples_for_the_same_users(tmp_path):
    study = made_study(load_config("smoke", {"alignment": {"pairs_per_user": 2}}), tmp_path)
    rows = [(u, f"p{u}", f"c{u}{n}", f"r{u}{n}", 1, 2, 0.5) for u, n in ((3, 0), (5, 0), (3, 1))]
    pairs = pd.DataFrame(rows, columns=preference.COLUMNS)
    best, templates = (study._examples(LOOPS[name], pairs) for name in ("rft", "template_sft"))
    assert best.completion.tolist() == ["c30", "c50", "c31"] and templates.user.tolist() == [3, 5, 3]
    drawn = study.knowledge.template_texts(2, full=True)
    assert templates.completion.tolist() == [drawn[3][0], drawn[5][0], drawn[3][1]]
    assert best.prompt.tolist() == templates.prompt.tolist() == ["p3", "p5", "p3"]


def test_a_starved_round_stops_with_one_sentence():
    config = AlignmentConfig().changed(pairs=10)
    preference.require_pairs(pd.DataFrame(index=range(8)), config, "dpo_round_1")
    with pytest.raises(
        StudyError, match="dpo_round_1 found 7 pairs of 10 asked for, fewer than 80%; raise alignment.pair"
    ):
        preference.require_pairs(pd.DataFrame(index=range(7)), config, "dpo_round_1")
    with pytest.raises(StudyError, match="fewer than 80%; raise llm.train_samples, or ask for fewer a user with"):
        preference.require_pairs(pd.DataFrame(index=range(7)), config, "dpo_round_1", preference.MORE_HELDOUT)


@given(st.integers(0, 10**6), st.integers(4, 40))
@settings(max_examples=60, deadline=None)
def test_a_template_keeps_to_the_limit_and_drops_from_the_longest_list(seed, limit):
    facts = Facts(tuple(f"Title{i}" for i in range(10)), (("Drama", 3), ("War", 1)), (), (("1990s", 2),))
    text = prompts.templated_profile(
        facts, MOVIES, np.random.default_rng(seed), lambda text: len(text.split()) <= limit, True
    )
    assert len(text.split()) <= limit or not any(word in text for word in ("Title", "drama", "1990s"))
    if "Title9" not in text and "Title1" in text:
        assert "drama and war" in text, "ten titles are shortened before two genres"


def test_each_round_asks_other_train_users(tmp_path):
    study = made_study(load_config("smoke", {"data": {"max_users": 30}, "alignment": {"pair_users": 5}}), tmp_path)
    rounds = [study.knowledge.pair_users(Policy("p", "embedded", round=number)).tolist() for number in range(4)]
    heldout, train = study.knowledge.heldout_users.tolist(), study.data.cohort.of("train").tolist()
    assert len(heldout) == 3 and sorted(rounds[0] + rounds[1] + rounds[2] + heldout) == train
    assert rounds[3] == rounds[0] == study.knowledge.pair_users(study.zero_shot).tolist()
    every = made_study(load_config("smoke", {"alignment": {"pair_users": None}}), tmp_path)
    asked = every.knowledge.pair_users(every.zero_shot).tolist()
    assert sorted(asked + every.knowledge.heldout_users.tolist()) == every.data.cohort.of("train").tolist()
    most = made_study(load_config("smoke", {"alignment": {"heldout_users": 7}}), tmp_path)
    with pytest.raises(StudyError, match="alignment.heldout_users = 7 of 14 train users .* allowed: at most 6"):
        assert most.knowledge.heldout_users is None


def test_texts_without_a_reward_make_no_pair():
    texts, config = [["a", "b", "c", "d"]], AlignmentConfig().changed(pairs_per_user=2, pairs=10)
    rewards = np.array([[0.1, 0.9, np.nan, 0.3]])
    choice = RewardedTexts(np.array([4]), ["p"], texts, rewards, np.array([1]))
    pairs = preference.build_pairs(choice, config)
    assert list(zip(pairs.chosen, pairs.rejected, strict=True)) == [("b", "a")]
    two = RewardedTexts(np.array([4, 5]), ["p"] * 2, texts * 2, np.array([[np.nan, 0.1, 0.2, 0.3]] * 2), np.ones(2))
    few = np.array([[np.nan, 0.1, 0.2, 0.3], [np.nan, np.nan, np.nan, 1.0]])
    group = preference.groups(replace(two, rewards=few))
    assert group.user.tolist() == [4] and group.rewards[0] == [None, 0.1, 0.2, 0.3] and group.texts[0] == texts[0]


def test_guards_by_hand():
    said = guards.describe_text(" horror movies like Heat from the 1990s.", FACTS, VOCABULARY)
    assert (said["liked_wrong"], said["avoided"], said["title"], said["decade"], said["hedging"]) == (1, 0, 1, 1, 0)
    said = guards.describe_text(" good stories, but not horror.", FACTS, VOCABULARY)
    assert (said["liked_wrong"], said["avoided"], said["title"]) == (0, 1, 0)
    said = guards.describe_text(" good stories.", FACTS, VOCABULARY)
    assert (said["hedging"], said["mimic"], said["copied"]) == (1, 0, 0)
    said = guards.describe_text(" mostly drama and thriller, such as Heat, but not horror.", FACTS, VOCABULARY)
    assert (said["mimic"], said["copied"]) == (1, pytest.approx(4 / 10))


def test_guards_of_many_texts_by_hand():
    table = pd.DataFrame({"user": [0, 0, 0, 0], "text": ["old war films", "old war films", "war films", "drama"]})
    means = guards.describe_texts(table, [FACTS], VOCABULARY)
    assert means.words == pytest.approx((3 + 3 + 2 + 1) / 4) and means.value == 1
    assert means.distinct_texts == 3 / 4
    assert means.distinct_bigrams == 2 / 5, "old war, war films; five in all"


def test_words_that_change_by_hand():
    before, after = pd.Series(["a film", "a war film", "a b", "war war"]), pd.Series(["a film", "old film"])
    table = guards.changed_words(before, after, top=3).set_index("word")
    assert table.before.to_dict() == {"war": 0.5, "film": 0.5, "old": 0}, "texts that say it, not times"
    assert table.change.to_dict() == {"war": -0.5, "film": 0.5, "old": 0.5}
    assert table.change.is_monotonic_increasing


def test_what_a_text_is_near_to_by_hand():
    """User 0 liked items 0 and 1, user 1 liked nothing, so all of the history counts."""
    histories = [pd.DataFrame({"item": [0, 1, 2], "rating": [5.0, 4, 1]}), pd.DataFrame({"item": [2], "rating": [1.0]})]
    knowledge = SimpleNamespace(config=CONFIG, data=SimpleNamespace(cohort=SimpleNamespace(history=histories)))
    items = np.array([[1.0, 0], [0, 1], [-1, 0]])
    likes = guards.mean_likes(SimpleNamespace(knowledge=knowledge, item_vectors=items))
    np.testing.assert_allclose(likes, [[0.5**0.5, 0.5**0.5], [-1, 0]])
    vectors, other = np.array([[0.0, 1], [-1, 0]]), np.array([1, 0])
    metrics = guards.similarity_stage(vectors, likes, other).build(None)
    assert metrics["own_mean"] == pytest.approx((0.5**0.5 + 1) / 2) and metrics["own_above_another"] == 1
    assert metrics["another_mean"] == pytest.approx(-(0.5**0.5) / 2)
    assert metrics["own"][-1] == 1 and metrics["another"][0] == 1, "histograms over the same edges"
    same = guards.similarity_stage(likes, likes, np.array([0, 1])).build(None)
    assert same["own_above_another"] == 0, "as near to another is not nearer"


def made_rewarded(users, samples=8):
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(users, samples))
    texts = [[f"t{u} {s}" for s in range(samples)] for u in range(users)]
    arrays = rng.normal(size=(users, samples, 6)), rng.normal(size=(users, samples, 3)), rng.normal(size=(users, 3))
    features = TextFeatures(*arrays, np.arange(users) % 5)
    users = np.arange(users)
    return RewardedTexts(
        users, ["p"] * len(users), texts, rewards, np.ones(len(users)), features, realised=rewards, unseen=rewards
    )


def test_variants_with_fewer_texts_or_pairs_ask_for_what_there_can_be():
    config, choice = AlignmentConfig().changed(pairs=640, pairs_per_user=3), made_rewarded(260)
    assert choice.most_pairs(config) == 780 and made_rewarded(260, 4).most_pairs(config) == 520
    assert made_rewarded(260, 2).most_pairs(config) == choice.most_pairs(config.changed(pairs_per_user=1)) == 260
    for variant in ("samples_2", "samples_4", "one_pair_a_user"):
        changed = config.changed(**VARIANTS[variant].alignment)
        some = made_rewarded(260, VARIANTS[variant].samples or 8)
        asked = changed.changed(pairs=min(changed.pairs, some.most_pairs(changed)))
        preference.require_pairs(preference.build_pairs(some, asked), asked, variant)


def test_pairs_of_fewer_texts_are_described_as_well(tmp_path):
    study = made_study(load_config("smoke"), tmp_path)
    for samples in (2, 4, 8):
        choice = replace(made_rewarded(14, samples), users=study.data.cohort.of("train"))
        heldout = np.isin(choice.users, study.knowledge.heldout_users)
        choice.features.fold[heldout] = -1
        choice.rewards[np.flatnonzero(~heldout)[0]] = np.nan  # none of this user's texts may be paired
        config = study.config.alignment.changed(pairs=8)
        train, kept = study.training_pairs(choice, "variant", config), study.heldout_pairs(choice, "variant", config)
        assert len(train) == 8 and set(kept.user) <= set(study.knowledge.heldout_users) and len(kept) >= 3
        assert kept[["tokens", "unseen", "probe_facts", "probe_vector", "probe_fit"]].notna().all(axis=None)
        assert (kept.unseen > 0).all(), "the same rewards here, so every pair agrees with them"


def test_a_name_is_counted_as_whole_words():
    facts = Facts(("M", "It", "Heat (1995)", "Léon"), (("drama", 2),), (), (("1990s", 2),))
    assert named_facts("likes many melodramas with spirit, of heat (1995)", facts)[:2] == (1, 0)
    assert named_facts("M and LÉON, a drama of the 1990s.", facts) == (2, 1, 0, 1, 8)


RULES = [("rejected", "paired"), ("left_out", "paired"), ("paired", "paired"), ("paired", "unchosen")]


@pytest.mark.parametrize(("unfinished", "repetitive"), [*RULES, ("paired", "rejected"), ("left_out", "rejected")])
def test_held_out_users_are_rewarded_by_every_second_list(monkeypatch, unfinished, repetitive):
    """Users 0 and 2 are paired, 1 and 4 held out; user 4 has one list; the second text of user 0 was cut and repeats
    itself."""
    lists = SimpleNamespace(user=np.array([0, 1, 1, 0, 1, 2, 4]))
    rewards = np.array([[0.0, 4, 1], [1, 0, 0], [0, 9, 0], [2, 4, 1], [3, 0, 0], [5, 6, 7], [1, 2, 3]])
    faulty = "t01 t01 t01 t01"
    rows = [(u, n, f"t{u}{n}", 5, True) for u in (0, 1, 2, 4) for n in range(3)]
    rows[1] = (0, 1, faulty, 5, False)
    texts = pd.DataFrame(rows, columns=["user", "sample", "text", "tokens", "finished"])
    knowledge = SimpleNamespace(
        heldout_users=np.array([1, 4]),
        pair_users=lambda _: np.array([0, 2]),
        texts=lambda _: texts,
        prompts=lambda: list("abcde"),
        seed=1,
    )
    monkeypatch.setattr(preference, "read_features", lambda _, __, users, fold, ___: SimpleNamespace(fold=fold))
    model = SimpleNamespace(rewards={"ndcg": rewards}, lists=lists)
    rules = PairRules(RewardConfig(kind="ndcg", estimate="realised", equal_length=False), unfinished, repetitive)
    choice = preference.rewarded_texts(SimpleNamespace(knowledge=knowledge), "zero_shot", model, rules)
    rule = unfinished if unfinished != "paired" else repetitive
    cut = {"rejected": 1, "left_out": np.nan, "paired": 4, "unchosen": 4}[rule]
    expected = np.array([[1, cut, 1], [2, 0, 0], [5, 6, 7], [1, 2, 3]])
    np.testing.assert_array_equal(choice.order, expected)
    if rule != "left_out":
        assert choice.rewards[0, 1] == 4, "what a text is worth is kept"
    assert choice.users.tolist() == [0, 1, 2, 4] and choice.list_counts.tolist() == [2, 3, 1, 1]
    np.testing.assert_array_equal(choice.unseen, [[np.nan] * 3, [0, 9, 0], [np.nan] * 3, [np.nan] * 3])
    pairs = preference.build_pairs(choice, AlignmentConfig().changed(pairs_per_user=1))
    chosen = dict(zip(pairs.user, pairs.chosen, strict=True))
    assert chosen.get(0) == (faulty if rule == "paired" else None)
    assert (chosen[1], chosen[2], chosen[4]) == ("t10", "t22", "t42")


def test_held_out_users_who_give_too_few_pairs_stop_the_round(tmp_path):
    study, choice = made_study(load_config("smoke"), tmp_path), made_rewarded(14, 4)
    heldout = study.knowledge.heldout_users
    choice = replace(choice, users=study.data.cohort.of("train"))
    one = np.isin(choice.users, heldout)
    choice.rewards[one] = 0.5  # no gap, no pair
    with pytest.raises(StudyError, match="dpo_round_1, held-out users, found 0 pairs of 6 asked for"):
        study.heldout_pairs(choice, "dpo_round_1")
