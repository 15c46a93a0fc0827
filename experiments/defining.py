"""Defining the flags of one experiment, and what values they may have."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
import math

from absl import flags

from experiments import door


class Flags:
    """Defines flags among values of their own, those of every run among them.

    Being apart from other flags, doors can be imported beside others with flags of the
    same names.

    Args:
      **defaults: of flags of every run, where they are not the usual ones.

    Attributes:
      values: the flags.
    """

    def __init__(self, **defaults):
        self.values = flags.FlagValues()
        door.define_run_flags(self.values)
        for name, value in defaults.items():
            self.values.set_default(name, value)
        self.text = partial(flags.DEFINE_string, flag_values=self.values)
        self.integer = partial(flags.DEFINE_integer, flag_values=self.values)
        self.number = partial(flags.DEFINE_float, flag_values=self.values)
        self.switch = partial(flags.DEFINE_bool, flag_values=self.values)
        self.names = partial(flags.DEFINE_list, flag_values=self.values)
        self.one_of = partial(flags.DEFINE_enum, flag_values=self.values)

    def refuse(self, message: str, *holders: flags.FlagHolder):
        """Refuses what a predicate of the values of some flags does not hold for."""
        return flags.multi_flags_validator(
            [holder.name for holder in holders], message, flag_values=self.values
        )

    def positive(self, *holders: flags.FlagHolder) -> None:
        """Refuses what is not positive and finite, but for flags that are not set."""
        self._each(
            lambda value: value is None or (math.isfinite(value) and value > 0),
            "must be positive and finite",
            holders,
        )

    def not_negative(self, *holders: flags.FlagHolder) -> None:
        """Refuses what is not at least 0 and finite."""
        self._each(
            lambda value: math.isfinite(value) and value >= 0,
            "must be at least 0 and finite",
            holders,
        )

    def shares(self, *holders: flags.FlagHolder) -> None:
        """Refuses what is not from 0 to 1."""
        self._each(lambda value: 0 <= value <= 1, "must be from 0 to 1", holders)

    def widths(self, *holders: flags.FlagHolder) -> None:
        """Refuses what is no list of positive integers."""
        self._each(
            lambda each: all(width.isdecimal() and int(width) for width in each),
            "must be positive integers, such as 40,40",
            holders,
        )

    def _each(self, holds: Callable, message: str, holders) -> None:
        for holder in holders:
            flags.register_validator(
                holder.name, holds, message, flag_values=self.values
            )


def gathered(package: str, attribute: str, names: tuple[str, ...]) -> dict:
    """What the files of a folder give, by their names."""
    modules = {name: import_module(f"{package}.{name}") for name in names}
    return {name: getattr(module, attribute) for name, module in modules.items()}
