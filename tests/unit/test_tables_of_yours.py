"""Tables of yours: every format, and what is wrong with one is one sentence that names the file or the key."""

import gzip
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo4rec_utils import cli
from dpo4rec_utils.data import reading
from dpo4rec_utils.data.cohort import build_cohort
from dpo4rec_utils.data.core import core_rows, hashed_ids
from dpo4rec_utils.data.lists import Draw, build_lists
from dpo4rec_utils.data.reading import read_parts
from dpo4rec_utils.data.tables import load_tables, read_interactions
from dpo4rec_utils.data_config import DataConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.settings import load_config

ROWS = [(f"u{u}", f"i{(u + k) % 30}", 1 + (u + k) % 5, 100 + k) for u in range(25) for k in range(14)]
INTERACTIONS = pd.DataFrame(ROWS, columns=["user_id", "item_id", "rating", "timestamp"])
ITEMS = pd.DataFrame(
    {
        "item_id": [f"i{i}" for i in range(30)],
        "title": [f"Thing {i}" for i in range(30)],
        "year": ["1999"] * 30,
        "brand": ["Acme|Sons; Co"] * 15 + [""] * 15,
    }
)
COLUMNS = {"rating": "rating", "timestamp": "timestamp", "year": "year", "attributes": {"brand": "brand"}}


def written(folder, interactions=INTERACTIONS, items=ITEMS):
    """Both tables as CSV files in `folder`; text is written as it is."""
    for name, table in (("inter.csv", interactions), ("items.csv", items)):
        content = table if isinstance(table, (str, bytes)) else table.to_csv(index=False)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def config(folder, **change) -> DataConfig:
    tables = {"name": "mine", "interactions": str(folder / "inter.csv"), "items": str(folder / "items.csv")}
    return DataConfig(**(tables | {"columns": COLUMNS, "domain": "products"} | change))


def same(dataset):
    assert len(dataset.interactions) == len(INTERACTIONS) and len(dataset.items) == 30
    assert dataset.interactions.user_id.iloc[0] == "u0" and dataset.interactions.rating.iloc[3] == 4
    assert dataset.items.brand.iloc[0] == ("Acme", "Sons", "Co") and dataset.items.brand.iloc[20] == ()
    assert dataset.items.year.iloc[0] == 1999


def test_csv(tmp_path):
    same(load_tables(config(written(tmp_path)), 0))


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv.gz", ".tsv", ".jsonl.gz"])
def test_other_formats_are_the_same_tables(tmp_path, ending):
    for name, table in (("inter", INTERACTIONS), ("items", ITEMS)):
        path = tmp_path / f"{name}{ending}"
        if ending == ".parquet":
            table.to_parquet(path)
        elif "jsonl" in ending:
            table.to_json(path, orient="records", lines=True)
        else:
            table.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    paths = {"interactions": str(tmp_path / f"inter{ending}"), "items": str(tmp_path / f"items{ending}")}
    same(load_tables(config(tmp_path, **paths), 0))


def test_recboles_atomic_files_a_folder_and_an_archive(tmp_path, monkeypatch):
    types = {"user_id": "user_id:token", "item_id": "item_id:token", "rating": "rating:float"}
    inter = INTERACTIONS.rename(columns=types | {"timestamp": "timestamp:float"})
    items = ITEMS.assign(brand=["Acme Sons Co"] * 15 + [""] * 15)  # RecBole separates by spaces
    items = items.rename(columns={"item_id": "item_id:token", "title": "title:token_seq", "year": "year:token"})
    inter.to_csv(tmp_path / "mine.inter", sep="\t", index=False)
    items.rename(columns={"brand": "brand:token_seq"}).to_csv(tmp_path / "mine.item", sep="\t", index=False)
    atomic = {"interactions": str(tmp_path / "mine.inter"), "items": str(tmp_path / "mine.item")}
    same(load_tables(config(tmp_path, **atomic), 0))
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, part in enumerate((INTERACTIONS[:100], INTERACTIONS[100:])):
        part.to_csv(parts / f"part-{number}.csv", index=False)
    same(load_tables(config(written(tmp_path), interactions=str(parts)), 0))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("inter.csv", INTERACTIONS.to_csv(index=False))
        archive.writestr("items.csv", ITEMS.to_csv(index=False))
    monkeypatch.setenv("DPO4REC_ASSETS", str(tmp_path))
    same(load_tables(config(tmp_path, archive="all.zip", interactions="inter.csv", items="items.csv"), 0))


