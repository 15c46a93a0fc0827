"""From acting to tasks: what learners of games are trained on and shaped by."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from metajax.base import Batch, Key, MetaLearner, MetaParams, Sampler, Task
from metajax.rl.acting import Collect, first_seen
from metajax.rl.base import Acted, Action, Environment, EnvParams, Seen

CollectTask = Callable[[Key, MetaParams, EnvParams], Task]


def along_trial(collect: Collect) -> CollectTask:
    """What `rl2` is trained on: nothing to adapt to, and a trial to be judged by.

    Args:
      collect: from `trial`.

    Returns:
      `(key, meta, task) -> Task`, whose support batch has no example.
    """

    def task_of(key: Key, meta: MetaParams, task: EnvParams) -> Task:
        query = jax.lax.stop_gradient(collect(key, meta, task))
        return Task(jax.tree.map(lambda x: x[:0], query), query)

    return task_of


def along_trial_with(
    collect: Collect, right_action: Callable[[EnvParams, Seen], Action]
) -> CollectTask:
    """What a policy is pre-trained on: the right actions along anybody's trial.

    Args:
      collect: from `trial`, of a policy without params, such as a random one.
      right_action: `(task, seen) -> action`, of one decision.

    Returns:
      `(key, meta, task) -> Task`, whose support batch has no example, and whose query
      batch has the right action in place of what was done.

    Source:
      Lee et al. 2023 (decision-pretrained transformers, arXiv 2306.14892), section 3.
    """

    def task_of(key: Key, meta: MetaParams, task: EnvParams) -> Task:
        del meta
        found = along_trial(collect)(key, (), task)
        right = jax.vmap(right_action, (None, 0))(task, found.query.inputs)
        targets = found.query.targets._replace(action=right)
        return found._replace(query=found.query._replace(targets=targets))

    return task_of


def before_and_after(
    environment: Environment, learner: MetaLearner, before: Collect, after: Collect
) -> CollectTask:
    """What a learner that adapts a policy is trained on.

    Args:
      environment: the game.
      learner: its adapted parameters are the policy's, as those of `maml`.
      before: acts with what nothing was adapted to: the support batch.
      after: acts with the adapted parameters: the query batch.

    Returns:
      `(key, meta, task) -> Task`.

    Note:
      Parameters before adaptation are those adapted to a batch that is all padding.

    Source:
      Finn, Abbeel, Levine 2017 (arXiv 1703.03400), algorithm 3.
    """

    def task_of(key: Key, meta: MetaParams, task: EnvParams) -> Task:
        adapt_key, *keys = jax.random.split(key, 3)
        first = learner.adapt(adapt_key, meta, nothing_yet(environment, task))
        support = before(keys[0], first, task)
        query = after(keys[1], learner.adapt(adapt_key, meta, support), task)
        return jax.lax.stop_gradient(Task(support, query))

    return task_of


def examples(environment: Environment) -> Sampler:
    """Tasks of one decision that nobody took: they tell `init_state` the shapes.

    Args:
      environment: the game.
    """

    def sample(key: Key) -> Task:
        nothing = nothing_yet(environment, environment.sample(key))
        return Task(nothing, nothing)

    return sample


def nothing_yet(environment: Environment, task: EnvParams) -> Batch:
    """A batch of one decision that is padding."""
    _, shown = jax.eval_shape(environment.reset, jax.random.key(0), task)
    shown = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shown)
    shown = shown._replace(legal=None if shown.legal is None else ~shown.legal)
    seen = first_seen(environment, shown, num_steps=1)
    action, zero = seen.action, jnp.float32(0)
    acted = Acted(action, zero, zero, zero, jnp.int32(0), zero, zero)
    return jax.tree.map(lambda x: x[None], Batch(seen, acted, jnp.bool_(False)))
