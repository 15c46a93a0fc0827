"""Meta-learners of policies: `rl2`, and policies as models for `maml` and its like."""

from metajax.base import (
    Batch,
    Key,
    Masked,
    MetaLearner,
    MetaParams,
    Model,
    Params,
    PyTree,
)
from metajax.rl.base import Decision, Policy


def rl2(policy: Policy) -> MetaLearner:
    """RL^2: a policy whose memory learns along a trial, trained by reinforcement alone.

        memory, decision = step(params, memory, seen)

    Adaptation happens in the memory; there is nothing to adapt before a trial.

    Args:
      policy: sees what its last action led to and earned, and remembers.

    Returns:
      A meta-learner whose meta-parameters are the policy's params; predictions are the
      decisions along a trial.

    Source:
      Duan et al. 2016 (arXiv 1611.02779); Wang et al. 2016 (arXiv 1611.05763).
    """

    def adapt(key: Key, meta: MetaParams, support: Batch) -> tuple:
        del key, meta, support
        return ()

    def predict(meta: MetaParams, adapted: tuple, inputs: PyTree) -> Decision:
        return policy.apply(meta, _without_mask(inputs))

    return MetaLearner(policy.init, adapt, predict)


def as_model(policy: Policy) -> Model:
    """A policy as a model: of what is seen, `[decisions, ...]`, to the decisions.

    With it `maml` and the other learners that adapt params adapt a policy, by
    `losses.policy_gradient` of what it has collected.

    Args:
      policy: the policy.
    """

    def apply(params: Params, inputs: PyTree) -> Decision:
        return policy.apply(params, _without_mask(inputs))

    return Model(lambda key, inputs: policy.init(key, _without_mask(inputs)), apply)


def _without_mask(inputs: PyTree) -> PyTree:
    """Padding comes after all real decisions of a stream, which do not see it."""
    return inputs.inputs if isinstance(inputs, Masked) else inputs
