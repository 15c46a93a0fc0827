"""The flags of runs that learn to play, to which each part adds its own."""

from experiments.defining import Flags

_own = Flags(num_steps=300, log_every_steps=10, eval_every_steps=50)
FLAGS = _own.values
text, integer, number = _own.text, _own.integer, _own.number
switch, names, one_of = _own.switch, _own.names, _own.one_of
refuse, positive, not_negative = _own.refuse, _own.positive, _own.not_negative
shares = _own.shares
