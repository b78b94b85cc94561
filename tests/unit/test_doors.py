"""Every door that somebody else writes through: what comes in is right, or refused in one sentence with a way out."""

import contextlib
import json
import os
import runpy
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpo4rec_utils import INTERRUPTED_SENTENCE, assets, cli, files
from dpo4rec_utils.config import ServerConfig, as_dict
from dpo4rec_utils.data import domain as domains
from dpo4rec_utils.data import reading
from dpo4rec_utils.data.tables import load_tables, read_interactions
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.files import StudyError, printable, public_address
from dpo4rec_utils.knowledge.engines import server
from dpo4rec_utils.settings import ConfigError, load_config, notebook_parameters, read_yaml
from dpo4rec_utils.store import Stage, Store, published_record
from tests.unit.test_tables_of_yours import COLUMNS, INTERACTIONS, ITEMS, config, written

QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(call, words: str) -> str:
    """One line of at most 900 characters that matches `words`."""
    with pytest.raises((StudyError, ConfigError), match=words) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and len(text) < 900, text
    return text


# Profiles

PROFILES = {
    "false": "must be a mapping of names",
    "0": "must be a mapping",
    "[]": "must be a mapping",
    "text": "must be a mapping",
    "- 1": "must be a mapping",
    "1: 2": "must be a mapping of names",
    "null: 2": "must be a mapping of names",
    "profile: x": "Unknown key profile",
    "on: 1": "Unknown key on = 1",
    "seed: 1\nseed: 2": "the key seed is given twice",
    "extends: 3": "extends = 3",
    "extends: [smoke]": "extends = ",
    "extends: nowhere": "PROFILE = 'nowhere' does not exist",
    "extends: own.yaml": "in no circle",
    "extends: ../own/own.yaml": "in no circle",
    "extends: smoke\nalignment": "not valid YAML",
    "extends: smoke\nalignment: {beta: 1:30}": "alignment.beta = '1:30' has the wrong type",
    "extends: smoke\nalignment: {beta: .nan}": "alignment.beta = nan",
    "extends: smoke\nalignment: {beta: .inf}": "alignment.beta = inf is out of range",
    "extends: smoke\nalignment: {beta: -.inf}": "alignment.beta = -inf",
    "extends: smoke\nalignment: {beta: '0.1'}": "alignment.beta = '0.1' has the wrong type",
    "extends: smoke\nalignment: {beta: yes}": "alignment.beta = 'yes' has the wrong type",
    "extends: smoke\nalignment: {beta: true}": "alignment.beta = True has the wrong type",
    "extends: smoke\nalignment: {beta: null}": "alignment.beta = None has the wrong type",
    "extends: smoke\nalignment: {beta: [0.1]}": "alignment.beta = ",
    "extends: smoke\nalignment: {beta: 0.1, beta: 0.2}": "the key beta is given twice",
    "extends: smoke\nalignment: {pairs: 0777}": "alignment.pairs = '0777' has the wrong type",
    "extends: smoke\nalignment: {pairs: 0x10}": "alignment.pairs = '0x10'",
    "extends: smoke\nalignment: {pairs: 1_000}": "alignment.pairs = '1_000'",
    "extends: smoke\nalignment: {pairs: 4.5}": "alignment.pairs = 4.5 has the wrong type",
    "extends: smoke\nalignment: {pairs: 99999999999999999999}": "alignment.pairs = .* is out of range",
    "extends: smoke\nalignment: []": "alignment = .*a mapping is expected",
    "extends: smoke\nalignment: 3": "alignment = 3: a mapping is expected",
    "extends: smoke\nalignmnt: {}": "Unknown key alignmnt",
    "extends: smoke\nevaluation: {arms: []}": "evaluation.arms",
    "extends: smoke\nevaluation: {arms: [none, none]}": "evaluation.arms = .* is out of range",
    "extends: smoke\nevaluation: {backbones: [prm, PRM]}": "evaluation.backbones = .* is out of range",
    "extends: smoke\nllm: {engine: server}": "llm.server goes with llm.engine",
    "extends: smoke\nllm: {server: {url: ftp://x}, engine: server}": "llm.server.url",
    "extends: smoke\ndata: &a {fold: 0}\nllm: *a": "aliases are not read",
    "extends: smoke\ndata: !!python/object/apply:os.system [ls]": "not valid YAML",
    "extends: smoke\ndata: !!binary aGk=": "data = b'hi'",
    "extends: smoke\ndata: {name: ../x}": "data.name",
    "extends: smoke\ndata: {fold: 7}": "data.fold = 7 is out of range",
    "\tx: 1": "not valid YAML",
    "x: [": "not valid YAML",
    "{" * 2000: "not valid YAML",
    "a: " + "[" * 5000 + "]" * 5000: "not valid YAML",
    "x" * (2**20 + 1): "not valid YAML: it has",
}


@pytest.mark.parametrize("text", PROFILES, ids=lambda text: text[:40])
def test_a_profile_that_is_none(text, tmp_path):
    (tmp_path / "own").mkdir()
    path = tmp_path / "own" / "own.yaml"
    path.write_text(text)
    refused(lambda: load_config(str(path)), PROFILES[text])


ENCODED = {
    "utf-8 with a mark": ("\ufeffextends: smoke".encode(), None),
    "latin-1": ("extends: smoke # é".encode("latin-1"), "not valid YAML"),
    "utf-16": ("extends: smoke".encode("utf-16"), "not valid YAML"),
    "empty": (b"", None),
    "comment": (b"# nothing", None),
    "zero": (b"\x00", "not valid YAML"),
    "windows lines": (b"extends: smoke\r\nseed: 3\r\n", None),
}


@pytest.mark.parametrize("case", ENCODED)
def test_a_profile_by_its_bytes(case, tmp_path):
    content, words = ENCODED[case]
    (tmp_path / "own.yaml").write_bytes(content)
    if words:
        refused(lambda: load_config(str(tmp_path / "own.yaml")), words)
    else:
        assert load_config(str(tmp_path / "own.yaml")).profile == "own"