def test_an_identifier_stays_text_and_json_lists_are_values(tmp_path):
    rows = [{"user_id": "007", "item_id": str(i), "rating": 5, "timestamp": i} for i in range(12)]
    (tmp_path / "inter.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = [{"item_id": str(i), "title": "T", "brand": ["A", "B"], "year": None} for i in range(12)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    paths = {"interactions": str(tmp_path / "inter.jsonl"), "items": str(tmp_path / "items.jsonl")}
    dataset = load_tables(config(tmp_path, **paths), 0)
    assert set(dataset.interactions.user_id) == {"007"} and dataset.items.brand.iloc[0] == ("A", "B")
    assert dataset.items.year.isna().all()


def test_a_few_bad_rows_are_dropped_and_counted(tmp_path):
    table = INTERACTIONS.astype(str)
    table.loc[5, "rating"], table.loc[6, "timestamp"], table.loc[7, "item_id"] = "five", "", "i999"
    dataset = load_tables(config(written(tmp_path, table)), 0)
    assert dict(dataset.dropped) == {"malformed": 2, "of unlisted items": 1}
    assert len(dataset.interactions) == len(INTERACTIONS) - 3


def test_repeats_are_an_error_or_the_first_or_the_last_in_time(tmp_path):
    again = pd.concat([INTERACTIONS, pd.DataFrame([("u0", "i0", 5, 1)], columns=INTERACTIONS.columns)])
    written(tmp_path, again)
    with pytest.raises(StudyError, match="user u0 has item i0 twice; set data.duplicates"):
        load_tables(config(tmp_path), 0)
    ratings = {}
    for keep in ("first", "last"):
        dataset = load_tables(config(tmp_path, duplicates=keep), 0)
        one = dataset.interactions.query("user_id == 'u0' and item_id == 'i0'")
        ratings[keep], dropped = one.rating.item(), dataset.dropped["repeated"]
    assert ratings == {"first": 5.0, "last": 1.0} and dropped == 1


def naive_core(table: pd.DataFrame, users: int, items: int) -> pd.DataFrame:
    """Throw out, again and again, whoever has too few."""
    while True:
        left = table[table.groupby("user").item.transform("nunique") >= users]
        left = left[left.groupby("item").user.transform("nunique") >= items]
        if len(left) == len(table):
            return table
        table = left


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 20),
)
def test_a_core_is_what_throwing_out_again_and_again_leaves(pairs, users, items, size):
    table = pd.DataFrame(pairs, columns=["user", "item"]).astype(str).astype("str")
    parts = [table[i : i + size] for i in range(0, len(table), size)]
    hashes = hashed_ids(iter(parts))
    assert hashes[2].all()
    kept = table[core_rows(*hashes[:2], (users, items))]
    pd.testing.assert_frame_equal(kept, naive_core(table, users, items))


def test_a_core_is_read_as_a_stream_and_its_items_alone_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PART", 7)
    rare = pd.DataFrame([("rare", "i0", 5, 1), ("u0", "i77", 5, 1), (None, "i1", 5, 1)], columns=INTERACTIONS.columns)
    items = pd.concat([ITEMS, ITEMS[:1].assign(item_id="i77"), ITEMS[:1]])
    written(tmp_path, pd.concat([INTERACTIONS, rare]), items)
    dataset = load_tables(config(tmp_path, core={"users": 2, "items": 2}, duplicates="first"), 0)
    same(dataset)
    assert dataset.dropped == {"outside the core": 2, "malformed": 1}
    with pytest.raises(StudyError, match="no interaction is left with data.core.users = 15"):
        load_tables(config(tmp_path, core={"users": 15}), 0)


