"""What is collected: each field of a stream, on a game that can be followed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import rl

# Counts up from the task; over after two steps by itself, or after one if action is 1.
COUNTING = rl.Environment(
    sample=lambda key: jnp.float32(10),
    reset=lambda key, task: (jnp.int32(0), rl.TimeStep(task, jnp.float32(0), False)),
    step=lambda key, state, action, task: (
        state + 1,
        rl.TimeStep(task + state + 1, task + state, (action == 1) | (state + 1 >= 2)),
    ),
    actions=rl.Discrete(2),
    horizon=3,
)


def doing(actions):
    """A policy that does what a list says, whatever it sees; its values are 0.5."""
    logits = 1e4 * (jax.nn.one_hot(jnp.asarray(actions), 2) - 1)

    def step(params, memory, seen):
        decision = rl.Decision(rl.Categorical(logits[memory]), jnp.float32(0.5))
        return memory + 1, decision

    return rl.Policy(lambda key, seen: (), lambda params: 0, step, None)


def test_a_trial_can_be_followed_by_hand():
    policy = doing([0, 0, 1, 0, 1, 0, 0, 0, 0])
    batch = rl.trial(COUNTING, policy, 3)(jax.random.key(0), (), jnp.float32(10))
    seen, acted = batch.inputs, batch.targets
    # Two steps, then one, then two, and the rest is padding.
    assert batch.mask.tolist() == [True] * 5 + [False] * 4
    assert acted.episode[:5].tolist() == [0, 0, 1, 2, 2]
    assert acted.action[:5].tolist() == [0, 0, 1, 0, 1]
    assert acted.reward.tolist() == [10, 11, 10, 10, 11, 0, 0, 0, 0]
    assert seen.observation[:6].tolist() == [10, 11, 10, 10, 11, 10]
    # Where the last actions led is shown, though the episode was over there.
    assert seen.led_to[:6].tolist() == [0, 11, 12, 11, 11, 12]
    assert seen.before[:6].tolist() == [0, 10, 11, 10, 10, 11]
    assert seen.action[:6].tolist() == [0, 0, 0, 1, 0, 1]
    assert seen.reward[:6].tolist() == [0, 10, 11, 10, 10, 11]
    assert seen.first[:6].tolist() == [True, False, True, True, False, True]
    assert seen.begins.tolist() == [True] + [False] * 8
    assert seen.left.tolist() == list(range(9, 0, -1))
    # Credit crosses episodes: the whole of what is to come, less the value of 0.5.
    to_go = np.cumsum([11, 10, 10, 11, 10])[::-1]
    np.testing.assert_allclose(acted.advantage[:5], to_go - 0.5)
    np.testing.assert_allclose(acted.value_target[:5], to_go)


def test_an_episode_is_over_at_the_horizon_at_the_latest():
    endless = COUNTING._replace(
        step=lambda key, state, action, task: (
            state + 1,
            rl.TimeStep(task + state + 1, jnp.float32(1), jnp.bool_(False)),
        )
    )
    policy = doing([0] * 6)
    batch = rl.trial(endless, policy, 2)(jax.random.key(0), (), jnp.float32(0))
    assert batch.mask.all()
    assert batch.targets.episode.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.inputs.observation.tolist() == [0, 1, 2, 0, 1, 2]
    assert batch.inputs.led_to.tolist() == [0, 1, 2, 3, 1, 2]


def test_episodes_side_by_side_are_credited_each_by_itself():
    credit = rl.Credit(discount=0.5, scale=0.1)
    act = rl.rollouts(COUNTING, doing([0, 0, 0]), 2, credit)
    batch = act(jax.random.key(0), (), jnp.float32(10))
    assert batch.mask.tolist() == [True, True, False] * 2
    assert batch.targets.episode.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.inputs.begins.tolist() == [True, False, False] * 2
    expected = [1.0 + 0.5 * 1.1 - 0.5, 1.1 - 0.5, 0] * 2
    np.testing.assert_allclose(batch.targets.advantage, expected, atol=1e-6)
    assert batch.targets.reward.tolist() == [10, 11, 0] * 2  # As they were.


def test_what_trials_and_episodes_earn():
    found = rl.returns_by_episode(rl.trial(COUNTING, doing([0, 0, 1] + [0] * 6), 3), 3)
    loss, metrics = found(jax.random.key(0), (), jnp.float32(10))
    assert metrics["return"].tolist() == [21, 10, 21] and loss == -52


PLANE = rl.environments.navigation(6)
MLP = rl.policies.reactive(lambda n: mj.models.mlp([4], n), PLANE.actions)
LEARNER = mj.maml(rl.as_model(MLP), rl.losses.policy_gradient(), optax.sgd(0.1), 1)


@jax.jit
def initial():
    seen = rl.examples(PLANE)(jax.random.key(1)).support.inputs
    return MLP.init(jax.random.key(0), seen)


def test_before_and_after_adaptation():
    """Support comes of the params, query of what they adapt to by it."""
    credit = rl.Credit(baseline="linear")
    collect = rl.rollouts(PLANE, MLP, 3, credit, normalized=True)
    task_of = jax.jit(rl.before_and_after(PLANE, LEARNER, collect, collect))
    params = initial()
    goal = jnp.array([0.3, 0.2])
    task = task_of(jax.random.key(2), params, goal)
    apply = jax.jit(MLP.apply)

    def matches(params, batch):
        said = apply(params, batch.inputs).actions.log_prob(batch.targets.action)
        return np.allclose(
            said[batch.mask], batch.targets.log_prob[batch.mask], atol=1e-5
        )

    adapted = jax.jit(LEARNER.adapt)(jax.random.key(3), params, task.support)
    assert matches(params, task.support) and matches(adapted, task.query)
    assert not matches(params, task.query)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), adapted, params)
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_nothing_that_is_collected_has_a_derivative():
    collect = rl.rollouts(PLANE, MLP, 2)
    task_of = rl.before_and_after(PLANE, LEARNER, collect, collect)
    params = initial()

    @jax.jit
    @jax.grad
    def slope(params):
        task = task_of(jax.random.key(2), params, jnp.array([0.3, 0.2]))
        leaves = [x for x in jax.tree.leaves(task) if x.dtype == jnp.float32]
        return sum(jnp.sum(leaf) for leaf in leaves)

    assert all(np.all(x == 0) for x in jax.tree.leaves(slope(params)))


def test_right_actions_along_a_trial():
    bandit = rl.environments.bernoulli_bandit(4)
    wander = rl.trial(bandit, rl.exact.random_policy(bandit), 5)
    task_of = rl.along_trial_with(wander, lambda task, seen: jnp.argmax(task))
    means = jnp.array([0.1, 0.9, 0.2, 0.3])
    task = task_of(jax.random.key(0), None, means)
    assert task.query.targets.action.tolist() == [1] * 5
    assert len(task.support.targets.action) == 0
    assert len(set(task.query.inputs.action[1:].tolist())) > 1


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at least one episode"):
        rl.trial(COUNTING, MLP, 0)
    with pytest.raises(ValueError, match="horizon 0"):
        rl.rollouts(COUNTING._replace(horizon=0), MLP, 1)
    with pytest.raises(ValueError, match="must be a metajax.rl.Environment"):
        rl.trial(lambda key: key, MLP, 1)
    with pytest.raises(ValueError, match="policy or linear"):
        rl.rollouts(PLANE, MLP, 1, rl.Credit(baseline="none"))
    with pytest.raises(ValueError, match="one more than learners"):
        rl.returns_by_step([LEARNER], [None], 1)
    three = rl.environments.bernoulli_bandit(3)
    four = rl.exact.thompson(4)
    with pytest.raises(ValueError, match=r"actions are Discrete\(number=3\)"):
        rl.trial(three, four, 2)(jax.random.key(0), (), jnp.ones(3))
    params = initial()
    flat = three._replace(
        reset=lambda key, task: ((), rl.TimeStep(jnp.zeros(2), jnp.float32(0), False))
    )
    with pytest.raises(ValueError, match=r"actions are Discrete\(number=3\)"):
        rl.trial(flat, MLP, 2)(jax.random.key(0), params, jnp.ones(3))
