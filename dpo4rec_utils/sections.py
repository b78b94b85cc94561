"""What every part of the configuration is made of: a strict, frozen section, and names of registries and lists."""

import typing
from dataclasses import dataclass

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from dpo4rec_utils.registries import Registry


@dataclass(frozen=True)
class NameIn:
    """Annotates a text that names an entry of a registry, as it is when a profile is read."""

    registry: Registry

    def check(self, name: str) -> str:
        """The name; raises `AssertionError`, which pydantic reports with the key, for one that is not there."""
        if name not in self.registry:
            raise AssertionError(f"no {self.registry.kind}")
        return name


def name_in(registry: Registry) -> tuple:
    return NameIn(registry), AfterValidator(NameIn(registry).check)


def _no_repeats(values: tuple) -> tuple:
    if len(set(values)) < len(values):
        raise ValueError("names something twice")
    return values


# A list of names, kept as a tuple; the second kind must hold one at least.
Names = (BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value), AfterValidator(_no_repeats))
SomeNames = (*Names, Field(min_length=1))


class Section(BaseModel):
    """A part of the configuration: frozen, no unknown keys, no silent conversions (a whole number passes for a
    float)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def changed(self, **values) -> typing.Self:
        """A copy with other values, checked like a profile."""
        return type(self)(**(dict(self) | values))
