"""MovieLens-100K (RecBole's atomic files or the official archive) and MovieLens-1M (official archive).

GroupLens forbids redistribution: rows are read where they lie and never copied into the project.
Source: Harper and Konstan, The MovieLens Datasets, https://doi.org/10.1145/2827872.
"""

import hashlib
import io
import zipfile
from pathlib import Path

import pandas as pd

from dpo4rec_utils import assets
from dpo4rec_utils.data.dataset import Dataset, validated
from dpo4rec_utils.files import StudyError, file_sha256

GENRES_100K = ["unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"]
GENRES_100K += [
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
OFFICIAL_MD5 = "c4d9eecfca2ab87c1945afe126590906"  # as GroupLens gives it beside ml-1m.zip
RECONSTRUCTION = "84143a839c9a7644a5703984cc0175858039ec00b142cbd0ab48a19f83416a4d"
RECONSTRUCTED = (
    "The data are a reconstructed ML-1M: ratings are exact, 26 % of the timestamps are estimates, 249 rows are missing."
)
ML_1M_URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"


def load_ml_100k(folder: Path | None = None) -> Dataset:
    """MovieLens-100K: 100,000 ratings, 943 users, 1,682 items."""
    folder = folder or assets.fetch("ml-100k")
    read = _read_atomic if (folder / "ml-100k.inter").exists() else _read_official_100k
    interactions, items, people = read(folder)
    return validated(Dataset("ml-100k", interactions, items, ("genres",), users=_demographics(people)))


def _table(source, columns, **options) -> pd.DataFrame:
    """Read a separated file as text with exactly these columns, or raise `StudyError`."""
    name = getattr(source, "name", "file")
    try:
        table = pd.read_csv(
            source, names=columns, dtype=str, keep_default_na=False, quoting=3, index_col=False, **options
        )
    except FileNotFoundError:
        raise StudyError(f"{Path(name).name} is missing; delete its folder and run again.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise StudyError(f"{Path(str(name)).name} is malformed: {str(error).splitlines()[0]}.") from None
    return table


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Ratings and timestamps as numbers; what is no number becomes missing and is named by `validated`."""
    rating = pd.to_numeric(table.rating, errors="coerce")
    timestamp = pd.to_numeric(table.timestamp, errors="coerce")
    return table.assign(rating=rating.where(rating.between(0, 10)), timestamp=timestamp)


def _item_table(item_id, title, year, genres) -> pd.DataFrame:
    frame = pd.DataFrame({"item_id": item_id, "title": title, "year": year, "genres": genres})
    # Official titles end in "(1995)", some files keep the year apart: take it from where it is.
    inside = frame.title.str.extract(r"^(?P<title>.*?)\s*\((?P<year>\d{4})(?:/[IVX]+)?\)\s*$")
    frame["title"] = inside.title.fillna(frame.title).str.strip()
    frame["year"] = pd.to_numeric(frame.year.where(frame.year != "", None), errors="coerce").fillna(
        pd.to_numeric(inside.year)
    )
    return frame.astype({"year": "Int64"})


PEOPLE = ["user_id", "age", "gender", "occupation", "zip_code"]


def _demographics(people: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """user_id -> age, gender and occupation in words; an occupation that says nothing is left out."""
    gender = people.gender.map({"M": "male", "F": "female"}).fillna("")
    occupation = people.occupation.replace({"other": "", "none": ""})
    words = zip(people.age + " years", gender, occupation, strict=True)
    return {user: tuple(filter(None, row)) for user, row in zip(people.user_id, words, strict=True)}


def _read_atomic(folder: Path):
    read = {"sep": "\t", "skiprows": 1, "encoding": "utf-8"}
    inter = _table(folder / "ml-100k.inter", ["user_id", "item_id", "rating", "timestamp"], **read)
    items = _table(folder / "ml-100k.item", ["item_id", "title", "year", "genres"], **read)
    genres = [tuple(g for g in row.split() if g.lower() != "unknown") for row in items.genres]
    items = _item_table(items.item_id, items.title, items.year, genres)
    return _numbers(inter), items, _table(folder / "ml-100k.user", PEOPLE, **read)


def _read_official_100k(folder: Path):
    with zipfile.ZipFile(folder / "ml-100k.zip") as archive:
        part = {n: io.BytesIO(archive.read(f"ml-100k/u.{n}")) for n in ("data", "item", "user")}
    inter = _table(part["data"], ["user_id", "item_id", "rating", "timestamp"], sep="\t")
    columns = ["item_id", "title", "released", "video", "url", *GENRES_100K]
    items = _table(part["item"], columns, sep="|", encoding="latin-1")
    flags = items[GENRES_100K[1:]].eq("1").to_numpy()
    genres = [tuple(g for g, on in zip(GENRES_100K[1:], row, strict=True) if on) for row in flags]
    items = _item_table(items.item_id, items.title, items.released.str[-4:], genres)
    return _numbers(inter), items, _table(part["user"], PEOPLE, sep="|")


def load_ml_1m(path: Path | None = None) -> Dataset:
    """MovieLens-1M: about a million ratings, 6,040 users, 3,883 items.

    From the official archive, or from a known reconstruction, which the notes say. Raises `StudyError` for any other
    file.
    """
    path = path or assets.archive(ML_1M_URL)
    reconstructed = file_sha256(path) == RECONSTRUCTION
    if not reconstructed and hashlib.md5(path.read_bytes()).hexdigest() != OFFICIAL_MD5:
        raise StudyError(f"{path.name} is not the official archive (MD5 {OFFICIAL_MD5}); delete {path} and run again.")
    with zipfile.ZipFile(path) as archive:
        part = {n: archive.read(f"ml-1m/{n}.dat").decode("latin-1") for n in ("ratings", "movies")}
    # "::" is no separator of the fast parser, and neither a tab nor this control character stands in the files.
    part = {n: io.StringIO(text.replace("::", "\x1f")) for n, text in part.items()}
    inter = _table(part["ratings"], ["user_id", "item_id", "rating", "timestamp"], sep="\x1f")
    items = _table(part["movies"], ["item_id", "title", "genres"], sep="\x1f")
    items = _item_table(items.item_id, items.title, "", [tuple(g.split("|")) for g in items.genres])
    return validated(
        Dataset("ml-1m", _numbers(inter), items, ("genres",), notes=(RECONSTRUCTED,) if reconstructed else ())
    )