def test_users_with_few_are_left_out_and_long_ones_are_cut_in_order(tmp_path):
    few = pd.DataFrame([("few", f"i{i}", 5, 100 - i) for i in range(5)], columns=INTERACTIONS.columns)
    written(tmp_path, pd.concat([INTERACTIONS, few]))
    assert load_tables(config(tmp_path, min_interactions=6), 0).dropped == {"of users with fewer than 6": 5}
    short = config(tmp_path, first_interactions=11)
    dataset = load_tables(short, 0)
    cohort = build_cohort(dataset, short, 1)
    user = cohort.users.tolist().index("u0")
    rows = pd.concat([cohort.history[user], cohort.future[user]])
    assert rows.timestamp.tolist() == list(range(100, 111)) and len(cohort.met[user]) == 14
    lists = build_lists(dataset, cohort, short.changed(negatives_per_list=12), Draw("uniform", 1))
    of_user = lists.user == user
    assert not set(lists.items[of_user][~lists.observed[of_user]]) & set(cohort.met[user]), "met later is no negative"
    with pytest.raises(StudyError, match="no user has data.min_interactions = 99"):
        load_tables(config(tmp_path, min_interactions=99), 0)


def test_titles_from_the_web_are_text_and_scripts_are_no_titles(tmp_path):
    items = ITEMS.assign(title="Tom &amp; Jerry")
    items.loc[7, "title"] = "var aPageStart = (new Date()).getTime();"
    written(tmp_path, items=items)
    dataset = load_tables(config(tmp_path, broken_title="getTime", missing_titles="drop"), 0)
    assert set(dataset.items.title) == {"Tom & Jerry"} and len(dataset.items) == 29
    unlisted = (INTERACTIONS.item_id == "i7").sum()
    assert dataset.dropped == {"items without id or title": 1, "of unlisted items": unlisted}


def test_control_characters_of_a_title_are_no_text(tmp_path):
    items = ITEMS.assign(title=["\x1b[31mHeat\x1b[0m\n\tagain"] + ["Thing"] * 29, brand=["Ac\x07me"] * 30)
    items_read = load_tables(config(written(tmp_path, items=items)), 0).items
    assert items_read.title[0] == "[31mHeat [0m again" and items_read.brand[0] == ("Ac me",)


