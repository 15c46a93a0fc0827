"""Bandits whose arms pay 1 or nothing."""

from experiments.door import Part
from experiments.meta_rl.flags import integer
from experiments.meta_rl.parts import Game, PerPart

ARMS = integer("arms", 5, "Of the bandit.", 1)


def best_arm(task, seen):
    """The arm with the greatest mean, whatever is seen."""
    import jax.numpy as jnp

    del seen
    return jnp.argmax(task)


def best_arm_posterior(arms: int):
    """How probable it is that each arm is the best, of what was seen before a decision."""
    import jax
    import jax.numpy as jnp

    from metajax import rl

    def posterior(seen):
        pulled = jax.nn.one_hot(seen.action, arms) * ~seen.begins[:, None]
        paid = jnp.cumsum(pulled * seen.reward[:, None], axis=0)
        failed = jnp.cumsum(pulled, axis=0) - paid
        return jax.lax.map(
            lambda each: rl.exact.best_arm_posterior(*each), (paid, failed)
        )

    return posterior


def of_arms(environment, arms: int, players, bounds, posterior=None) -> Game:
    """A bandit as a game, whose tasks are its arms' means."""
    import jax.numpy as jnp

    from experiments.meta_rl import pictures
    from metajax import rl

    random = {"random": lambda pulls: rl.exact.random_policy(environment)}
    return Game(
        environment,
        *[environment.sample] * 3,
        episode="pull",
        per_part=PerPart(arms, rl.views.each_arm(arms)),
        known=jnp.max,
        right_action=best_arm,
        posterior=posterior,
        bounds=bounds,
        players=random | players,
        draw=pictures.pulls,
    )


def make(*, arms: int) -> Game:
    """Arms whose probabilities are uniform."""
    from metajax import rl

    exact = rl.exact
    players = {
        "ucb1": lambda pulls: exact.ucb1(arms),
        "thompson": lambda pulls: exact.thompson(arms),
        "greedy": lambda pulls: exact.greedy(arms),
        "gittins": lambda pulls: exact.gittins(arms, pulls),
    }

    def bounds(pulls: int) -> dict[str, float]:
        # Its table grows with the fifth power of the pulls, but little with arms.
        if pulls > 20:
            return {}
        return {"Bayes optimum": exact.bandit_optimum(arms, pulls)}

    environment = rl.environments.bernoulli_bandit(arms)
    return of_arms(environment, arms, players, bounds, best_arm_posterior(arms))


GAME = Part("arms that pay 1 with a probability of their own", make, (ARMS,))
