"""MAML whose inner update is a learned rule: where to start, and how to move from there.

    params[t+1] = params[t] + update(rule, gradients of the support loss up to t, params[t])
    minimise over params[0], rule:  mean over tasks of loss(params[num_steps], query)

Ravi and Larochelle 2017, "Optimization as a Model for Few-Shot Learning", section 3, with
any rule in the place of their LSTM.
"""

from typing import NamedTuple

import jax

from metajax import adjoints, losses
from metajax.base import (
    Adjoint,
    Batch,
    Key,
    Loss,
    MetaLearner,
    MetaParams,
    Model,
    Params,
    PyTree,
    Rule,
)
from metajax.learners import adapting_params


class WithRule(NamedTuple):
    """Params to start from, and the meta-parameters of a rule."""

    params: Params
    rule: MetaParams


def learned_rule(
    model: Model,
    loss: Loss,
    rule: Rule,
    num_steps: int,
    *,
    adjoint: Adjoint | None = None,
) -> MetaLearner:
    """MAML by a learned update rule, which is meta-learned beside the initialisation.

    Args:
      model: the model whose params are meta-learned.
      loss: the support loss.
      rule: the rule, such as `rules.per_parameter()`.
      num_steps: inner steps.
      adjoint: how the inner loop is differentiated; `adjoints.unroll()`, the exact
        derivative, by default. First-order gradients reach the rule too.

    Returns:
      A meta-learner whose meta-parameters are `WithRule`, and whose adapted ones are model
      params as `model.calibrate` leaves them.
    """
    make, support_loss = adjoint or adjoints.unroll(), losses.of_model(model, loss)

    def init(key: Key, inputs: PyTree) -> WithRule:
        params_key, rule_key = jax.random.split(key)
        return WithRule(model.init(params_key, inputs), rule.init(rule_key))

    def adapt(key: Key, meta: WithRule, support: Batch) -> Params:
        del key  # The inner loop is deterministic.
        solve = make(support_loss, rule.optimizer(meta.rule), num_steps)
        return solve(meta.params, support)

    return adapting_params(model, adapt, init)
