"""The flags of few-shot runs, to which each part adds its own where it is built."""

from experiments.defining import Flags

_own = Flags()
FLAGS = _own.values
text, integer, number = _own.text, _own.integer, _own.number
switch, names, one_of = _own.switch, _own.names, _own.one_of
refuse, positive, not_negative = _own.refuse, _own.positive, _own.not_negative
widths = _own.widths
