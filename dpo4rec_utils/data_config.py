"""The settings of the data set, histories, candidate lists and the user split."""

import re
from pathlib import PurePath
from typing import Annotated, Literal

from pydantic import Field, field_serializer, field_validator, model_validator

from dpo4rec_utils.files import public_address
from dpo4rec_utils.registries import DATASETS
from dpo4rec_utils.sections import Names, Section

PROFILE_NAME = re.compile(r"^[a-z0-9][a-z0-9-]*$")


class ColumnsConfig(Section):
    """Which columns of your tables hold what; null: there is none."""

    user: str = "user_id"
    item: str = "item_id"
    rating: str | None = None
    timestamp: str | None = None
    position: str | None = Field(None, description="a number that orders a user's interactions, instead of a timestamp")
    title: str = "title"
    year: str | None = None
    attributes: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], str] = Field(
        {}, description="a name in templates (a-z, 0-9, _) to a column of the items, such as genres, authors, brand"
    )

    @field_validator("attributes")
    @classmethod
    def _are_no_other_columns(cls, attributes):
        for name in sorted({*cls.model_fields, "user_id", "item_id"} & set(attributes)):
            raise ValueError(
                f"data.columns.attributes names {name!r}, which is no attribute; choose another name for it."
            )
        return attributes


class CoreConfig(Section):
    """The k-core of your tables: interactions that every user and every item must have, data/core.py."""

    users: int = Field(5, ge=1, le=10000)
    items: int = Field(5, ge=1, le=10000)


class DataConfig(Section):
    """The data set, histories, candidate lists and the user split (protocol: data/cohort.py, data/lists.py)."""

    name: str = Field(
        "ml-100k",
        pattern=PROFILE_NAME.pattern,
        description="ml-100k, ml-1m, or a name for tables of yours (a-z, 0-9, -)",
    )
    archive: str | None = Field(None, description="a zip archive that holds your tables, or its address")
    interactions: str | None = Field(
        None, description="your table: a file or its address, a folder, or a member of the archive"
    )
    items: str | None = Field(None, description="your table of the items")
    columns: ColumnsConfig = ColumnsConfig()
    encoding: str | None = Field(None, description="of your tables that are text; null: UTF-8")
    separator: str | None = Field(None, description="of your tables that are text; null: by the file's ending")
    quoting: Literal["quotes", "none"] = Field(
        "quotes", description="of your tables that are text; none: quotes are letters, as in most TSV"
    )
    escape: str | None = Field(None, description="the character that escapes a quote in your tables")
    notes: Annotated[tuple[str, ...], *Names] = Field(
        (), description="sentences that stand wherever a number of this data set is shown"
    )
    implicit_rating: float | None = Field(None, description="a rating that says the user met the item: counts as liked")
    feedback: Literal["explicit", "implicit"] = Field("explicit", description="implicit: every interaction is liked")
    order: Literal["given", "seeded"] = Field(
        "given", description="seeded: an arbitrary order, where the data have none"
    )
    duplicates: Literal["first", "last", "error"] = Field(
        "error", description="which is kept of a user's repeats, and of an item that is listed twice"
    )
    missing_titles: Literal["error", "drop"] = Field(
        "error", description="of more than 1 % of your items; drop: leave them out, counted"
    )
    unlisted: Literal["error", "drop"] = Field(
        "error",
        description="of interactions, more than 5 % with items that are not listed; drop: leave them out, counted",
    )
    broken_title: str | None = Field(
        None, description="a regular expression: what matches it is no title of your table's item"
    )
    core: CoreConfig | None = Field(
        None, description="keep a k-core of your tables, read as streams; null: keep everything"
    )
    min_interactions: int | None = Field(
        None, ge=1, le=10000, description="leave out users of your tables with fewer, after `core`"
    )
    first_interactions: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="of a user the first so many are history and lists; none of the others is a negative",
    )
    domain: str = Field("movies", description="a file of knowledge/domains, or the path of your own YAML")
    max_users: int | None = Field(None, ge=20, le=10**7, description="keep only this many users (in hash order)")
    skip_users: int = Field(0, ge=0, le=10**7, description="leave out the first users in hash order")
    history_limit: int = Field(30, ge=5, le=200, description="interactions the LLM reads at most")
    like_threshold: float = Field(
        4.0, ge=-100, le=100, description="rating from which an item counts as liked (label 1)"
    )
    dislike_threshold: float = Field(2.0, ge=-100, le=100, description="rating up to which an item counts as disliked")
    positives_per_list: int = Field(4, ge=1, le=20, description="later interactions that share one candidate list")
    negatives_per_list: int = Field(6, ge=1, le=100, description="items never interacted with, added to each list")
    max_lists: int = Field(10, ge=1, le=1000, description="lists a user, the nearest after the history")
    train_share: float = Field(0.6, ge=0.1, le=0.9, description="share of users in train")
    validation_share: float = Field(0.1, ge=0.02, le=0.5, description="share of users in validation; the rest is test")
    fold: int = Field(0, ge=0, le=99, description="which users are test; those of two folds are never the same")
    seed: int | None = Field(
        None, ge=0, le=2**31 - 1, description="of split and lists; null: the root seed. Loops of other seeds share it"
    )

    @field_serializer("archive", "interactions", "items", "domain")
    def _public(self, name: str | None) -> str | None:
        """In records and keys: an address without secrets, and of a path the file's name: folders differ by machine."""
        return public_address(name) if name and "://" in name else name and PurePath(name).name

    @property
    def folds(self) -> int:
        """How many folds of test users there are with these shares."""
        others = 1 - self.validation_share
        return int(round(others / (others - self.train_share), 6))

    @model_validator(mode="after")
    def _tables_have_a_name(self):
        table_settings = [
            k for k in ("archive", "interactions", "items", "core", "min_interactions") if getattr(self, k)
        ]
        if self.name in DATASETS and table_settings:
            raise ValueError(
                f"data.{table_settings[0]} is of your tables and data.name = {self.name!r} is a built-in data set; give them another name."
            )
        return self

    @field_validator("broken_title")
    @classmethod
    def _is_an_expression(cls, pattern):
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"data.broken_title = {pattern!r} is no regular expression ({error}).") from None
        return pattern

    @model_validator(mode="after")
    def _disjoint_feedback(self):
        if self.feedback == "explicit" and self.dislike_threshold >= self.like_threshold:
            raise ValueError(
                f"data.dislike_threshold = {self.dislike_threshold} must be below data.like_threshold = {self.like_threshold}."
            )
        return self

    @model_validator(mode="after")
    def _test_users(self):
        if self.train_share + self.validation_share > 0.99:
            raise ValueError(
                "data.train_share + data.validation_share must stay below 0.99: the rest is the test share."
            )
        if self.fold >= self.folds:
            raise ValueError(
                f"data.fold = {self.fold} is out of range; allowed with these shares: 0 to {self.folds - 1}."
            )
        return self