PARAMETERS = {
    "alignment.beta": "has no value",
    "=1": "Unknown key ",
    "alignment.beta=": "alignment.beta = None",
    "alignment.beta=[": "is no YAML value",
    "alignment.beta={": "is no YAML value",
    "alignment=3": "alignment = 3: a mapping is expected",
    "alignment.beta.x=3": "alignment.beta = ",
    "alignment..beta=3": "Unknown key alignment.",
    ".=3": "Unknown key ",
    "alignment.beta=1e400": "alignment.beta = inf",
    "alignment.beta=\x1b[31m": "is no YAML value|has the wrong type",
    "x=1": "Unknown key x",
    "seed=-1": "seed = -1 is out of range",
    "seed=1.0": "seed = 1.0 has the wrong type",
    "seed=2026-01-01": "seed = '2026-01-01' has the wrong type",
    "profile=x": "Unknown key profile",
    "extends=smoke": "Unknown key extends",
    "llm.server.extra=3": "llm.server",
    "data.columns.attributes={1: x}": "data.columns.attributes",
    "data.columns=[user]": "data.columns = .*a mapping is expected",
    "evaluation.backbones=prm": "evaluation.backbones = 'prm' has the wrong type",
    "reward.estimate=none": "reward.estimate = 'none' is out of range",
}


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_parameter_that_is_none(parameter, capsys):
    assert cli.main(["study", "--profile", "smoke", "-p", parameter]) == 2
    text = capsys.readouterr().err
    import re

    assert re.search(PARAMETERS[parameter], text) and text.count("\n") == 1 and "\x1b" not in text, text


@QUICK
@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: data.decode("latin-1")))
def test_any_document_is_a_profile_or_a_sentence(tmp_path, text):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass") if text.isprintable() else path.write_bytes(
        text.encode("utf-8", "replace")
    )
    try:
        assert load_config(str(path)).profile == "own"
    except ConfigError as error:
        assert "\n" not in str(error)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


SECTIONS = ("data", "llm", "alignment", "evaluation", "reward")
FIELDS = [(name, field) for name in SECTIONS for field in type(getattr(load_config("smoke"), name)).model_fields]


@QUICK
@given(st.sampled_from(FIELDS) | st.tuples(st.sampled_from(SECTIONS), st.text(max_size=6)), VALUES)
def test_any_setting_is_a_configuration_or_a_sentence(field, value):
    section, name = field
    for overrides in ({section: value}, {section: {name: value}}):
        try:
            load_config("smoke", overrides)
        except ConfigError as error:
            assert section in str(error), "the sentence says where"


def test_paths_of_a_profile_are_seen_from_its_file(tmp_path, monkeypatch):
    folder = written(tmp_path / "far" if (tmp_path / "far").mkdir() is None else tmp_path)
    (folder / "words.yaml").write_text((domains.FOLDER / "products.yaml").read_text())
    text = "extends: smoke\ndata: {name: mine, interactions: inter.csv, items: items.csv, domain: words.yaml}\n"
    (folder / "my-shop.yaml").write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = load_config("../far/my-shop.yaml").data
    assert data.interactions == str((folder / "inter.csv").resolve())
    assert domains.load_domain(data.domain).attribute == "brand"
    assert as_dict(data)["interactions"] == "inter.csv", "no path of this machine is in a record"
    (folder / "inter.csv").rename(tmp_path / "inter.csv")
    monkeypatch.setenv("DPO4REC_ASSETS", str(tmp_path))
    loaded = load_config("../far/my-shop.yaml").data.changed(columns=COLUMNS)
    assert len(load_tables(loaded, 0).interactions) == len(INTERACTIONS)


def test_a_member_of_an_archive_is_no_path(tmp_path):
    import zipfile

    folder = written(tmp_path)
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for name in ("inter.csv", "items.csv"):
            archive.write(folder / name, name)
    text = "extends: smoke\ndata: {name: mine, archive: all.zip, interactions: inter.csv, items: items.csv}\n"
    (folder / "my-shop.yaml").write_text(text)
    data = load_config(str(folder / "my-shop.yaml")).data.changed(columns=COLUMNS)
    assert data.interactions == "inter.csv" and len(load_tables(data, 0).interactions) == len(INTERACTIONS)


SECRETS = {
    "https://anna:pw@host.org/a.csv?X-Amz-Signature=abc#x": "https://host.org/a.csv",
    "http://host:8000/v1": "http://host:8000/v1",
    "https://tok@host/v1": "https://host/v1",
    "a.csv": "a.csv",
    "http://[::1/x": "http://...",
}


@pytest.mark.parametrize("address", SECRETS)
def test_secrets_of_an_address_are_in_no_record(address):
    assert public_address(address) == SECRETS[address]
    if address.startswith("http") and "[" not in address:
        assert as_dict(ServerConfig(url=address))["url"] == SECRETS[address]
    columns = {"name": "mine", "interactions": address, "items": address}
    assert as_dict(DataConfig(**columns))["items"] == SECRETS[address]


def test_a_download_that_fails_names_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = refused(lambda: assets.archive("http://anna:pw@127.0.0.1:9/a.csv?key=abc"), "could not be downloaded")
    assert "pw" not in text and "abc" not in text


# Notebooks' parameters

CELLS = {
    "PROFILE = 'smoke'\nMAKE = 1": "MAKE = 1 has the wrong type",
    "PROFILE = 'smoke'\nMAKE = 'yes'": "MAKE = 'yes'",
    "PROFILE = 3": "PROFILE = '3' does not exist",
    "PROFILE = 'smoke'\nPROFIEL = 'x'": "Unknown notebook parameter PROFIEL",
    "PROFILE = 'smoke'\nOVERRIDES = []": "OVERRIDES must be a mapping",
    "PROFILE = 'smoke'\nOVERRIDES = {'x': 1}": "Unknown key x",
    "PROFILE = 'smoke'\nOVERRIDES = {1: 1}": "OVERRIDES must be a mapping of names",
    "MAKE = True": "sets no PROFILE",
}


def namespace(cell: str) -> dict:
    values: dict = {"DEBUG": True, "favourite": 3}  # of an IPython start-up file
    exec(cell, {}, values)
    return values | {"In": ["", cell, "study = open_study(globals())\nuser = 3"], "user": 3, "study": None}


@pytest.mark.parametrize("cell", CELLS)
def test_a_parameters_cell_that_is_wrong(cell):
    refused(lambda: notebook_parameters(namespace(cell)), CELLS[cell])


