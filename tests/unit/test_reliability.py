"""Killed, repeated, run twice and fed nonsense: nothing is lost, nothing is trusted, every problem is one sentence."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from dpo4rec_utils import assets, cli, doctor, execute, files, locks, store
from dpo4rec_utils.alignment.trainers import complete_checkpoint
from dpo4rec_utils.evidence import report
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge import models
from dpo4rec_utils.store import Stage, Store, measure

ROOT = Path(__file__).parents[2]
CONFIG = {"profile": "made", "seed": 1}


def script(code: str, *arguments, **options) -> subprocess.Popen:
    """A process of its own that runs `code`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, **pipes, **options)


def side_by_side(target, *arguments: tuple) -> None:
    """Call `target` with each of `arguments` in a process of its own, all at once; every one must succeed."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=target, args=own) for own in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def wait_for(condition, process=None, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and (process is None or process.poll() is None), "it never came"
        time.sleep(0.02)


# Files

WRITING = """
import sys, time
from dpo4rec_utils.files import atomic_path
with atomic_path(sys.argv[1]) as path:
    path.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_leaves_matches_no_pattern_and_is_swept(tmp_path):
    (tmp_path / "x.png").write_text("whole")
    process = script(WRITING, tmp_path / "x.png")
    assert process.stdout.readline() == "writing\n"
    files.sweep(tmp_path)
    assert list(tmp_path.glob(f"{files.PARTIAL}*")), "of a process that lives"
    process.kill()
    process.wait()
    assert list(tmp_path.glob("*.png")) == list(tmp_path.glob("*.*g")) == [tmp_path / "x.png"]
    assert (tmp_path / "x.png").read_text() == "whole"
    files.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["x.png"]


SYSTEM = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "your quota of the disk is used up",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EROFS: "on a disk that cannot be written",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EEXIST: "a file or a dead link is where a folder should be",
    errno.EISDIR: "a folder is where a file should be",
    errno.ELOOP: "its links lead in a circle",
    errno.EMFILE: "too many files are open",
    errno.ENOENT: "it is gone; restore it",
    errno.EIO: "look at it",
}


@pytest.mark.parametrize("number", SYSTEM)
def test_what_the_system_refuses_is_one_sentence(number, monkeypatch, capsys):
    """On the command line and in a stage; exit code 2, no traceback."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "/some/where")

    monkeypatch.setattr(execute, "run_notebooks", refuse)
    assert cli.main(["study", "--profile", "smoke"]) == 2
    shown = capsys.readouterr().err
    assert "/some/where: " in shown and SYSTEM[number] in shown and shown.count("\n") == 1


@pytest.mark.parametrize("number", SYSTEM)
def test_what_the_system_refuses_to_a_stage_names_the_stage(number, tmp_path):
    def build(_):
        raise OSError(number, os.strerror(number), "/some/where")

    with pytest.raises(StudyError, match=f"kind name: /some/where: .*{SYSTEM[number]}"):
        Store(tmp_path, CONFIG).make(Stage("kind", "name", {}, build))


def blocked_by_a_file(path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")


def blocked_by_a_dead_link(path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("block", [blocked_by_a_file, blocked_by_a_dead_link])
@pytest.mark.parametrize("place", ["runs", "results/.locks", "results", "results/.smoke.new"])
def test_a_file_where_a_folder_should_be_is_one_sentence(block, place, tmp_path, monkeypatch, capsys):
    for name in ("notebooks", "dpo4rec_utils"):
        (tmp_path / name).symlink_to(ROOT / name)
    block(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "install_kernel", lambda: None)
    monkeypatch.setattr(execute, "_execute", lambda path, target, parameters: files.write_text(target, "{}"))
    without_cost(monkeypatch)
    code = cli.main(["study", "--profile", "smoke"])
    shown = capsys.readouterr().err
    swept = place == "results/.smoke.new"  # what stands in the way of a staged run is its own
    assert (code, shown) == (0, "") if swept else code == 2 and shown.count("\n") == 1 and "folder should be" in shown


def without_cost(monkeypatch):
    """What a run takes is not told, which needs a process of its own that imports everything."""
    monkeypatch.setattr(execute, "_cost", lambda _: ["a run: nothing"])
    monkeypatch.setattr(execute, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))


# Locks

HOLDING = """
import sys, time
from pathlib import Path
from dpo4rec_utils.locks import alone, results_alone
with results_alone(Path(sys.argv[1]), "made"):
    print("holding", flush=True)
    time.sleep(600)
