"""Losses of decisions against sums over all that could have happened."""

from functools import partial
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import rl
from metajax.rl import losses

ARMS, STEPS = 3, 3
RNG = np.random.default_rng(0)
# What a history of pulls pays at its last one: the future depends on the past.
PAYS = [RNG.normal(size=(ARMS,) * (step + 1)) for step in range(STEPS)]
LOGITS = jnp.asarray(RNG.normal(size=(STEPS, ARMS)), jnp.float32)
HISTORIES = np.array(list(itertools.product(range(ARMS), repeat=STEPS)))


def acted(actions, log_prob=0.0, advantage=0.0, value_target=0.0, episode=0):
    whole = partial(jnp.broadcast_to, shape=np.shape(actions))
    return rl.Acted(
        action=jnp.asarray(actions),
        log_prob=whole(jnp.float32(log_prob)),
        value=whole(jnp.float32(0)),
        reward=whole(jnp.float32(0)),
        episode=whole(jnp.int32(episode)),
        advantage=whole(jnp.float32(advantage)),
        value_target=whole(jnp.float32(value_target)),
    )


def decisions(logits):
    return rl.Decision(rl.Categorical(logits), jnp.zeros(len(logits)))


def rewards_to_go(history):
    each = [pays[tuple(history[: step + 1])] for step, pays in enumerate(PAYS)]
    return np.cumsum(each[::-1])[::-1].astype(np.float32)


ADVANTAGES = np.stack([rewards_to_go(history) for history in HISTORIES])


def expected_return(logits):
    log_probs = jax.nn.log_softmax(logits)[np.arange(STEPS), HISTORIES].sum(axis=1)
    return jnp.sum(jnp.exp(log_probs) * ADVANTAGES[:, 0])


def expected_loss(loss, logits):
    """The mean of a loss over all histories, drawn at LOGITS."""
    recorded = jax.nn.log_softmax(LOGITS)[np.arange(STEPS), HISTORIES]

    def one(history, log_prob, advantage):
        targets = acted(history, log_prob, advantage)
        return STEPS * loss(decisions(logits), targets)

    each = jax.vmap(one)(HISTORIES, recorded, ADVANTAGES)
    return jnp.sum(jnp.exp(recorded.sum(axis=1)) * each)


def surrogate(outputs, targets, mask=None):
    """The usual one."""
    return -jnp.mean(outputs.actions.log_prob(targets.action) * targets.advantage)


def derivatives(function):
    first = jax.jit(jax.grad(function))(LOGITS)
    second = jax.jit(jax.hessian(function))(LOGITS).reshape(9, 9)
    return np.asarray(first), np.asarray(second)


def relative(found, right):
    return np.linalg.norm(found - right) / np.linalg.norm(right)


def test_derivatives_of_the_policy_gradient_are_those_of_the_return():
    first, second = derivatives(lambda x: -expected_return(x))
    for memory, is_exact in ((1.0, True), (0.5, False), (0.0, False)):
        loss = partial(expected_loss, losses.policy_gradient(memory))
        own_first, own_second = derivatives(loss)
        np.testing.assert_allclose(own_first, first, atol=2e-6)
        if is_exact:
            np.testing.assert_allclose(own_second, second, atol=5e-6)
        else:
            assert relative(own_second, second) > 0.1
    usual_first, usual_second = derivatives(partial(expected_loss, surrogate))
    np.testing.assert_allclose(usual_first, first, atol=2e-6)
    assert relative(usual_second, second) > 0.5


def test_less_memory_is_nearer_the_exact_second_derivative_than_none_of_the_usual():
    _, second = derivatives(lambda x: -expected_return(x))
    errors = [
        relative(derivatives(partial(expected_loss, loss))[1], second)
        for loss in (
            losses.policy_gradient(1.0),
            losses.policy_gradient(0.5),
            losses.policy_gradient(0.0),
            surrogate,
        )
    ]
    assert errors == sorted(errors)


