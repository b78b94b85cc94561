"""What notebook 00 shows: facts marked, shares by hand, the pair, the picture; and what an executed copy keeps."""

import math
import re

import nbformat
import numpy as np
import pytest

from dpo4rec_utils import execute
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge.engines import Completion
from dpo4rec_utils.knowledge.facts import Facts
from dpo4rec_utils.settings import load_config
from dpo4rec_utils.walkthrough import Walkthrough, marked, ranking_figure, shares
from tests.conftest import made_study


def test_facts_are_marked_and_the_template_is_not():
    facts = Facts(("Alien", "Aliens", "Romeo & <Juliet>"), (("Drama", 11),), (), (("1990s", 3),))
    prompt = "<|im_start|>user\nMovies liked: Aliens; Alien; Romeo & <Juliet>\nGenres liked: drama 11\nDecades: 1990s 3"
    page = marked(prompt, facts).data
    stated = re.findall("<mark>(.*?)</mark>", page)
    assert stated == ["Aliens", "Alien", "Romeo &amp; &lt;Juliet&gt;", "drama 11", "1990s 3"]
    assert "&lt;|im_start|&gt;user" in page and "<Juliet>" not in page
    assert "<mark>" not in marked("nothing", Facts((), (), (), ())).data


def test_shares_by_hand():
    rewards = np.array([-0.5, -0.5 - 0.1 * math.log(3)])
    assert shares(rewards, 0.1) == pytest.approx([0.75, 0.25])  # e^0 : e^(-ln 3)
    assert shares(rewards, 100.0) == pytest.approx([0.5, 0.5], abs=1e-3)
    assert shares(rewards - 1000, 0.1) == pytest.approx([0.75, 0.25]), "only differences count"


@pytest.mark.parametrize(
    ("ended", "chosen", "rejected"),
    [((True, True, True), "a", "b"), ((False, True, True), "c", "a"), ((False, False, False), "a", "b")],
)
def test_a_cut_text_is_rejected_whatever_its_reward(tmp_path, ended, chosen, rejected):
    config = load_config("smoke", {"alignment": {"unfinished": "rejected"}})
    walkthrough = Walkthrough(made_study(config, tmp_path), None, None, None)
    completions = [Completion(text, 3, end) for text, end in zip("abc", ended, strict=True)]
    pairs = walkthrough.pairs(walkthrough.user(0), completions, np.array([-0.3, -0.5, -0.4]))
    assert (pairs.chosen.item(), pairs.rejected.item()) == (chosen, rejected)
    assert walkthrough.pairs(walkthrough.user(0), completions, np.full(3, -0.3)).empty


def test_a_text_that_repeats_itself_is_never_chosen(tmp_path):
    walkthrough = Walkthrough(made_study(load_config("smoke"), tmp_path), None, None, None)
    texts = ["one two three four, one two three four", "crime", "war"]
    completions = [Completion(text, 3, True) for text in texts]
    pairs = walkthrough.pairs(walkthrough.user(0), completions, np.array([-0.3, -0.5, -0.4]))
    assert (pairs.chosen.item(), pairs.rejected.item()) == ("war", "crime")


def test_the_ranking_is_a_picture_with_words_for_who_cannot_see_it():
    picture = ranking_figure(["a", "b"], np.array([1, 0]), {"one": np.array([0.1, 0.9]), "two": np.array([0.9, 0.1])})
    assert picture.data.startswith(b"\x89PNG") and "rank" in picture.alt


def test_a_user_who_is_not_there_is_one_sentence(tmp_path):
    study = made_study(load_config("smoke"), tmp_path)
    walkthrough = Walkthrough(study, None, None, None)
    assert walkthrough.user(0) == study.data.cohort.of("validation")[0]
    with pytest.raises(StudyError, match="There is no validation user 99; allowed: 0 to"):
        walkthrough.user(99)


def test_an_executed_copy_keeps_a_table_once_and_no_control(tmp_path):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "interactive(...)"}
    cell = nbformat.v4.new_code_cell("walkthrough.controls(0, '')")
    html = "<div>\n<style scoped>\n    .dataframe {}\n</style>\n<table></table>\n</div>"
    table = nbformat.v4.new_output("display_data", {"text/html": html, "text/plain": "a table"})
    cell.outputs = [nbformat.v4.new_output("display_data", view), table, nbformat.v4.new_output("stream", text="kept")]
    tags = {"tags": ["injected-parameters"]}
    injected = nbformat.v4.new_code_cell("O = {'url': 'https://anna:pw@host/x?key=abc'}", metadata=tags)
    book = nbformat.v4.new_notebook(cells=[cell, injected], metadata={"widgets": {}})
    nbformat.write(book, tmp_path / "copy.ipynb")
    execute.tidy(tmp_path / "copy.ipynb")
    tidied = nbformat.read(tmp_path / "copy.ipynb", as_version=4)
    assert not {"pw", "abc"} & set(re.findall(r"\w+", (tmp_path / "copy.ipynb").read_text()))
    table, text = tidied.cells[0].outputs
    assert (
        table.data == {"text/html": "<div>\n<table></table>\n</div>"}
        and text.text == "kept"
        and "widgets" not in tidied.metadata
    )