"""


def test_an_engine_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.setattr(execute, "find_spec", lambda name: None)
    assert cli.main(["study", "--profile", "smoke"]) == 2
    shown = capsys.readouterr().err
    assert "openvino-genai, which is not installed" in shown and "Traceback" not in shown


def test_a_second_writer_of_results_is_told_who_writes(tmp_path, monkeypatch):
    process = script(HOLDING, tmp_path)
    assert process.stdout.readline() == "holding\n"
    try:
        with (
            pytest.raises(StudyError, match=f"results/made is being written by process {process.pid} .*since"),
            locks.results_alone(tmp_path, "made"),
        ):
            pass
        with locks.results_alone(tmp_path, "other"):
            pass  # two profiles side by side
        monkeypatch.setenv(locks.HOLDS, "made")
        with locks.results_alone(tmp_path, "made"):
            pass  # a kernel of the run that holds it
        monkeypatch.delenv(locks.HOLDS)
    finally:
        process.kill()
        process.wait()
    assert locks.left_unfinished(tmp_path) == "results/made"
    with locks.results_alone(tmp_path, "made"):
        pass  # a killed holder holds nothing
    assert locks.left_unfinished(tmp_path) is None


def slow_stage(folder: Path, log: Path) -> Stage:
    def build(_):
        with open(log, "a") as out:
            out.write(f"{os.getpid()}\n")
        time.sleep(1.0)
        (folder / "done").touch()
        return {"made": 1}

    return Stage("kind", "slow", {"x": 1}, build)


def make_slow(folder: Path):
    Store(folder, CONFIG).make(slow_stage(folder, folder / "log"))


def test_two_that_need_one_stage_build_it_once(tmp_path):
    side_by_side(make_slow, (tmp_path,), (tmp_path,))
    assert len((tmp_path / "log").read_text().split()) == 1


def slowly_unpacked(asset, target: Path, cache: Path) -> None:
    with open(cache / "log", "a") as out:
        out.write(f"{os.getpid()}\n")
    time.sleep(1.0)
    (target / "weights").write_text("whole")


def slowly_dense(source: Path, folder: Path) -> None:
    slowly_unpacked(None, folder, assets.cache_folder())


FIRST_RUNS = {
    "fetch": lambda folder: assets.fetch("minilm", log=lambda _: None),
    "dequantise": lambda folder: Path(models.dense_source(str(folder / "llm"))),
}


@pytest.mark.parametrize("what", FIRST_RUNS)
def test_two_first_runs_make_what_both_need_once(what, tmp_path, monkeypatch):
    """The second waits and takes what the first made, whole."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "dpo4rec").mkdir()
    (tmp_path / "llm").mkdir()
    (tmp_path / "llm/a.gguf").write_text("quantised")
    monkeypatch.setattr(assets, "_unpack", slowly_unpacked)
    monkeypatch.setattr(models, "_dequantise", slowly_dense)

    def begin():
        assert (FIRST_RUNS[what](tmp_path) / "weights").read_text() == "whole"

    side_by_side(begin, (), ())
    assert len((tmp_path / "dpo4rec/log").read_text().split()) == 1
    assert [path.name for path in (tmp_path / "dpo4rec").glob(".*") if path.name != locks.LOCKS] == []


def publish_many(folder: Path, name: str):
    made = Store(folder, CONFIG)
    for number in range(20):
        made.make(Stage("kind", f"{name}-{number}", {}, lambda _: {"x": 1}))


def test_two_publishers_lose_no_entry(tmp_path):
    side_by_side(publish_many, (tmp_path, "a"), (tmp_path, "b"))
    assert len(files.read_json(tmp_path / "results/made/manifest.json")["records"]) == 40


# Finished work is checked


def finished_stage(folder: Path) -> tuple[Stage, Path]:
    def build(inside):
        for number in range(2):
            (inside / f"shard-{number}.jsonl").write_text('{"text": "one"}\n')
        (inside / "adapter").mkdir()
        (inside / "adapter" / "weights.bin").write_bytes(b"1234")
        (inside / "checkpoints").mkdir()
        (inside / "checkpoints" / "any").write_text("may go")
        return {}

    stage = Stage("kind", "name", {}, build)
    return stage, Store(folder, CONFIG).make(stage)