def test_episodes_of_a_stream_do_not_influence_each_other():
    loss = losses.policy_gradient(1.0)
    one = acted([0, 1, 2], advantage=ADVANTAGES[5])
    two = acted([2, 2, 1], advantage=ADVANTAGES[7], episode=1)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), one, two)
    twice = jnp.concatenate([LOGITS, LOGITS])

    def second(targets, logits_of):
        return jax.hessian(lambda x: loss(decisions(logits_of(x)), targets))(LOGITS)

    apart = (second(one, lambda x: x) + second(two, lambda x: x)) / 2
    together = second(both, lambda x: twice + jnp.tile(x - LOGITS, (2, 1)))
    np.testing.assert_allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("memory", [-0.1, 1.1])
def test_a_memory_out_of_range_is_refused(memory):
    with pytest.raises(ValueError, match="from 0 to 1"):
        losses.policy_gradient(memory)


def test_ppo_by_hand():
    """Ratios of 2 and 1/2 against a clip of 0.2, with gains of either sign."""
    outputs = decisions(jnp.log(jnp.array([[0.8, 0.2]] * 4)))
    targets = acted(
        [0, 0, 1, 1],
        log_prob=np.log([0.4, 0.4, 0.4, 0.4]),
        advantage=[1.0, -1.0, 1.0, -1.0],
    )
    found = losses.ppo(0.2, value_cost=0.0)(outputs, targets)
    np.testing.assert_allclose(found, -np.mean([1.2, -2.0, 0.5, -0.8]), rtol=1e-5)


def test_where_the_policy_acted_itself_all_have_the_same_gradient():
    def gradient(loss):
        targets = acted(
            [0, 1, 2],
            jax.nn.log_softmax(LOGITS)[np.arange(3), [0, 1, 2]],
            ADVANTAGES[5],
        )
        return jax.grad(lambda x: loss(decisions(x), targets))(LOGITS)

    right = gradient(losses.policy_gradient())
    np.testing.assert_allclose(gradient(losses.ppo(value_cost=0.0)), right, atol=1e-6)
    np.testing.assert_allclose(gradient(losses.a2c(0.0)), right, atol=1e-6)


def test_values_and_entropy_have_their_weights():
    outputs = rl.Decision(rl.Categorical(jnp.zeros((2, 4))), jnp.array([1.0, 2.0]))
    targets = acted([0, 1], log_prob=-np.log(4), value_target=[0.0, 0.0])
    for loss in (partial(losses.a2c, 0.5), partial(losses.ppo, 0.2, 0.5)):
        found = loss(entropy_bonus=0.1)(outputs, targets)
        np.testing.assert_allclose(found, 0.5 * 2.5 - 0.1 * np.log(4), rtol=1e-5)
    np.testing.assert_allclose(losses.entropy(outputs, targets), np.log(4), rtol=1e-6)
    np.testing.assert_allclose(losses.imitation(outputs, targets), np.log(4), rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [losses.policy_gradient(), losses.ppo(), losses.a2c(), losses.imitation],
    ids=["policy_gradient", "ppo", "a2c", "imitation"],
)
def test_padding_may_hold_anything_and_has_no_gradient(loss):
    targets = acted([0, 1, 2, 0], -1.0, [1.0, 2.0, 3.0, np.nan], [1.0, 2, 3, np.nan])
    mask = jnp.array([True, True, True, False])
    padded = jnp.concatenate([LOGITS, jnp.full((1, ARMS), 1e9)])
    value, gradient = jax.value_and_grad(lambda x: loss(decisions(x), targets, mask))(
        padded
    )
    short = jax.tree.map(lambda x: x[:3], targets)
    expected = jax.value_and_grad(lambda x: loss(decisions(x), short))(LOGITS)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient[:3], expected[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(gradient[3], 0)


@pytest.mark.parametrize(
    "actions",
    [
        rl.Categorical(jnp.array([0.3, -1.0, 2.0])),
        rl.Normal(jnp.array([0.5, -1.0]), jnp.array([0.2, -0.7])),
    ],
    ids=["categorical", "normal"],
)
def test_distributions_agree_with_their_own_samples(actions):
    keys = jax.random.split(jax.random.key(0), 40_000)
    samples = jax.vmap(actions.sample)(keys)
    log_probs = jax.vmap(actions.log_prob)(samples)
    error = np.std(log_probs) / 200
    assert abs(np.mean(log_probs) + actions.entropy()) < 4 * error
    assert actions.log_prob(actions.mode()) >= log_probs.max() - 1e-5
