"""From the flags of a run to what it trains, and to where it begins."""

from functools import partial
import math
from operator import itemgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import optax

from experiments import choices, components
import metajax as mj
from metajax import training, trees
from metajax.base import Estimator, Objective, PyTree


class Experiment(NamedTuple):
    """What the flags of one run name."""

    problem: components.Problem
    learners: dict[int, mj.MetaLearner]  # By number of inner steps in evaluation.
    objectives: dict[int, Objective]  # Likewise.
    step: training.TrainStep


class Progress(NamedTuple):
    """What a checkpoint holds; with several seeds stacked, leaves `[seeds, ...]`."""

    state: mj.TrainState
    best: Any  # The meta-parameters that scored best on the validation tasks.
    best_step: jax.Array
    best_score: jax.Array
    seconds: jax.Array  # Spent on training, validation not counted.


def build(config) -> tuple[Experiment, Progress]:
    """The components, and the progress of a run that has not begun."""
    problem = components.DATA[config.data](config)
    problem = problem._replace(train=place(config, jax.device_put(problem.train)))
    evaluated = {
        0,
        *choices.eval_inner_steps(config),
        *choices.select_inner_steps(config),
    }
    learners = {n: _learner(config, problem, n) for n in sorted(evaluated)}
    objectives = {n: _objective(problem, each) for n, each in learners.items()}
    learner, optimizer = _trained_learner(config, problem), _outer_optimizer(config)
    states = [
        mj.init_state(jax.random.key(seed), learner, optimizer, problem.train)
        for seed in choices.seeds(config)
    ]
    step = training_step(config, problem)
    experiment = Experiment(problem, learners, objectives, step)
    return experiment, stack_seeds(config, list(map(_begin, states)))


def embedding(config, problem: components.Problem) -> mj.Model:
    """The model that the flags name, without its head."""
    return components.MODELS[config.model](config, problem, None)


def start_from_file(config, progress: Progress) -> Progress:
    """The progress of a run that has not begun, with parameters of another."""

    def start(state: mj.TrainState) -> Progress:
        meta = trees.load(config.initial_params, state.meta)
        opt_state = _outer_optimizer(config).init(meta)
        return _begin(state._replace(meta=meta, opt_state=opt_state))

    each = each_seed(config, progress)
    return stack_seeds(config, [start(one.state) for one in each])


def _begin(state: mj.TrainState) -> Progress:
    return Progress(
        state,
        best=jax.tree.map(jnp.copy, state.meta),  # Training gives up state's buffers.
        best_step=jnp.int32(0),
        best_score=jnp.float32(-math.inf),
        seconds=jnp.float32(0),
    )


def training_step(config, problem: components.Problem) -> training.TrainStep:
    """The outer step that the flags name."""
    step = _training_step(config, problem)
    if _divides_state(config):
        return training.keep_divided(step, _mesh(config))
    return step


def _training_step(config, problem: components.Problem) -> training.TrainStep:
    optimizer = _outer_optimizer(config)
    if not config.first_order_until and not config.multi_step_loss:
        return mj.train_step(
            _estimator(config, problem), optimizer, max_skipped=config.max_skipped
        )

    def meta_grad_at(step):
        then = _estimator(config, problem, step)
        if not config.first_order_until:
            return then
        first = _estimator(changed(config, last=0), problem, step)
        return mj.estimators.before(step, config.first_order_until, first, then)

    return mj.scheduled_step(meta_grad_at, optimizer, max_skipped=config.max_skipped)


def changed(config, **flags) -> SimpleNamespace:
    """The flags with other values for some of them."""
    is_plain = isinstance(config, SimpleNamespace)
    values = vars(config) if is_plain else config.flag_values_dict()
    return SimpleNamespace(**values | flags)


def place(config, tree: PyTree) -> PyTree:
    """Copies arrays to each of the devices that share the tasks, or the seeds."""
    mesh = _mesh(config)
    return _put(tree, mesh and NamedSharding(mesh, PartitionSpec()))