DAMAGE = {
    "an emptied shard": (lambda f: (f / "shard-0.jsonl").write_text(""), "shard-0.jsonl was changed"),
    "a shard that is gone": (lambda f: (f / "shard-1.jsonl").unlink(), "shard-1.jsonl is gone"),
    "one letter": (lambda f: (f / "shard-0.jsonl").write_text('{"text": "two"}\n'), "shard-0.jsonl was changed"),
    "a longer file": (lambda f: (f / "adapter/weights.bin").write_bytes(b"12345"), "weights.bin was changed"),
    "a folder in its place": (
        lambda f: ((f / "shard-0.jsonl").unlink(), (f / "shard-0.jsonl").mkdir()),
        "shard-0.jsonl was changed",
    ),
    "a damaged record": (lambda f: (f / "record.json").write_bytes(b"\x80"), "record.json is damaged"),
    "a cut list of files": (lambda f: (f / "files.json").write_text("{"), "or the list of its files was changed"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_finished_work_that_was_changed_is_one_sentence(case, tmp_path):
    stage, folder = finished_stage(tmp_path)
    damage, words = DAMAGE[case]
    damage(folder)
    store.check_files.cache_clear()
    with pytest.raises(StudyError, match=words):
        Store(tmp_path, CONFIG).make(stage)


def test_checkpoints_may_be_deleted(tmp_path):
    stage, folder = finished_stage(tmp_path)
    (folder / "checkpoints" / "any").unlink()
    store.check_files.cache_clear()
    assert Store(tmp_path, CONFIG).make(stage) == folder


def checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    save_file({"a": torch.zeros(4)}, folder / "adapter_model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": torch.zeros(64)}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 1, "log_history": [1, 2, 3]}))