def test_an_address_is_read_from_the_folder_of_assets_by_its_name(tmp_path, monkeypatch):
    written(tmp_path)
    monkeypatch.setenv("DPO4REC_ASSETS", str(tmp_path))
    addresses = {
        part: f"https://example.org/data/{name}.csv" for part, name in (("interactions", "inter"), ("items", "items"))
    }
    same(load_tables(config(tmp_path, **addresses), 0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(StudyError, match="else.csv could not be downloaded from nowhere://example/else.csv .* connect"):
        load_tables(config(tmp_path, interactions="nowhere://example/else.csv"), 0)
    assert not list(tmp_path.rglob("else.csv*"))


def test_amazon_reviews_of_both_years_as_they_are_published(tmp_path, monkeypatch):
    """The fields that the official files have; people and games are made up."""
    names = {"amazon": ("Video_Games.jsonl.gz", "meta_Video_Games.jsonl.gz")}
    names["amazon-2018"] = ("Video_Games_5.json.gz", "meta_Video_Games.json.gz")
    monkeypatch.setenv("DPO4REC_ASSETS", str(tmp_path))
    for profile, (reviews, about) in names.items():
        rows, games = [], []
        for user, item, rating, time in ROWS + [("u0", "i0", 2, 999), ("once", "i3", 5, 1)]:
            one = {"user_id": user, "parent_asin": item, "asin": "x", "rating": float(rating), "timestamp": time * 1000}
            if profile == "amazon-2018":
                one = {"reviewerID": user, "asin": item, "overall": float(rating), "unixReviewTime": time}
            rows.append(one | {"title": "Good", "text": "Fun", "images": []})
        for item in ITEMS.item_id:
            one = {"title": f"Game {item}", "price": None, "details": {"a": 1}, "categories": ["Video Games"]}
            games.append(one | ({"asin": item} if profile == "amazon-2018" else {"parent_asin": item, "store": "Acme"}))
        games[0] |= {"title": "Mario &amp; Luigi"}
        for name, lines in ((reviews, rows), (about, games)):
            (tmp_path / name).write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    config = load_config("amazon").data
    dataset = load_tables(config, 0)
    assert dataset.dropped == {"outside the core": 1, "repeated": 1} and dataset.items.brand.iloc[0] == ("Acme",)
    assert dataset.interactions.query("user_id == 'u0' and item_id == 'i0'").rating.item() == 2, (
        "the last review counts"
    )
    older = load_tables(load_config("amazon-2018").data.changed(min_interactions=14, first_interactions=12), 0)
    assert older.items.title.iloc[0] == "Mario & Luigi" and set(older.interactions.rating) == {1.0}
    assert older.dropped == {"outside the core": 1, "repeated": 1}


def test_parquet_keeps_lists_and_whole_numbers_beside_missing_ones(tmp_path):
    numbers = INTERACTIONS.assign(user_id=INTERACTIONS.user_id.str[1:].astype("Int64"))
    numbers.loc[3, "user_id"] = None
    numbers.to_parquet(tmp_path / "inter.parquet")
    ITEMS.assign(brand=[["Acme", "Sons"]] * 30).to_parquet(tmp_path / "items.parquet")
    paths = {part: str(tmp_path / f"{name}.parquet") for part, name in (("interactions", "inter"), ("items", "items"))}
    dataset = load_tables(config(tmp_path, **paths), 0)
    assert set(dataset.interactions.user_id) == {str(i) for i in range(25)} and dataset.dropped == {"malformed": 1}
    assert dataset.items.brand[0] == ("Acme", "Sons")


def test_rows_that_cannot_be_used_are_counted_before_anything_else(tmp_path):
    worse = INTERACTIONS[:3].assign(rating="bad", timestamp=999)
    written(tmp_path, pd.concat([INTERACTIONS, worse]))
    dataset = load_tables(config(tmp_path, duplicates="last"), 0)
    assert dataset.dropped == {"malformed": 3} and len(dataset.interactions) == 350, "a bad repeat replaces no good row"
    written(tmp_path, spoilt(INTERACTIONS, user_id=[None] * 175 + list(INTERACTIONS.user_id[175:])))
    with pytest.raises(StudyError, match="175 of 350 interactions are malformed, the first in row 1"):
        load_tables(config(tmp_path, duplicates="first", min_interactions=5), 0)


def test_a_core_is_of_listed_items_alone(tmp_path):
    written(tmp_path, items=ITEMS[:20])
    dataset = load_tables(config(tmp_path, core={"users": 9, "items": 2}, unlisted="drop"), 0)
    assert (
        dataset.interactions.user_id.value_counts().min() >= 9
        and dataset.interactions.item_id.value_counts().min() >= 2
    )
    assert dataset.dropped["of unlisted items"] == (~INTERACTIONS.item_id.isin(ITEMS.item_id[:20])).sum()


@pytest.mark.parametrize("year", ["1999.0", "1999-05-01", " 1999"])
def test_a_year_is_read_from_a_number_or_a_date(tmp_path, year):
    items = ITEMS.assign(year=year, title=["Foo (１９９９)"] + ["Bar (1999)"] * 29)
    read = load_tables(config(written(tmp_path, items=items)), 0).items
    assert set(read.year) == {1999} and read.title.tolist()[:2] == ["Foo (１９９９)", "Bar"]


@pytest.mark.parametrize("options", [{"encoding": "utf-9"}, {"separator": "(("}])
def test_a_way_to_read_that_is_none_is_one_sentence(tmp_path, options):
    with pytest.raises(StudyError, match="items.csv is malformed|which is no column"):
        load_tables(config(written(tmp_path), **options), 0)


def test_an_order_is_given_or_seeded_and_said(tmp_path):
    columns = {key: value for key, value in COLUMNS.items() if key != "timestamp"}
    written(tmp_path)
    with pytest.raises(StudyError, match="neither a timestamp nor a position"):
        load_tables(config(tmp_path, columns=columns), 0)
    one, other = (load_tables(config(tmp_path, columns=columns, order="seeded"), seed) for seed in (0, 1))
    assert one.order == "arbitrary" and "arbitrary (seeded)" in one.notes[0]
    assert (one.interactions.timestamp != other.interactions.timestamp).any()
    placed = load_tables(config(tmp_path, columns=columns | {"position": "timestamp"}), 0)
    assert placed.order == "position" and placed.notes == ()


@pytest.mark.parametrize("written_as", ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])
def test_a_time_may_be_a_date(tmp_path, written_as):
    days = pd.to_datetime(INTERACTIONS.timestamp, unit="D")
    written(tmp_path, INTERACTIONS.assign(timestamp=days.dt.strftime(written_as)))
    dated = load_tables(config(tmp_path), 0).interactions
    assert (dated.timestamp == INTERACTIONS.timestamp * 86400).all()
    INTERACTIONS.assign(timestamp=days).to_parquet(tmp_path / "inter.parquet")
    dated = load_tables(config(tmp_path, interactions=str(tmp_path / "inter.parquet")), 0).interactions
    assert (dated.timestamp == INTERACTIONS.timestamp * 86400).all()


def test_a_title_does_not_say_the_year_twice(tmp_path):
    items = ITEMS.assign(title=["Heat (1999)", "1984 (2001)", "(1999)"] + ["Thing"] * 27)
    titles = load_tables(config(written(tmp_path, items=items)), 0).items.title
    assert titles.tolist()[:3] == ["Heat", "1984 (2001)", "(1999)"]


def test_a_rating_may_say_that_the_item_was_met(tmp_path):
    table = INTERACTIONS.assign(rating=INTERACTIONS.rating.replace(1, 0))
    dataset = load_tables(config(written(tmp_path, table), implicit_rating=0.0, like_threshold=4.5), 0)
    assert set(dataset.interactions.rating[INTERACTIONS.rating == 1]) == {4.5}


def spoilt(table, **columns):
    return table.assign(**columns)


BAD_TABLES = {
    "no user column": (INTERACTIONS.rename(columns={"user_id": "who"}), ITEMS, "'user_id' for user, .* there are who"),
    "no item column": (INTERACTIONS.drop(columns="item_id"), ITEMS, "'item_id' for item"),
    "no rating column": (INTERACTIONS.drop(columns="rating"), ITEMS, "'rating' for rating"),
    "no timestamp column": (INTERACTIONS.drop(columns="timestamp"), ITEMS, "'timestamp' for timestamp"),
    "no title column": (INTERACTIONS, ITEMS.drop(columns="title"), "'title' for title"),
    "no attribute column": (INTERACTIONS, ITEMS.drop(columns="brand"), "'brand' for brand, which is no column"),
    "no year column": (INTERACTIONS, ITEMS.drop(columns="year"), "'year' for year"),
    "a title is missing": (
        INTERACTIONS,
        spoilt(ITEMS, title=[""] + ["T"] * 29),
        "1 of 30 items lack an id or a title, the first in row 1",
    ),
    "an item id is missing": (
        INTERACTIONS,
        spoilt(ITEMS, item_id=[""] + list(ITEMS.item_id[1:])),
        "the first in row 1",
    ),
    "an item twice": (INTERACTIONS, pd.concat([ITEMS, ITEMS[:1]]), "item i0 is listed twice"),
    "ratings are words": (
        spoilt(INTERACTIONS, rating="good"),
        ITEMS,
        "350 of 350 interactions are malformed, the first in row 1",
    ),
    "ratings are NaN": (spoilt(INTERACTIONS, rating=np.nan), ITEMS, "350 of 350 interactions are malformed"),
    "ratings are infinite": (spoilt(INTERACTIONS, rating="inf"), ITEMS, "interactions are malformed"),
    "times are words": (spoilt(INTERACTIONS, timestamp="May"), ITEMS, "interactions are malformed"),
    "more than a percent": (
        spoilt(INTERACTIONS, rating=["x"] * 4 + [3] * 346),
        ITEMS,
        "4 of 350 interactions are malformed",
    ),
    "users are missing": (spoilt(INTERACTIONS, user_id=""), ITEMS, "350 of 350 interactions are malformed"),
    "no item is listed": (INTERACTIONS, spoilt(ITEMS, item_id=[f"x{i}" for i in range(30)]), "none of the 350"),
    "no rows": ("user_id,item_id,rating,timestamp\n", ITEMS, "inter.csv is empty"),
    "no items": (INTERACTIONS, "item_id,title,year,brand\n", "items.csv is empty"),
    "an empty file": ("", ITEMS, "inter.csv is empty"),
    "only white space": ("\n\n", ITEMS, "inter.csv is empty"),
    "ragged rows": (
        "user_id,item_id,rating,timestamp\n1,2,3,4\n1,2,3,4,5,6,7\n",
        ITEMS,
        "inter.csv is malformed: .*line 3",
    ),
    "an open quote": ('user_id,item_id,rating,timestamp\n"1,2,3,4\n', ITEMS, "inter.csv is malformed|malformed"),
    "latin-1": (
        INTERACTIONS,
        "item_id,title,year,brand\ni0,Caf\xe9,1999,\n".encode("latin-1"),
        "items.csv is not UTF-8",
    ),
    "UTF-16": ("user_id,item_id\n1,2\n".encode("utf-16"), ITEMS, "inter.csv is not UTF-8"),
    "binary": (bytes(range(128, 256)) * 9, ITEMS, "inter.csv is not UTF-8"),
    "more cells than columns": (
        "user_id,item_id,rating,timestamp\n7,u1,i1,5,9\n",
        ITEMS,
        "inter.csv is malformed: .*Expected 4 fields in line 2, saw 5",
    ),
    "all titles are missing": (INTERACTIONS, spoilt(ITEMS, title=None), "30 of 30 items lack an id or a title"),
    "half of the items unlisted": (INTERACTIONS, ITEMS[:10], "of the 350 interactions is with a listed item"),
    "another separator": (INTERACTIONS.to_csv(index=False, sep=";"), ITEMS, "'user_id' for user"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_one_sentence(tmp_path, case):
    interactions, items, words = BAD_TABLES[case]
    with pytest.raises(StudyError, match=words) as error:
        load_tables(config(written(tmp_path, interactions, items)), 0)
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inter.csv", "items.csv"], "nothing is written"


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


BAD_FILES = {
    "gone": (None, "inter.csv", "inter.csv is not beside the profile"),
    "of an unknown kind": (b"x", "inter.xlsx", "inter.xlsx is of an unknown kind; allowed: .csv"),
    "no gzip": (b"user_id,item_id", "inter.csv.gz", "inter.csv.gz is no whole gzip file"),
    "a cut gzip": (cut(gzip.compress(INTERACTIONS.to_csv().encode())), "inter.csv.gz", "no whole gzip file"),
    "no parquet": (b"PAR1 and nothing", "inter.parquet", "inter.parquet is malformed"),
    "a cut parquet": (b"PAR1" + bytes(99), "inter.parquet", "inter.parquet is malformed"),
    "JSON that is none": (b"{user_id: 1}\n", "inter.jsonl", "inter.jsonl is malformed"),
    "a cut JSON": (b'{"user_id": "1"}\n{"user_', "inter.jsonl", "inter.jsonl is malformed"),
    "two columns of one name": (b"user_id:token\tuser_id:float\n1\t2\n", "x.inter", "x.inter has two columns user_id"),
    "deep JSON": (b'{"user_id": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "inter.jsonl", "inter.jsonl is malformed"),
    "JSON in one list": (
        b'[{"user_id": "1"}, {"user_id": "2"}]',
        "inter.json",
        "inter.json is malformed: line 1 is no JSON object",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_sentence(tmp_path, case):
    content, name, words = BAD_FILES[case]
    written(tmp_path)
    (tmp_path / "inter.csv").unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=words) as error:
        load_tables(config(tmp_path, interactions=str(tmp_path / name)), 0)
    assert "\n" not in str(error.value)


BAD_ARCHIVES = {
    "gone": (None, "inter.csv", "all.zip is not beside the profile"),
    "no archive": (b"nothing", "inter.csv", "all.zip is no whole zip archive"),
    "no such member": ("whole", "else.csv", "all.zip holds no else.csv; it holds inter.csv"),
    "cut": ("cut", "inter.csv", "all.zip is no whole zip archive"),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_a_bad_archive_is_one_sentence(tmp_path, case):
    content, member, words = BAD_ARCHIVES[case]
    path = tmp_path / "all.zip"
    if content in ("whole", "cut"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("inter.csv", INTERACTIONS.to_csv(index=False))
            archive.writestr("items.csv", ITEMS.to_csv(index=False))
        path.write_bytes(cut(path.read_bytes()) if content == "cut" else path.read_bytes())
    elif content:
        path.write_bytes(content)
    with pytest.raises(StudyError, match=words):
        load_tables(config(tmp_path, archive=str(path), interactions=member, items="items.csv"), 0)


def test_an_empty_folder_and_no_table_at_all(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="empty holds no table; allowed"):
        list(read_parts(tmp_path / "empty"))
    for part in ("interactions", "items"):
        with pytest.raises(StudyError, match=f"data.{part} is missing"):
            load_tables(config(written(tmp_path), **{part: None}), 0)
    columns = {key: value for key, value in COLUMNS.items() if key != "rating"}
    with pytest.raises(StudyError, match="feedback is explicit and data.columns names no rating"):
        load_tables(config(written(tmp_path), columns=columns), 0)


BAD_SETTINGS = {
    "data.feedback=both": "data.feedback = 'both'",
    "data.duplicates=all": "data.duplicates = 'all'",
    "data.order=random": "data.order = 'random'",
    "data.columns.usr=id": "Unknown key data.columns.usr",
    "data.columns.attributes=[genres]": "data.columns.attributes = .*a mapping of a name",
    "data.columns.attributes={A B: x}": "data.columns.attributes",
    "data.name=../x": "data.name = '../x'",
    "data.skip_users=-1": "data.skip_users = -1",
    "data.core.users=0": "data.core.users = 0 is out of range; allowed: int from 1 to 10000",
    "data.core.k=5": "Unknown key data.core.k = 5; allowed here: users, items",
    "data.core=5": "data.core = 5: a mapping is expected; keys: users, items",
    "data.interactions=mine.csv": "data.interactions is of your tables and data.name = 'ml-100k' is a built-in data set",
    "data.columns.attributes={title: brand}": "data.columns.attributes names 'title', which is no attribute",
    "data.min_interactions=many": "data.min_interactions = 'many' has the wrong type; allowed: int from 1 to 10000, or null",
    "data.broken_title='['": "data.broken_title = .* is no regular expression",
    "data.dislike_threshold=4": "data.dislike_threshold = 4.* must be below",
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_a_bad_setting_is_one_sentence_on_the_command_line(capsys, setting):
    import re

    assert cli.main(["study", "--profile", "smoke", "-p", setting]) == 2
    shown = capsys.readouterr().err
    assert re.search(BAD_SETTINGS[setting], shown) and shown.count("\n") == 1, shown


def test_times_of_new_users_that_order_nothing_are_refused_too(tmp_path):
    settings, path = config(written(tmp_path)), tmp_path / "new.csv"
    INTERACTIONS.assign(timestamp=5).to_csv(path, index=False)
    dataset = load_tables(settings, 0)
    with pytest.raises(StudyError, match="timestamp is the same for all interactions of 25 of 25 users"):
        read_interactions(path, settings, dataset, 0)
    seeded, left_out = read_interactions(path, settings.changed(order="seeded"), dataset, 0)
    assert len(seeded) == len(INTERACTIONS) and not any(left_out.users.values())