def place_progress(config, progress: Progress) -> Progress:
    """Copies progress to each of the devices, or divides it among them."""
    mesh = _mesh(config)
    if _divides_state(config):
        return _put(progress, training.divided(progress, mesh))
    spec = PartitionSpec("seeds") if config.num_seeds > 1 else PartitionSpec()
    return _put(progress, mesh and NamedSharding(mesh, spec))


def _divides_state(config) -> bool:
    if not config.divide_state or config.eval_only:
        return False
    if _mesh(config) is None:
        raise ValueError(
            "--divide_state is for a run on several devices, and this one takes one: see "
            "--num_devices and --num_tasks."
        )
    return True


def _put(tree: PyTree, sharding: PyTree) -> PyTree:
    if sharding is None:
        return tree
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # device_put reaches no other process; a program does.
    return jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=sharding)(tree)


def stack_seeds(config, each: list[Progress]) -> Progress:
    """The progress of all seeds from that of each."""
    (progress, *others) = each
    if others:
        progress = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return place_progress(config, progress)


def each_seed(config, progress: Progress) -> list[Progress]:
    """The progress of each seed, on all of the devices."""
    if config.num_seeds == 1:
        return [progress]
    return [
        place(config, jax.tree.map(itemgetter(i), progress))
        for i in range(config.num_seeds)
    ]


def num_devices(config) -> int:
    """The devices that share the tasks: those asked for, or as many as are of use.

    Those that share the seeds, where there are several: they need not talk.
    """
    if config.num_seeds > 1:
        available = range(1, jax.device_count() + 1)
        fitting = [n for n in available if config.num_seeds % n == 0]
        number = config.num_devices or fitting[-1]
        if number not in fitting:
            raise ValueError(
                f"--num_devices={number} does not do for --num_seeds={config.num_seeds}: "
                f"choose one of {', '.join(map(str, fitting))}."
            )
        return number
    chunk = config.tasks_per_chunk or 1
    available = range(1, min(jax.device_count(), config.num_tasks) + 1)
    if jax.process_count() > 1:  # None of them can be left out.
        available = [jax.device_count()]
    fitting = [n for n in available if _share(config, n) % chunk == 0]
    if not fitting:
        raise ValueError(
            f"{config.num_tasks} tasks in chunks of {chunk} do not fit the "
            f"{jax.device_count()} devices of all processes: set --tasks_per_chunk to a "
            f"divisor of {_share(config, jax.device_count())}."
        )
    number = config.num_devices or min(fitting, key=partial(_share, config))
    if number not in fitting:
        raise ValueError(
            f"--num_devices={number} does not do: with {config.num_tasks} tasks in chunks "
            f"of {chunk}, and {jax.device_count()} devices here, choose one of "
            f"{', '.join(map(str, fitting))}."
        )
    return number


def tasks_per_device(config) -> int:
    """The most tasks that one device takes in an outer step."""
    if config.num_seeds > 1:
        return config.num_tasks
    return _share(config, num_devices(config))


def tasks_per_chunk(config) -> int | None:
    """How many tasks a device holds at a time, None for all: as asked, or as suits it.

    One task of images keeps a core busy, and more would not fit its caches; accelerators
    are busier the more there are.
    """
    one = jax.default_backend() == "cpu" and config.data in choices.IMAGES
    return config.tasks_per_chunk or (1 if one else None)


def _share(config, number: int) -> int:
    return math.ceil(config.num_tasks / number)


def _mesh(config) -> Mesh | None:
    number = num_devices(config)
    if number == 1:
        return None
    if config.num_seeds == 1:
        return mj.estimators.task_mesh(number)
    devices = jax.devices()[:number]
    return jax.make_mesh((number,), ("seeds",), (AxisType.Auto,), devices=devices)


def _seeds_together(config) -> training.Seeds | None:
    if config.num_seeds == 1:
        return None
    # Wider batches are of no use to the core of a CPU.
    at_a_time = 1 if jax.default_backend() == "cpu" else None
    return training.Seeds(at_a_time, _mesh(config))


