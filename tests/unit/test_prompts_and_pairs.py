"""Prompts by hand, templated profiles and preference pairs by property."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo4rec_utils.alignment import pairs as preference
from dpo4rec_utils.alignment.pairs import Candidates
from dpo4rec_utils.config import AlignmentConfig, DataConfig
from dpo4rec_utils.data.dataset import Dataset
from dpo4rec_utils.data.domain import load_domain, render_words
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge import guards, prompts
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.study import Study

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
FACTS = prompts.FactReader(DATASET, "genres", DataConfig()).facts(HISTORY)
VOCABULARY = guards.Vocabulary(("drama", "thriller", "horror", "comedy", "war"), tuple(MOVIES.profile))


def facts_of(history, items=ITEMS, **config):
    return prompts.FactReader(Dataset("made", history, items, ("genres",)), "genres", DataConfig(**config)).facts(
        history
    )


def test_facts_by_hand():
    assert FACTS.titles == ("The Net", "Heat")
    assert FACTS.liked == (("Drama", 2), ("Thriller", 1))
    assert FACTS.disliked == (("Horror", 1),) and FACTS.avoided == ("Horror",)
    assert FACTS.decades == (("1990s", 2),)


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
    domain, nothing = load_domain(name), prompts.Facts(("Title",), (), (), ())
    for facts in (FACTS, nothing):
        for seed in range(30):
            text = prompts.templated_profile(facts, domain, np.random.default_rng(seed), seed % 2 == 0)
            assert text.startswith(" ") and text.endswith(".") and "  " not in text and " ," not in text, text
            assert "unknown" not in text and "None" not in text and " ." not in text and "by ." not in text, text
        for words in domain.user:
            question = prompts.user_question(facts, domain, words)
            assert "\n\n" not in question and ": \n" not in question and not question.startswith("\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("user: [", "is not valid YAML"),
        ("user: {}", "user|item|profile"),
        ("itme: 1", "itme: extra inputs are not permitted"),
    ],
)
def test_a_malformed_domain_is_one_sentence(tmp_path, content, words):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(StudyError, match=words) as error:
        load_domain(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(error.value)


def test_a_template_that_names_an_unknown_fact_is_one_sentence():
    with pytest.raises(StudyError, match="'colour' is undefined; known: genres, title, year"):
        render_words("{{ title }} {{ colour }}", prompts.item_words(ITEMS.iloc[0], DATASET))
    with pytest.raises(StudyError, match="cannot be written"):
        render_words("{{ title.__class__.__mro__ }}", prompts.item_words(ITEMS.iloc[0], DATASET))
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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_a_template_says_nothing_but_facts(seed, full):
    text = prompts.templated_profile(FACTS, MOVIES, np.random.default_rng(seed), full)
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
    config = AlignmentConfig().changed(pairs_per_user=3, pairs=7, margin=0.1)
    choice = Candidates(np.arange(users), ["p"] * users, texts, rewards, np.ones(users))
    pairs = preference.build_pairs(choice, config)
    assert len(pairs) <= 7 and list(pairs.columns) == preference.COLUMNS
    for row in pairs.itertuples():
        assert rewards[row.user, row.chosen_sample] - rewards[row.user, row.rejected_sample] == row.gap > 0.1
        assert row.chosen != row.rejected
        assert row.chosen == texts[row.user][row.chosen_sample]
    assert (pairs.groupby("user").size() <= min(3, n // 2)).all()


def test_best_against_worst_by_hand():
    texts = [["a", "b", "c", "d"]]
    config = AlignmentConfig().changed(pairs_per_user=2, pairs=10)
    choice = Candidates(np.array([4]), ["p"], texts, np.array([[0.1, 0.9, 0.5, 0.3]]), np.array([1]))
    pairs = preference.build_pairs(choice, config)
    assert list(zip(pairs.chosen, pairs.rejected, strict=True)) == [("b", "a"), ("c", "d")]
    best = preference.best_of_n(choice, config)
    assert best.completion.tolist() == ["b"]
    assert preference.build_pairs(choice.first(3), config).rejected.tolist() == ["a"]


def test_random_pairs_have_the_same_shape_and_ignore_the_reward():
    texts = [[f"t{i}" for i in range(6)], ["same", "cut", "same", "cut", "cut", "other"]]
    rewards = np.array([[0.0] * 6, [0.0, np.nan, 0.0, np.nan, np.nan, 0.0]])
    choice = Candidates(np.array([0, 1]), ["p", "p"], texts, rewards, np.ones(2))
    pairs = pd.DataFrame([(u, "p", "x", "y", 0, 1, 1.0) for u in [0] * 300 + [1] * 20], columns=preference.COLUMNS)
    drawn = preference.random_pairs(pairs, choice, np.random.default_rng(0))
    assert len(drawn) == len(pairs) and (drawn.user == pairs.user).all() and (drawn.chosen != drawn.rejected).all()
    first = drawn[drawn.user == 0][["chosen_sample", "rejected_sample"]].to_numpy()
    assert all(len(set(three.ravel())) == 6 for three in np.split(first, 100)), "a text stands in two pairs"
    share = (first[:, 0] < first[:, 1]).mean()
    assert 0.35 < share < 0.65
    second = drawn[drawn.user == 1]
    assert {frozenset(pair) for pair in zip(second.chosen_sample, second.rejected_sample, strict=True)} == {
        frozenset({0, 5})
    }


def test_each_round_asks_other_train_users(tmp_path):
    study = Study(load_config("smoke", {"data": {"max_users": 30}, "alignment": {"pair_users": 6}}), tmp_path)
    rounds = [study.knowledge.pair_users(Policy("p", "embedded", round=number)).tolist() for number in range(4)]
    assert sorted(rounds[0] + rounds[1] + rounds[2]) == study.data.cohort.of("train").tolist()
    assert rounds[3] == rounds[0] == study.knowledge.pair_users(study.zero_shot).tolist()
    every = Study(load_config("smoke", {"alignment": {"pair_users": None}}), tmp_path)
    assert every.knowledge.pair_users(every.zero_shot).tolist() == every.data.cohort.of("train").tolist()


def test_texts_without_a_reward_make_no_pair():
    texts, config = [["a", "b", "c", "d"]], AlignmentConfig().changed(pairs_per_user=2, pairs=10)
    rewards = np.array([[0.1, 0.9, np.nan, 0.3]])
    choice = Candidates(np.array([4]), ["p"], texts, rewards, np.array([1]))
    pairs = preference.build_pairs(choice, config)
    assert list(zip(pairs.chosen, pairs.rejected, strict=True)) == [("b", "a")]
    two = Candidates(
        np.array([4, 5]), ["p"] * 2, texts * 2, np.array([[np.nan, 0.1, 0.2, 0.3], [np.nan] * 4]), np.ones(2)
    )
    best = preference.best_of_n(two, config)
    assert best.user.tolist() == [4] and best.completion.tolist() == ["d"]
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