def test_start_up_files_of_ipython_are_no_parameters():
    loaded, making = notebook_parameters(namespace("PROFILE = 'smoke'\nMAKE = True"))
    assert loaded.profile == "smoke" and making


# Domains

GOOD = {
    "user": {"counts": {"question": "Q {{ titles | join(', ') }}", "prefix": "This"}},
    "item": {"question": "I {{ title }}", "prefix": "It", "facts": "{{ title }}"},
    "profile": ["{{ titles | listed }}"],
}
PARTS = {
    "user: [": "not valid YAML",
    "user: 3": "user",
    "user: {}": "user",
    "user: {counts: Q}": "user.counts",
    "user: {counts: {question: Q}}": "prefix",
    "user: {counts: {question: 3, prefix: x}}": "question",
    "user: {counts: {question: Q, prefix: 'It {{ x }}'}}": "written as it stands",
    "user: {counts: {question: Q, prefix: '{% if x %}'}}": "written as it stands",
    "system: 'You {{ are }}'": "written as it stands",
    "system: [a]": "system",
    "attribute: 3": "attribute",
    "profile: []": "profile",
    "profile: x": "profile",
    "profile: [3]": "profile",
    "profile: ['{{ titles']": "malformed",
    "profile: ['{% for t in titles %}']": "malformed",
    "profile: ['{% macro m() %}{% endmacro %}']": "macros",
    "profile: ['{% include \"x\" %}']": "macros|includes",
    "profile: ['{% import \"x\" as y %}']": "malformed|macros",
    "profile: ['{% extends \"x\" %}']": "malformed|macros|cannot",
    "profile: ['{{ titles | nosuchfilter }}']": "malformed",
    "profile: ['{% for a in titles %}{% for b in titles %}{% for c in titles %}{% endfor %}{% endfor %}{% endfor %}']": "loops",
    "prof: []": "prof",
    "item: {question: Q}": "item",
    "item: {question: Q, prefix: '{{ x }}', facts: F}": "written as it stands",
    "2026-01-01: x": "2026|extra|mapping",
    "1: x": "mine.yaml: 1: extra",
    "user: {a: {question: Q, prefix: x}, a: {question: Q, prefix: x}}": "the key a is given twice",
    "user: &u {a: {question: Q, prefix: x}}\nitem: *u": "aliases",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_domain_that_is_wrong(part, tmp_path):
    try:
        change = read_yaml(part)
        text = json.dumps(GOOD | {str(key): value for key, value in change.items()}, default=str)
    except Exception:
        text = part
    (tmp_path / "mine.yaml").write_text(text)
    refused(lambda: domains.load_domain(str(tmp_path / "mine.yaml")), PARTS[part])


@pytest.mark.parametrize("text", ["", "3", "[]", "false", "\x00", "a: [", "{" * 3000])
def test_a_domain_that_is_none(text, tmp_path):
    (tmp_path / "none.yaml").write_text(text)
    refused(lambda: domains.load_domain(str(tmp_path / "none.yaml")), "none.yaml")


TEMPLATES = {
    "{{ nope }}": "'nope' is undefined",
    "{{ title ~ ' (' ~ year ~ ')' }}": "a fact that is missing",
    "{{ title.nope }}": "has no attribute|undefined",
    "{{ title.upper }}": "it writes a",
    "{{ title.upper() }}": "calls are not allowed",
    "{{ names }}": "it writes a list",
    "{{ title.__class__ }}": "is unsafe",
    "{{ 'a' * 9 }}": "not allowed",
    "{{ 9 ** 9 }}": "not allowed",
    "{{ '%99999999d' % 1 }}": "not allowed",
    "{{ range(9) }}": "undefined|calls",
    "{{ cycler }}": "undefined",
    "{{ 1 / 0 }}": "division",
    "{{ names[9] }}": "no element|undefined",
    "{{ names | first | first | nope }}": "malformed",
    "{{ title | center(10 ** 9) }}": "malformed",
    "{{ title + 3 }}": "cannot be written",
    "{{ names | sort(attribute='x.y') | join }}": "cannot be written",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_cannot_be_written(template):
    facts = {"title": "T", "names": ["a", "b"], "year": None}
    refused(lambda: domains.render_words(template, facts), TEMPLATES[template])


PLAIN = {
    "{{ title ~ ' (' ~ names[0] ~ ')' }}": "T (a)",
    "{% for name in names %}{{ name }}{{ ', ' if not loop.last }}{% endfor %}": "a, b",
    "{{ title if year }}": "",
    "{% if year is none %}x{% endif %}": "x",
}


@pytest.mark.parametrize("template", PLAIN)
def test_a_plain_template_is_written(template):
    assert domains.render_words(template, {"title": "T", "names": ["a", "b"], "year": None}) == PLAIN[template]


@QUICK
@given(st.text(alphabet="{}%#|' .()[]+*-abtitlenamesforinf1", max_size=40))
def test_any_template_is_text_or_a_sentence(template):
    try:
        assert isinstance(domains.render_words(template, {"title": "T", "names": ["a", "b"]}), str)
    except StudyError as error:
        assert "\n" not in str(error)


# Tables

TABLES = {
    "two columns of one name": ("user_id,item_id,rating,rating\nu,i,1,2\n", None, "two columns rating"),
    "a mark before the names": ("\ufeff" + INTERACTIONS.to_csv(index=False), None, None),
    "an open quote": (
        None,
        ITEMS.to_csv(index=False).replace("Thing 3,", '"Thing 3,'),
        "a quote is left open|malformed|EOF",
    ),
    "a constant time": (INTERACTIONS.assign(timestamp=5).to_csv(index=False), None, "timestamp is the same for all"),
    "dates and numbers": (
        INTERACTIONS.assign(timestamp=["2026-01-02", "881250949"] * 175).to_csv(index=False),
        None,
        "two ways",
    ),
    "seconds and milliseconds": (
        INTERACTIONS.assign(timestamp=[881250949, 881250949000] * 175).to_csv(index=False),
        None,
        "two ways",
    ),
    "seconds and calendar days": (
        INTERACTIONS.assign(timestamp=[881250949, 20010910] * 175).to_csv(index=False),
        None,
        "two ways",
    ),
    "milli- and microseconds": (
        INTERACTIONS.assign(timestamp=[881250949000, 881250949000000] * 175).to_csv(index=False),
        None,
        "two ways",
    ),
    "a quote that the next row closes": (
        None,
        ITEMS.to_csv(index=False).replace("Thing 3,", '"Thing 3,').replace("Thing 4,", '"Thing 4",'),
        "a quote is left open",
    ),
    "objects for values": (
        None,
        ITEMS.assign(brand='[{"id": 1, "name": "Acme"}]').to_csv(index=False),
        "brand holds no list of texts",
    ),
    "lists of lists for values": (None, ITEMS.assign(brand="[['Acme']]").to_csv(index=False), "no list of texts"),
    "unlisted items": (None, ITEMS.head(25).to_csv(index=False), "data.unlisted: drop"),
    "one line": ("user_id", None, "no rows|empty|no column"),
    "zeros": ("\x00" * 100, None, "malformed|no column|empty|which is no column"),
    "html": ("<html><body>404</body></html>", None, "no rows|no column|empty"),
    "repeats": (pd.concat([INTERACTIONS, INTERACTIONS.head(3)]).to_csv(index=False), None, "twice"),
    "no item": (INTERACTIONS.assign(item_id="x").to_csv(index=False), None, "with a listed item"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_is_wrong(case, tmp_path):
    interactions, items, words = TABLES[case]
    written(tmp_path, INTERACTIONS if interactions is None else interactions, ITEMS if items is None else items)
    if words:
        refused(lambda: load_tables(config(tmp_path), 0), words)
    else:
        assert len(load_tables(config(tmp_path), 0).interactions) == len(INTERACTIONS)


def test_a_time_of_another_kind_is_malformed_and_counted(tmp_path):
    """One of 350: it would stand at the wrong place of its user's history."""
    for odd in ("881250949000", "2026-01-02", "0", "20010910"):
        times = ["881250949", odd, *(str(881250951 + row) for row in range(348))]
        dataset = load_tables(config(written(tmp_path, INTERACTIONS.assign(timestamp=times))), 0)
        assert dataset.dropped["malformed"] == 1, odd


MISSING_IDS = ["", "  ", "NULL", "\\N", "nan", "NaN", "<NA>"]


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("word", MISSING_IDS)
def test_words_for_a_missing_id_are_nobody_in_every_format(word, ending, tmp_path):
    users = INTERACTIONS.user_id.where(INTERACTIONS.index > 2, word).mask(INTERACTIONS.index == 9, " u0 ")
    table, path = INTERACTIONS.assign(user_id=users), tmp_path / f"inter{ending}"
    written(tmp_path)
    if ending == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path) if ending == ".parquet" else table.to_json(path, orient="records", lines=True)
    dataset = load_tables(config(tmp_path, interactions=str(path)), 0)
    assert dataset.dropped["malformed"] == 3 and dataset.interactions.user_id.nunique() == 25


ATTRIBUTE_CELLS = {
    "['Acme', 'Sons']": ("Acme", "Sons"),
    '["Acme", "  ", ""]': ("Acme",),
    "Acme|Acme| |Sons": ("Acme", "Sons"),
    "NULL": (),
    "[3, 4]": ("3", "4"),
    "[Acme]": ("[Acme]",),
    "Q&parameter": ("Q&parameter",),
    "Q&amp;A": ("Q&A",),
}


@pytest.mark.parametrize("cell", ATTRIBUTE_CELLS)
def test_values_of_an_attribute(cell, tmp_path):
    dataset = load_tables(config(written(tmp_path, items=ITEMS.assign(brand=cell))), 0)
    assert set(dataset.items.brand) == {ATTRIBUTE_CELLS[cell]}


FOLDERS = {
    "a text": ("notes.txt", "holds notes.txt, which is no table"),
    "a folder": ("2025", "holds 2025, which is no table"),
    "another heading": ("b.csv", "which is no column"),
    "what macOS leaves": ("._a.csv", None),
    "what Spark leaves": ("_SUCCESS", None),
    "upper case": ("B.CSV.GZ", None),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_nothing_in_a_folder_is_passed_over(case, tmp_path):
    name, words = FOLDERS[case]
    folder, first, second = tmp_path / "all", INTERACTIONS.head(200), INTERACTIONS.tail(150)
    folder.mkdir()
    written(tmp_path)
    whole = name == "B.CSV.GZ"
    (first if whole else INTERACTIONS).to_csv(folder / "a.csv", index=False)
    if name == "2025":
        (folder / name).mkdir()
    elif whole:
        second.to_csv(folder / name, index=False, compression="gzip")
    else:
        (folder / name).write_bytes(b"user,item\nu1,i1\n" if name == "b.csv" else b"\x00\x05\x16")
    if words:
        refused(lambda: load_tables(config(tmp_path, interactions=str(folder)), 0), words)
    else:
        assert len(load_tables(config(tmp_path, interactions=str(folder)), 0).interactions) == len(INTERACTIONS)


def test_a_key_that_first_comes_late_is_a_column(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PART", 7)
    written(tmp_path)
    rows = ITEMS.to_dict("records")
    lines = [{k: v for k, v in row.items() if k != "brand" or i > 20} for i, row in enumerate(rows)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    items = load_tables(config(tmp_path, items=str(tmp_path / "items.jsonl")), 0).items
    assert len(items) == 30 and items.title.iloc[25] == "Thing 25"
    columns = COLUMNS | {"attributes": {"brand": "maker"}}
    refused(
        lambda: load_tables(config(tmp_path, items=str(tmp_path / "items.jsonl"), columns=columns), 0),
        "'maker', which is no key of any line",
    )


def test_columns_that_nobody_needs_may_hold_anything(tmp_path):
    written(tmp_path)
    INTERACTIONS.assign(context=[{"page": 1}] * 350, vector=[np.ones(3)] * 350).to_parquet(tmp_path / "inter.parquet")
    dataset = load_tables(config(tmp_path, interactions=str(tmp_path / "inter.parquet")), 0)
    assert len(dataset.interactions) == 350


def test_lists_for_texts_hold_whatever_json_holds(tmp_path):
    written(tmp_path)
    rows = [row | {"title": ["A", None, 3]} for row in ITEMS.to_dict("records")]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert set(load_tables(config(tmp_path, items=str(tmp_path / "items.jsonl")), 0).items.title) == {"A 3"}


@pytest.mark.parametrize("name", ["item", "user", "title", "rating", "item_id", "timestamp"])
def test_an_attribute_is_called_as_no_other_column(name):
    with pytest.raises(ValueError, match="which is no attribute"):
        DataConfig(name="mine", columns={"attributes": {name: "maker"}})


def test_the_row_that_is_named_is_the_row_of_the_file(tmp_path):
    table = INTERACTIONS.astype({"rating": str})
    table.loc[:9, "item_id"], table.loc[100:110, "rating"] = "nowhere", "five"
    refused(lambda: load_tables(config(written(tmp_path, table)), 0), "the first in row 101: user")


def test_a_table_is_looked_for_beside_its_profile_and_nowhere_else(tmp_path, monkeypatch):
    """Another shop's table of the same name, where the command is given, is not this one's."""
    for name in ("shop", "other"):
        (tmp_path / name).mkdir()
        written(tmp_path / name)
    (tmp_path / "shop/inter.csv").unlink()
    data = "data: {name: shop, interactions: inter.csv, items: items.csv, feedback: implicit, domain: products}"
    (tmp_path / "shop/shop.yaml").write_text(f"extends: smoke\n{data}\n")
    monkeypatch.chdir(tmp_path / "other")
    read = load_config("../shop/shop.yaml").data
    refused(lambda: load_tables(read, 0), "inter.csv is not beside the profile's file")
    monkeypatch.setenv("DPO4REC_ASSETS", str(tmp_path / "other"))
    assert load_config("../shop/shop.yaml").data.interactions == str(tmp_path / "other/inter.csv")
    written(tmp_path / "shop")
    assert load_config("../shop/shop.yaml").data.interactions == str(tmp_path / "shop/inter.csv")


def test_a_link_is_read_by_its_own_ending(tmp_path):
    written(tmp_path)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "inter.csv").rename(tmp_path / "blobs/0a1b")
    (tmp_path / "inter.csv").symlink_to("blobs/0a1b")
    (tmp_path / "own.yaml").write_text(
        "extends: smoke\ndata: {name: own, interactions: inter.csv, items: items.csv, domain: products, columns: "
        "{rating: rating, timestamp: timestamp}}"
    )
    assert len(load_tables(load_config(str(tmp_path / "own.yaml")).data, 0).interactions) == len(INTERACTIONS)


def long_separator(table: pd.DataFrame, separator: str) -> str:
    return "\n".join(separator.join(map(str, row)) for row in [table.columns, *table.to_numpy()]) + "\n"


@pytest.mark.parametrize("separator", ["::", "|||", " - ", "\t\t", "§"])
def test_separators_of_any_length(separator, tmp_path):
    items = ITEMS.assign(brand="Acme")
    written(tmp_path, long_separator(INTERACTIONS, separator), long_separator(items, separator))
    dataset = load_tables(config(tmp_path, separator=separator), 0)
    assert len(dataset.interactions) == len(INTERACTIONS) and dataset.items.title.iloc[7] == "Thing 7"


def test_quotes_may_be_letters(tmp_path):
    items = ITEMS.assign(title=['12" single' if i == 3 else f"Thing {i}" for i in range(30)])
    text = "\n".join("\t".join(map(str, row)) for row in [items.columns, *items.to_numpy()]) + "\n"
    written(tmp_path, INTERACTIONS.to_csv(index=False, sep="\t"), text)
    dataset = load_tables(config(tmp_path, separator="\t", quoting="none"), 0)
    assert dataset.items.title.iloc[3] == '12" single' and len(dataset.items) == 30


def test_a_cell_may_hold_a_json_list(tmp_path):
    written(tmp_path, INTERACTIONS, ITEMS.assign(brand=['["Acme", "Sons & Co"]'] * 30))
    assert load_tables(config(tmp_path), 0).items.brand.iloc[0] == ("Acme", "Sons & Co")


def test_what_is_dropped_on_request_is_counted(tmp_path):
    written(tmp_path, INTERACTIONS, ITEMS.assign(title=[""] * 3 + [f"Thing {i}" for i in range(27)]))
    dataset = load_tables(config(tmp_path, missing_titles="drop", unlisted="drop"), 0)
    assert len(dataset.items) == 27 and dataset.dropped["items without id or title"] == 3
    assert dataset.dropped["of unlisted items"] == INTERACTIONS.item_id.isin(["i0", "i1", "i2"]).sum()


def test_items_that_nobody_met_are_left_out(tmp_path):
    more = pd.concat([ITEMS, ITEMS.assign(item_id=[f"x{i}" for i in range(30)])])
    dataset = load_tables(config(written(tmp_path, INTERACTIONS, more)), 0)
    assert len(dataset.items) == 30 and dataset.dropped["items that nobody met"] == 30


SENTINELS = ["9999-12-31", "0001-01-01", "1677-09-21", "9999-12-31 23:59:59"]


@pytest.mark.parametrize("sentinel", SENTINELS)
def test_dates_that_stand_for_a_missing_one(sentinel, tmp_path):
    dates = pd.date_range("2020-01-01", periods=len(INTERACTIONS)).strftime("%Y-%m-%d").to_list()
    written(tmp_path, INTERACTIONS.assign(timestamp=[sentinel, *dates[1:]]))
    assert load_tables(config(tmp_path), 0).dropped["malformed"] == 1


def test_a_seeded_order_does_not_read_the_time(tmp_path):
    written(tmp_path, INTERACTIONS.assign(timestamp=5))
    dataset = load_tables(config(tmp_path, order="seeded"), 0)
    assert dataset.order == "arbitrary" and dataset.notes


JSON_LINES = {
    "half an emoji": ('{"user_id": "\\ud83d", "item_id": "i1"}', None),
    "a list": ("[1, 2]", "no JSON object"),
    "a number": ("3", "no JSON object"),
    "cut": ('{"user_id": "u"', "no JSON"),
    "deep": ("[" * 100_000, "no JSON"),
    "a mark": ('\ufeff{"user_id": "u", "item_id": "i1"}', None),
}


@pytest.mark.parametrize("case", JSON_LINES)
def test_json_lines(case, tmp_path):
    from dpo4rec_utils.data.reading import read_parts

    text, words = JSON_LINES[case]
    (tmp_path / "t.jsonl").write_text(text + "\n", encoding="utf-8")
    if words:
        refused(lambda: list(read_parts(tmp_path / "t.jsonl")), words)
    else:
        (table,) = read_parts(tmp_path / "t.jsonl")
        assert table.user_id[0].encode() and table.item_id[0] == "i1"
    (tmp_path / "l.jsonl").write_bytes('{"user_id": "é"}\n'.encode("latin-1"))
    assert next(read_parts(tmp_path / "l.jsonl", encoding="latin-1")).user_id[0] == "é"


CELL = st.text(max_size=6) | st.sampled_from(["u", "i1", "1", "", '"', "2026-01-01", "nan", "1e999", "::"])


@QUICK
@given(
    st.lists(st.just(["u", "i1", "1", "1"]) | st.lists(CELL, min_size=1, max_size=5), min_size=1, max_size=5),
    st.sampled_from([",", "\t", ";", "::"]),
)
def test_any_table_of_five_rows_is_read_or_a_sentence(tmp_path, rows, separator):
    text = "\n".join(separator.join(row) for row in [["user_id", "item_id", "rating", "timestamp"], *rows])
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", errors="replace")
    (tmp_path / "items.csv").write_text("item_id,title\ni1,One\ni2,Two\n")
    columns = {"rating": "rating", "timestamp": "timestamp"}
    names = {"name": "mine", "interactions": str(tmp_path / "t.csv"), "items": str(tmp_path / "items.csv")}
    try:
        dataset = load_tables(DataConfig(**names, columns=columns, separator=separator), 0)
        assert set(dataset.interactions.item_id) <= {"i1", "i2"}
    except StudyError as error:
        assert "\n" not in str(error)


# Answers of a server


class Answers(BaseHTTPRequestHandler):
    body, status, wait, headers_sent = b"{}", 200, 0.0, {}

    def do_POST(self):  # noqa: N802 (the name that http.server calls)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        type(self).headers_sent = dict(self.headers)
        self.send_response(self.status)
        if self.status == 302:
            self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        with contextlib.suppress(OSError):  # who asked may have gone
            for place in range(0, len(self.body), step := 2 if self.wait else 2**20):
                self.wfile.write(self.body[place : place + step])
                time.sleep(self.wait)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    served = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://user:secret@127.0.0.1:{served.server_port}/v1"
    served.shutdown()


@pytest.fixture
def client(address, monkeypatch):
    """A sampler that asks this server, without an LLM."""
    monkeypatch.setattr(server, "load_tokenizer", lambda _: SimpleNamespace(bos_token="", eos_token_id=0))
    monkeypatch.setattr(server, "token_ids", lambda _, text: text.split())
    monkeypatch.setattr(server, "FIRST_WAIT", 0.0)
    monkeypatch.setenv(server.KEY_VARIABLE, " key-123\n")
    url = address.replace("user:secret@", "")
    settings_ = {"llm": {"engine": "server", "server": {"url": url, "listed": False, "retries": 1, "timeout": 2.0}}}
    sampler = server.ServerSampler(
        SimpleNamespace(name="zero_shot", model="m", adapters=()), load_config("smoke", settings_), None
    )
    sampler.__dict__["_takes_ids"] = True
    return sampler


WHOLE = {"choices": [{"text": " a b", "finish_reason": "stop"}], "model": "m", "usage": {"completion_tokens": 3}}
BODIES = {
    "no JSON": (b"<html>", "does not answer in JSON"),
    "empty": (b"", "does not answer in JSON"),
    "no text": (b"\xff\xfe", "JSON|gave no answer"),
    "deep": (b"[" * 200_000, "does not answer in JSON"),
    "a list": (b"[]", "another shape"),
    "a number": (b"3", "another shape"),
    "null": (b"null", "another shape"),
    "a text": (b'"x"', "another shape"),
    "nothing": (b"{}", "another shape"),
    "no choices": (b'{"choices": []}', "another shape"),
    "choices null": (b'{"choices": null}', "another shape"),
    "choices a text": (b'{"choices": "x"}', "another shape"),
    "two choices": ({"choices": WHOLE["choices"] * 2}, "another shape"),
    "a choice null": ({"choices": [None]}, "another shape"),
    "text null": ({"choices": [{"text": None, "finish_reason": "stop"}]}, "another shape"),
    "text a list": ({"choices": [{"text": ["a"]}]}, "another shape"),
    "text a number": ({"choices": [{"text": 3}]}, "another shape"),
    "no text at all": ({"choices": [{"finish_reason": "stop"}]}, "another shape"),
    "finish a list": ({"choices": [{"text": "a", "finish_reason": []}]}, "another shape"),
    "usage a list": (WHOLE | {"usage": []}, "another shape"),
    "usage a text": (WHOLE | {"usage": "x"}, "another shape"),
    "negative count": (WHOLE | {"usage": {"completion_tokens": -3}}, "another shape"),
    "huge count": (WHOLE | {"usage": {"completion_tokens": 10**9}}, "another shape"),
    "count a text": (WHOLE | {"usage": {"completion_tokens": "many"}}, "another shape"),
    "another model": (WHOLE | {"model": "other"}, "answered for 'other'"),
    "model a list": (WHOLE | {"model": []}, "another shape"),
    "whole": (WHOLE, None),
    "no usage": ({k: v for k, v in WHOLE.items() if k != "usage"}, None),
    "usage null": (WHOLE | {"usage": None}, None),
    "no finish": ({"choices": [{"text": "a b c"}]}, None),
    "more keys": (WHOLE | {"id": 3, "created": None}, None),
    "half an emoji": (b'{"choices": [{"text": "\\ud83d x", "finish_reason": "stop"}]}', None),
}


@pytest.mark.parametrize("case", BODIES)
def test_an_answer_of_a_server(case, client, monkeypatch):
    body, words = BODIES[case]
    monkeypatch.setattr(Answers, "body", body if isinstance(body, bytes) else json.dumps(body).encode())
    if words:
        text = refused(lambda: client._completion("p", 1), words)
        assert "key-123" not in text
    else:
        completion = client._completion("p", 1)
        assert completion.text.encode() and completion.tokens > 0
    assert Answers.headers_sent["Authorization"] == "Bearer key-123"


@pytest.mark.parametrize(
    ("status", "words"), [(302, "302"), (401, "refused"), (404, "refused"), (500, "gave no answer")]
)
def test_a_refusal_of_a_server_says_no_key(status, words, client, monkeypatch):
    monkeypatch.setattr(Answers, "status", status)
    monkeypatch.setattr(Answers, "body", b"wrong key key-123")
    assert "key-123" not in refused(lambda: client._completion("p", 1), words)


def test_a_key_that_is_none(monkeypatch, client):
    monkeypatch.setenv(server.KEY_VARIABLE, "a\x1b[31mb")
    policy = SimpleNamespace(name="zero_shot", model="m", adapters=())
    made = load_config("smoke", {"llm": {"engine": "server", "server": {"url": "http://127.0.0.1:9"}}})
    assert "\x1b" not in refused(lambda: server.ServerSampler(policy, made, None), "characters that no key has")


def test_an_answer_without_end(client, monkeypatch):
    monkeypatch.setattr(server, "MOST_BYTES", 10)
    monkeypatch.setattr(Answers, "body", b"x" * 99)
    refused(lambda: client._completion("p", 1), "longer than")


def test_an_answer_that_trickles_ends(client, monkeypatch):
    """Each byte comes in time, the whole does not."""
    monkeypatch.setattr(Answers, "wait", 0.2)
    monkeypatch.setattr(Answers, "body", json.dumps({"choices": [{"text": "x" * 60}]}).encode())
    client.server = client.server.changed(retries=0, timeout=1.0)
    refused(lambda: client._completion("p", 1), "took longer than 1 seconds")


ADDRESSES = [
    *("http://", "http://127.0.0.1:99999/v1", "http://127.0.0.1:9/v1", "http://no such host/", "http://[::1/v1"),
    "http://user:secret@host/v1",  # what stands behind the colon is taken for a port
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_that_is_none(url, client):
    client.server = client.server.changed(url=url, retries=0)
    client.address = public_address(url)
    text = refused(lambda: client._completion("p", 1), "start the server|does not answer|is no address")
    assert "secret" not in text


CHOICE = st.fixed_dictionaries({"text": st.text(max_size=8) | VALUES}, optional={"finish_reason": VALUES})
ANSWERS = st.fixed_dictionaries(
    {"choices": st.lists(CHOICE, max_size=2) | VALUES}, optional={"model": VALUES, "usage": VALUES}
)


@QUICK
@given(VALUES | ANSWERS)
def test_any_answer_is_a_completion_or_a_sentence(client, value):
    client._ask = lambda *_: value
    try:
        completion = client._completion("p", 1)
        completion.text.encode()  # fails on half a surrogate pair
        assert completion.tokens >= 0
    except StudyError as error:
        assert client.address in str(error), "the sentence says who answered so"


# Records and manifests

MANIFESTS = {
    "a list": ("[]", "is no manifest"),
    "cut": ('{"records": {', "damaged"),
    "another folder": ({"records": {"a-b": {"file": "../../x.json", "key": "k", "sha256": "s"}}}, "outside its folder"),
    "an absolute path": (
        {"records": {"a-b": {"file": "/etc/passwd", "key": "k", "sha256": "s"}}},
        "outside its folder",
    ),
    "a folder": ({"records": {"a-b": {"file": "records", "key": "k", "sha256": "s"}}}, "gone"),
    "no hash": ({"records": {"a-b": {"file": "records/a-b.json"}}}, "differs|gone"),
    "a number": ({"records": {"a-b": {"file": 3, "sha256": "s"}}}, "gone"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_is_wrong(case, tmp_path):
    content, words = MANIFESTS[case]
    (tmp_path / "records").mkdir()
    (tmp_path / "records/a-b.json").write_text("{}")
    (tmp_path / "manifest.json").write_text(content if isinstance(content, str) else json.dumps(content))
    refused(lambda: published_record(tmp_path, "a-b"), words)


def made_stage(tmp_path) -> tuple[Store, Stage]:
    def build(folder):
        (folder / "x.txt").write_text("x")
        return {"value": 3.25, "array": np.arange(3)}

    store, stage = Store(tmp_path, {"profile": "made", "seed": 1}), Stage("kind", "name", {"a": 1}, build)
    store.make(stage)
    return store, stage


SPOILED = {
    "a digit of the record": lambda f: (f / "record.json").write_text(
        (f / "record.json").read_text().replace("3.25", "3.26")
    ),
    "an empty record": lambda f: (f / "record.json").write_text("{}"),
    "a record that is a list": lambda f: (f / "record.json").write_text("[]"),
    "an empty list of files": lambda f: (f / "files.json").write_text("{}"),
    "no list of files": lambda f: (f / "files.json").unlink(),
    "another file": lambda f: (f / "x.txt").write_text("y"),
    "no file": lambda f: (f / "x.txt").unlink(),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_finished_stage_that_was_changed_is_not_published_again(case, tmp_path):
    store, stage = made_stage(tmp_path)
    (folder,) = (tmp_path / "runs/kind").iterdir()
    before = (tmp_path / "results/made/records/kind-name.json").read_bytes()
    SPOILED[case](folder)
    from dpo4rec_utils.store import check_files

    check_files.cache_clear()
    refused(lambda: store.make(stage), "was changed since|is gone since|delete")
    assert (tmp_path / "results/made/records/kind-name.json").read_bytes() == before


def test_a_published_record_holds_no_seal(tmp_path):
    made_stage(tmp_path)
    assert "seal" not in json.loads((tmp_path / "results/made/records/kind-name.json").read_text())


# Terminals, logs, other containers


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x07b", "\u202egnp.exe", "\x9b31m", "a\rb"])
def test_escape_sequences_are_shown_not_sent(text, capsys):
    cli.say(text)
    sent = capsys.readouterr().out
    assert sent.rstrip("\n").isprintable() and "\\" in sent
    assert printable("Amélie 日本 🎬\n\tx") == "Amélie 日本 🎬\n\tx"


def test_a_fault_of_the_program_is_one_sentence_and_a_log(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "project_root", lambda: tmp_path)
    monkeypatch.setattr(cli, "load_config", lambda *_: 1 / 0)
    for line in (1, None):
        assert cli.main(["data", "check", "smoke"]) == 2
        text = capsys.readouterr().err
        assert "ZeroDivisionError" in text and "Traceback" not in text and text.count("\n") == 1
        assert line is None or f"line {line} of" in text
    log = (tmp_path / "runs/errors.log").read_text()
    assert log.count("Traceback") == 2


def test_what_another_container_left_is_swept(tmp_path):
    folder = tmp_path / f"{files.PARTIAL}{os.getpid()}-x"
    folder.mkdir()
    os.utime(folder, (1, 1))  # from before this process began: its number was another's
    fresh = tmp_path / f"{files.PARTIAL}{os.getpid()}-y"
    fresh.mkdir()
    files.sweep(tmp_path)
    assert not folder.exists() and fresh.exists()


def test_long_titles_are_short_work():
    from dpo4rec_utils.knowledge.prompts import shortened

    calls = []

    def tokenizer(text, **_):
        calls.append(text)
        return SimpleNamespace(input_ids=text.split())

    assert shortened("word " * 50_000, tokenizer, 20) == " ".join(["word"] * 20) and len(calls) < 30


# The example of tables of yours, as its file and docs/adapting.md say


def test_the_example_is_read_as_it_is_printed(capsys, monkeypatch):
    from dpo4rec_utils import data_check
    from dpo4rec_utils.files import project_root

    monkeypatch.setattr(data_check, "cost_sentences", lambda _: ["minutes"])
    monkeypatch.chdir(project_root())
    assert cli.main(["data", "check", "examples/my-shop/my-shop.yaml"]) == 0
    printed = capsys.readouterr().out
    for words in ("20 interactions of 10 users with 7 items", "dropped: 1 rows items that nobody met", "Leaf & Co (2)"):
        assert words in printed, printed
    assert "templates: all of the domain can be written for 10 users and 7 items" in printed


def test_the_cost_of_the_example_is_tried_for_real(capfd, monkeypatch):
    """Ten users, one of them of validation: as few as there can be."""
    from dpo4rec_utils.files import project_root

    monkeypatch.chdir(project_root())
    assert cli.main(["data", "check", "examples/my-shop/my-shop.yaml", "-p", "llm.max_new_tokens=4"]) == 0
    assert "minutes" in capfd.readouterr().out


def test_an_interrupt_is_one_sentence(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dpo4rec_utils.data_check.described", interrupted)
    assert cli.main(["data", "check", "smoke"]) == 130
    assert capsys.readouterr().err == INTERRUPTED_SENTENCE + "\n"


class InterruptedImport:
    """A finder that is interrupted where the command line is imported."""

    def find_spec(self, name, *_):
        if name == "dpo4rec_utils.cli":
            raise KeyboardInterrupt


def test_an_interrupt_while_packages_are_imported_is_one_sentence(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "dpo4rec_utils.cli")
    monkeypatch.setattr(sys, "meta_path", [InterruptedImport(), *sys.meta_path])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("dpo4rec_utils", run_name="__main__")
    assert ended.value.code == 130 and capsys.readouterr().err == INTERRUPTED_SENTENCE + "\n"


NEW_USERS = {
    "a bad repeat": (
        lambda t: pd.concat([t, t.head(1).assign(rating="", timestamp=2000)]),
        {"duplicates": "last"},
        None,
    ),
    "two in five unlisted": (lambda t: t.assign(item_id=t.item_id.where(t.index % 5 > 1, "x")), {}, "unlisted: drop"),
    "a constant time": (lambda t: t.assign(timestamp=5), {}, "the same for all"),
}


@pytest.mark.parametrize("case", NEW_USERS)
def test_new_users_are_read_as_the_study_reads_its_own(case, tmp_path):
    change, settings_, words = NEW_USERS[case]
    dataset = load_tables(config(written(tmp_path)), 0)
    change(INTERACTIONS.head(200).astype({"rating": str})).to_csv(tmp_path / "new.csv", index=False)

    def read():
        return read_interactions(tmp_path / "new.csv", config(tmp_path, **settings_), dataset, 0)

    if words:
        refused(read, words)
    else:
        table, left_out = read()
        assert len(table) == 200 and left_out.rows == {"malformed": 1}


OUT = {
    "the input itself": ("new.parquet", [], "is the table of interactions, which would be lost"),
    "the input, by force": ("new.parquet", ["--force"], "which would be lost"),
    "another file": ("there.parquet", [], "exists; name another file, or say --force"),
    "a folder": ("folder.parquet", [], "name a file that ends in .parquet"),
    "another kind": ("out.csv", [], "name a file that ends in .parquet"),
    "a misspelt setting": ("out.parquet", ["-p", "llm.titels=3"], "Unknown key llm.titels"),
}


@pytest.mark.parametrize("case", OUT)
def test_write_loses_no_file(case, tmp_path, monkeypatch, capsys):
    out, more, words = OUT[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.parquet").mkdir()
    for name in ("new.parquet", "there.parquet"):
        INTERACTIONS.to_parquet(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    command = ["write", "--profile", "smoke", "--interactions", "new.parquet", "--out", out, *more]
    assert cli.main(command) == 2 and words in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}


def test_people_of_whom_nothing_is_left_are_named(tmp_path):
    dataset = load_tables(config(written(tmp_path)), 0)
    rows = [*INTERACTIONS.head(200).itertuples(index=False, name=None), ("ann", "i1", "", 5), ("bob", "nowhere", 5, 5)]
    pd.DataFrame(rows, columns=INTERACTIONS.columns).to_csv(tmp_path / "new.csv", index=False)
    table, left_out = read_interactions(tmp_path / "new.csv", config(tmp_path), dataset, 0)
    assert left_out.rows == {"malformed": 1, "of unlisted items": 1}
    assert left_out.users == {"without a row that can be read": ["ann"], "without a listed item": ["bob"]}
    assert not {"ann", "bob"} & set(table.user_id)