@pytest.mark.parametrize(
    "name", ["trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]
)
@pytest.mark.parametrize("share", [None, 0.0, 0.6])
def test_a_checkpoint_that_is_cut_is_not_resumed_from(name, share, tmp_path):
    for step in (9, 10):
        checkpoint(tmp_path / f"checkpoint-{step}")
    assert complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    path = tmp_path / "checkpoint-10" / name
    if share is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-9")
    assert not (tmp_path / "checkpoint-10").exists()


UNPACKED = {
    "cut": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size * 3 // 4]),
    "emptied": lambda p: p.write_bytes(b""),
    "gone": lambda p: p.unlink(),
    "one byte": lambda p: p.write_bytes(b"x" + p.read_bytes()[1:]),
}


@pytest.mark.parametrize("case", UNPACKED)
def test_an_unpacked_file_that_was_changed_is_one_sentence(case, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asset = assets.ASSETS["ml-100k"]
    folder = assets.cache_folder() / f"ml-100k-{asset.sha256[:12]}"
    folder.mkdir(parents=True)
    (folder / "ml-100k.inter").write_text("1\t2\t3\t4\n" * 100)
    assets.seal(folder)
    assets.is_whole.cache_clear()
    assert assets.fetch("ml-100k") == folder
    UNPACKED[case](folder / "ml-100k.inter")
    assets.is_whole.cache_clear()
    with pytest.raises(StudyError, match="ml-100k.inter was changed since it was unpacked; delete .* and run again"):
        assets.fetch("ml-100k")
    assets.is_whole.cache_clear()


# Seconds

WORKING = """
import sys, time
from pathlib import Path
from dpo4rec_utils import meter, store
assert meter.JOURNAL_TICKS * 0.5 <= 3
meter.JOURNAL_TICKS = 1
with store.measure(Path(sys.argv[1])):
    time.sleep(600)
"""


def test_seconds_outlive_a_kill(tmp_path):
    process = script(WORKING, tmp_path / "cost.json")
    wait_for(
        lambda: (tmp_path / "cost.json").exists() and files.read_json(tmp_path / "cost.json")["seconds"] > 1, process
    )
    process.kill()
    process.wait()
    with measure(tmp_path / "cost.json") as cost:
        time.sleep(0.1)
    assert 1.1 < cost.seconds < 60


def test_a_stage_inside_a_stage_counts_once(tmp_path):
    made = Store(tmp_path, CONFIG)

    def inner(_):
        time.sleep(0.6)
        return {}

    def outer(_):
        time.sleep(0.2)
        made.make(Stage("kind", "inner", {}, inner))
        return {}

    start = time.perf_counter()
    made.make(Stage("kind", "outer", {}, outer))
    elapsed = time.perf_counter() - start
    seconds = {name: made.record("kind", name)["seconds"] for name in ("inner", "outer")}
    assert seconds["inner"] >= 0.6 and seconds["outer"] >= 0.2 and sum(seconds.values()) <= elapsed


# Starts that fail, kernels that die


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with published results, whose notebooks are those that a test makes."""
    (tmp_path / "dpo4rec_utils").symlink_to(ROOT / "dpo4rec_utils")
    (tmp_path / "notebooks").mkdir()
    results = tmp_path / "results/smoke"
    files.write_json(results / "manifest.json", {"profile": "smoke", "records": {}})
    files.write_text(results / "tables" / "old.csv", "old\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def notebook(root: Path, name: str, code: str) -> None:
    book = nbformat.v4.new_notebook()
    parameters = nbformat.v4.new_code_cell('PROFILE = "smoke"\nOVERRIDES = {}\nMAKE = False')
    parameters.metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"name": "dpo4rec", "display_name": "x", "language": "python"}
    book.cells = [parameters, nbformat.v4.new_code_cell(code)]
    nbformat.write(book, root / "notebooks" / name)


def content(results: Path) -> dict:
    return {path.relative_to(results): path.read_bytes() for path in results.rglob("*") if path.is_file()}


STARTS = {
    "no assets": (
        ["study", "--profile", "smoke"],
        {"DPO4REC_ASSETS": "/nowhere", "XDG_CACHE_HOME": "no-cache"},
        "which is no folder",
    ),
    "no such profile": (["study", "--profile", "smokey"], {}, "does not exist"),
    "a bad setting": (["study", "--profile", "smoke", "-p", "seed=-1"], {}, "seed = -1"),
    "no such notebook": (["study", "--profile", "smoke", "--only", "99"], {}, "No notebook starts with '99'"),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_failed_start_loses_nothing(case, checkout, monkeypatch, capfd):
    arguments, variables, words = STARTS[case]
    notebook(checkout, "00_a.ipynb", "print(1)")
    before = content(checkout / "results/smoke")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(execute, "install_kernel", lambda: None)
    assert cli.main(arguments) == 2
    assert words in capfd.readouterr().err and content(checkout / "results/smoke") == before


ENDINGS = {
    "a kernel that is killed": (
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "the system ended its kernel",
    ),
    "a sentence of ours": (
        "from dpo4rec_utils.files import StudyError\nraise StudyError('no pairs')",
        "01_b: no pairs",
    ),
    "a full disk": ("raise OSError(28, 'No space left on device', 'x')", "01_b: x: the disk is full"),
    "no memory": ("raise MemoryError('all of it')", "01_b: all of it"),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_a_notebook_that_fails_loses_nothing_and_is_one_sentence(case, checkout, monkeypatch, capfd):
    code, words = ENDINGS[case]
    notebook(checkout, "00_a.ipynb", "print(1)")
    notebook(checkout, "01_b.ipynb", code)
    before = content(checkout / "results/smoke")
    without_cost(monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert cli.main(["study", "--profile", "smoke"]) == 2
    shown = capfd.readouterr().err
    assert words in shown and "Traceback" not in shown.rpartition("dpo4rec:")[2]
    assert content(checkout / "results/smoke") == before
    assert (checkout / "results/.smoke.new/notebooks/00_a.ipynb").exists(), "what succeeded can be looked at"
    notebook(checkout, "01_b.ipynb", "print(2)")
    assert cli.main(["study", "--profile", "smoke"]) == 0
    now = content(checkout / "results/smoke")
    assert Path("tables/old.csv") not in now and Path("notebooks/01_b.ipynb") in now
    assert sorted(os.listdir(checkout / "results")) == [".locks", "smoke"]


def test_a_kill_between_two_renames_is_mended(tmp_path):
    (tmp_path / "results/.smoke.old").mkdir(parents=True)
    files.recover(tmp_path / "results/smoke")
    assert os.listdir(tmp_path / "results") == ["smoke"]
    files.recover(tmp_path / "results/smoke")
    (tmp_path / "results/.smoke.new").mkdir()
    (tmp_path / "results/.smoke.new/x").touch()
    files.replace_folder(tmp_path / "results/.smoke.new", tmp_path / "results/smoke")
    assert os.listdir(tmp_path / "results") == ["smoke"] and (tmp_path / "results/smoke/x").exists()


def test_no_temporary_folder_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    monkeypatch.setattr(doctor, "checks", lambda: iter([(True, "x", tempfile.mkdtemp())]))
    assert cli.main(["doctor"]) == 2
    shown = capsys.readouterr().err
    assert "No usable temporary directory" in shown and "set TMPDIR" in shown and shown.count("\n") == 1


@pytest.mark.parametrize("name", ["the same", "a link", "a link to the link"])
def test_a_kernel_that_is_there_is_not_written_again(name, tmp_path, monkeypatch):
    """A read-only environment, and one that two checkouts share by links, whose studies would take turns in it."""
    prefix, link, other = tmp_path / "venv", tmp_path / "link", tmp_path / "other"
    link.symlink_to(prefix)
    other.symlink_to(link)
    folder = {"the same": prefix, "a link": link, "a link to the link": other}[name]
    files.write_json(prefix / "share/jupyter/kernels/dpo4rec/kernel.json", {"argv": [str(folder / "bin/python")]})
    (prefix / "bin").mkdir()
    (prefix / "bin/python").symlink_to(sys.executable)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr("ipykernel.kernelspec.install", lambda **_: pytest.fail("written again"))
    execute.install_kernel()


@pytest.mark.parametrize("spec", [{}, [], {"argv": []}, {"argv": [3]}, {"argv": ["/usr/bin/python3"]}])
def test_a_kernel_of_another_environment_is_replaced(spec, tmp_path, monkeypatch):
    files.write_json(tmp_path / "share/jupyter/kernels/dpo4rec/kernel.json", spec)
    installed = []
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr("ipykernel.kernelspec.install", lambda **options: installed.append(options))
    execute.install_kernel()
    assert [options["prefix"] for options in installed] == [str(tmp_path)]


# Provenance


def git(folder: Path, *command: str) -> None:
    """Git as it is everywhere, whatever this machine's user has set."""
    settings = ("user.name=x", "user.email=x@y", "commit.gpgsign=false", "core.hooksPath=/dev/null")
    options = [word for setting in settings for word in ("-c", setting)]
    subprocess.run(["git", "-C", str(folder), *options, *command], check=True)


def test_a_copy_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "other")
    inside = tmp_path / "copy"
    inside.mkdir()
    for name in ("notebooks", "dpo4rec_utils"):
        (inside / name).symlink_to(ROOT / name)
    monkeypatch.chdir(inside)
    environment = store.environment()
    assert environment["commit"] == "unknown" and environment["threads"] >= 1
    if sys.platform == "linux":
        assert ("AVX-512" in environment["device"]) == (" avx512f " in Path("/proc/cpuinfo").read_text())


def test_a_commit_says_whether_a_file_outside_the_results_differs_from_it(tmp_path, monkeypatch):
    for name in ("notebooks/a", "dpo4rec_utils/a", "results/a"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("as committed")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        git(tmp_path, *command)
    monkeypatch.chdir(tmp_path)
    clean = store.environment()["commit"]
    assert len(clean) == 12 and not clean.endswith("-dirty")
    (tmp_path / "results/a").write_text("drawn again")
    (tmp_path / "b").write_text("nobody tracks it")
    assert store.environment()["commit"] == clean
    (tmp_path / "dpo4rec_utils/a").write_text("changed")
    assert store.environment()["commit"] == f"{clean}-dirty"


# Names and words that reach a page


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "../ml-100k", "..", "/etc", "A", "a b", "-a"])
def test_a_name_that_is_none_is_one_sentence(name, capsys):
    assert cli.main(["report", "--profile", name]) == 2
    shown = capsys.readouterr().err
    assert ("is no profile's name" in shown or name.startswith("-")) and shown.count("\n") == 1


def test_words_of_a_table_are_text_on_a_page(tmp_path):
    hostile = "<img src=x onerror=alert(1)>"
    table = pd.DataFrame({"arm": [hostile], hostile: [1.0]})
    (tmp_path / "results/made/tables").mkdir(parents=True)
    table.to_csv(tmp_path / "results/made/tables/main_results.csv", index=False)
    records = type("Made", (), {"folder": tmp_path / "results/made"})
    shown = report._table(records, "main_results")["html"]
    assert "<img" not in shown and shown.count("&lt;img") == 2


def test_seconds_of_a_notebook_outlive_an_interruption(tmp_path, monkeypatch):
    def interrupted(*_):
        time.sleep(0.3)
        raise KeyboardInterrupt

    book, journals = [Path("00_a.ipynb")], tmp_path / "journals"
    monkeypatch.setattr(execute, "_execute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute._run(book, tmp_path, {}, journals)
    monkeypatch.setattr(execute, "_execute", lambda *_: time.sleep(0.3))
    (row,) = execute._run(book, tmp_path, {}, journals)
    assert row.startswith("00_a,") and float(row.split(",")[1]) >= 0.6
