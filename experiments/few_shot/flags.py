"""The flags of few-shot runs, to which each part adds its own where it is built."""

from functools import partial
import math

from absl import flags

from experiments import door

# Its own, so that it can be imported beside other doors, with flags of the same names.
FLAGS = flags.FlagValues()
door.define_run_flags(FLAGS)

text = partial(flags.DEFINE_string, flag_values=FLAGS)
integer = partial(flags.DEFINE_integer, flag_values=FLAGS)
number = partial(flags.DEFINE_float, flag_values=FLAGS)
switch = partial(flags.DEFINE_bool, flag_values=FLAGS)
names = partial(flags.DEFINE_list, flag_values=FLAGS)
one_of = partial(flags.DEFINE_enum, flag_values=FLAGS)


def refuse(message: str, *holders: flags.FlagHolder):
    """Refuses what a predicate of the values of some flags, by name, does not hold for."""
    return flags.multi_flags_validator(
        [holder.name for holder in holders], message, flag_values=FLAGS
    )


def positive(*holders: flags.FlagHolder) -> None:
    """Refuses what is not positive and finite, but for flags that are not set."""
    for holder in holders:
        flags.register_validator(
            holder.name,
            lambda value: value is None or (math.isfinite(value) and value > 0),
            "must be positive and finite",
            flag_values=FLAGS,
        )


def not_negative(*holders: flags.FlagHolder) -> None:
    """Refuses what is not at least 0 and finite."""
    for holder in holders:
        flags.register_validator(
            holder.name,
            lambda value: math.isfinite(value) and value >= 0,
            "must be at least 0 and finite",
            flag_values=FLAGS,
        )


def widths(*holders: flags.FlagHolder) -> None:
    """Refuses what is no list of positive integers."""
    for holder in holders:
        flags.register_validator(
            holder.name,
            lambda each: all(width.isdecimal() and int(width) for width in each),
            "must be positive integers, such as 40,40",
            flag_values=FLAGS,
        )
