"""The policies: what remembers along a trial, and how much."""

from experiments.door import Part
from experiments.meta_rl.flags import integer, one_of

WIDTH = integer("width", 64, "Of what a policy remembers, or of its hidden layers.", 1)
HEAD_WIDTH = integer(
    "head_width", 32, "Of the layer between memory and decision; 0 for none.", 0
)
LAYERS = integer("layers", 2, "Blocks of the transformer, hidden layers of mlp.", 1)
HEADS = integer("heads", 4, "Attention heads of the transformer.", 1)


def _heads(head_width: int):
    import metajax as mj

    hidden = [head_width] if head_width else []
    return lambda outputs: mj.models.mlp(hidden, outputs)


def _remembering(memory, head_width: int, game):
    from metajax.rl import policies

    actions = game.environment.actions
    view = policies.everything(actions)
    return policies.remembering(memory, _heads(head_width), actions, view)


def _gru(game, num_steps, *, width, head_width):
    import metajax as mj

    del num_steps
    return _remembering(mj.models.gru(width), head_width, game)


def _transformer(game, num_steps, *, width, layers, heads, head_width):
    import metajax as mj

    memory = mj.models.attentive(width, layers=layers, heads=heads, length=num_steps)
    return _remembering(memory, head_width, game)


def _snail(game, num_steps, *, width, head_width):
    import metajax as mj

    memory = mj.models.convolving(width, length=num_steps)
    return _remembering(memory, head_width, game)


def _per_part(game, num_steps, *, width, head_width):
    import metajax as mj
    from metajax.rl import policies

    del num_steps
    if game.per_part is None:
        raise ValueError(
            "--policy=per_part is for games that consist of like parts, which this --game "
            "does not: choose another policy."
        )
    memory = mj.models.gru(width)
    return policies.per_part(memory, _heads(head_width), *game.per_part)


def _mlp(game, num_steps, *, width, layers):
    import metajax as mj
    from metajax.rl import policies

    del num_steps

    def model(outputs):
        return mj.models.mlp([width] * layers, outputs)

    return policies.reactive(model, game.environment.actions)


POLICIES = {
    "gru": Part("one memory, a gated recurrent unit", _gru, (WIDTH, HEAD_WIDTH)),
    "transformer": Part(
        "attention to all that was seen",
        _transformer,
        (WIDTH, LAYERS, HEADS, HEAD_WIDTH),
    ),
    "snail": Part("convolutions in time and attention", _snail, (WIDTH, HEAD_WIDTH)),
    "per_part": Part(
        "a memory for each arm, line or pair, with weights that all share",
        _per_part,
        (WIDTH, HEAD_WIDTH),
    ),
    "mlp": Part("no memory: what is seen now", _mlp, (WIDTH, LAYERS)),
}
POLICY = one_of(
    "policy",
    None,
    list(POLICIES),
    "What acts; gru by default, or mlp where parameters adapt.",
)