def advance(
    config, experiment: Experiment, state: mj.TrainState, num_steps: int
) -> tuple[mj.TrainState, mj.base.Metrics]:
    """Takes outer steps: `mj.train`, as the flags say."""
    return mj.train(
        experiment.step,
        state,
        experiment.problem.train,
        num_tasks=config.num_tasks,
        num_steps=num_steps,
        at_most=config.log_every_steps,
        seeds=_seeds_together(config),
    )


def trace(config, experiment: Experiment, state: mj.TrainState) -> jax.stages.Traced:
    """The program of the next outer steps, which `advance` will find traced."""
    return training.trace(
        experiment.step,
        state,
        experiment.problem.train,
        num_tasks=config.num_tasks,
        at_most=config.log_every_steps,
        seeds=_seeds_together(config),
    )


def steps_to_line(config, step: int, since: int) -> int:
    """Outer steps until there is something to log, to validate, or the end.

    Args:
      config: the flags.
      step: outer steps taken.
      since: how many of them since the line before; 0 if that is at `step`.
    """
    last = step - since
    until_eval = config.eval_every_steps - last % config.eval_every_steps
    line = min(last + config.log_every_steps, last + until_eval, config.num_steps)
    return max(line - step, 0)


def validates(config, step: int) -> bool:
    """Whether it is time for a validation and a checkpoint."""
    return step % config.eval_every_steps == 0 or step >= config.num_steps


def _learner(config, problem: components.Problem, num_steps: int) -> mj.MetaLearner:
    """The learner as it is evaluated, after some inner steps."""
    make = components.LEARNERS[config.learner]
    return _make(config, make, problem, problem.eval_outputs, num_steps)


def _trained_learner(config, problem: components.Problem, **options) -> mj.MetaLearner:
    name = config.learner
    make = components.TRAINED.get(name, components.LEARNERS[name])
    steps = config.inner_steps
    return _make(config, make, problem, problem.outputs, steps, **options)


def _make(config, make, problem, outputs, num_steps, **options) -> mj.MetaLearner:
    build = partial(components.MODELS[config.model], config, problem)
    classifies = "accuracy" in problem.metrics
    given = components.Given(build, outputs, classifies, problem.loss, num_steps)
    learner = make(config, given, **options)
    return mj.freeze(learner, config.frozen) if config.frozen else learner


def _estimator(config, problem: components.Problem, step=None) -> Estimator:
    """The estimator of training, at an outer step if it changes with it."""
    learner = _trained_learner(config, problem)
    weigh = components.STEP_WEIGHTS.get(config.learner, lambda config, step: None)
    weights = weigh(config, step)
    if weights is None:
        objective = _objective(problem, learner)
    else:
        stepwise = _trained_learner(config, problem, every_step=True)
        objective = mj.multi_step_loss(
            stepwise, problem.loss, weights, **problem.metrics
        )
    make = components.ESTIMATORS[choices.estimator(config.learner, config.estimator)]
    chunk = tasks_per_chunk(config)
    mesh = _mesh(config) if config.num_seeds == 1 else None
    return make(config, problem, learner, objective, tasks_per_chunk=chunk, mesh=mesh)


def _objective(problem: components.Problem, learner: mj.MetaLearner) -> Objective:
    return mj.query_loss(learner, problem.loss, **problem.metrics)


def _outer_optimizer(config) -> optax.GradientTransformation:
    rate = components.SCHEDULES[config.outer_schedule](config)
    name, options = config.outer_optimizer, config.outer_options
    optimizer = components.optimizer(name, rate, options)
    if config.outer_clip is not None:
        clip = optax.clip_by_global_norm(config.outer_clip)
        optimizer = optax.chain(clip, optimizer)
    if not config.frozen:
        return optimizer

    # Not every estimator and optimizer leaves alone what has no gradient.
    def label(meta: PyTree) -> PyTree:
        frozen, learned = trees.split(meta, config.frozen)
        labels = jax.tree.map(lambda _: "learned", learned)
        return trees.merge(jax.tree.map(lambda _: "frozen", frozen), labels)

    parts = {"frozen": optax.set_to_zero(), "learned": optimizer}
    return optax.partition(parts, label)
