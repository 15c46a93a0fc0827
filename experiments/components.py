"""The registry: from the names in a run's flags to metajax components."""

import ast
from collections.abc import Callable
from functools import partial
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments import choices
import metajax as mj
from metajax.adjoints.implicit import Solver
from metajax.base import Adjoint, Estimator, Loss, MetaLearner, Model, Sampler


class Problem(NamedTuple):
    """Tasks to learn from, to choose by and to be judged on, and how they are scored."""

    train: Sampler
    validation: Sampler
    test: Sampler
    outputs: int  # Width of a model's last layer, in training,
    eval_outputs: int  # and in evaluation.
    loss: Loss
    metrics: dict[str, Loss]  # Reported beside the loss.


def sinusoid(config) -> Problem:
    train = mj.data.Sinusoid(config.shots, config.queries)
    test = mj.data.Sinusoid(*_evaluated_sizes(config))
    return Problem(train, test, test, 1, 1, mj.losses.squared_error, {})


def glyphs(config) -> Problem:
    return _classification(config, *map(mj.data.glyphs, mj.data.SPLITS))


def omniglot(config) -> Problem:
    load = partial(
        mj.data.omniglot,
        classes=config.omniglot_classes,
        resize=config.omniglot_resize,
        rotated_classes=config.rotated_classes,
    )
    return _classification(config, *_loaded(config, load))


def mnist(config) -> Problem:
    return _classification(config, *_loaded(config, mj.data.mnist))


def cifar_fs(config) -> Problem:
    return _classification(config, *_loaded(config, mj.data.cifar_fs))


def fc100(config) -> Problem:
    return _classification(config, *_loaded(config, mj.data.fc100))


def clinc150(config) -> Problem:
    load = partial(
        mj.data.clinc150,
        fold=config.clinc_fold,
        encode=ENCODINGS[config.encoding](config.vocabulary),
        length=config.text_length,
    )
    return _classification(config, *_loaded(config, load))


def _loaded(config, load: Callable[..., mj.data.ClassArrays]):
    return [load(split, data_dir=config.data_dir) for split in mj.data.SPLITS]


# How texts become ids.
ENCODINGS: dict[str, Callable[[int], Callable]] = {
    "words": mj.data.words,
    "ngrams": mj.data.ngrams,
}


def folder(config) -> Problem:
    data = mj.data.from_folder(config.data_path, size=config.image_size)
    return _classification(config, *_class_splits(data, config.class_split))


def arrays(config) -> Problem:
    data = mj.data.from_npz(config.data_path)
    return _classification(config, *_class_splits(data, config.class_split))


def texts(config) -> Problem:
    encode, length = ENCODINGS[config.encoding](config.vocabulary), config.text_length
    data = mj.data.from_csv(config.data_path, encode=encode, length=length)
    return _classification(config, *_class_splits(data, config.class_split))


def _class_splits(data: mj.data.ClassArrays, split: list[str]):
    """Three parts: by fractions, or by three files with one class name a line."""
    try:
        fractions = [float(part) for part in split]
    except ValueError:
        parts = [mj.data.by_name(data, path) for path in split]
    else:
        parts = mj.data.by_fraction(data, fractions)
    for (a, first), (b, second) in itertools.combinations(zip(split, parts), 2):
        shared = sorted(set(first.names) & set(second.names))
        if shared:
            raise ValueError(
                f"Class {shared[0]!r} is in both {a} and {b}: the classes of training, "
                "validation and test must differ."
            )
    return parts


def _classification(config, train, validation, test) -> Problem:
    """Few-shot tasks from three disjoint parts of the data."""
    permuted = {"all": (True, True), "eval": (False, True), "none": (False, False)}
    train_permuted, eval_permuted = permuted[config.permute_labels]
    eval_ways = config.eval_ways or config.ways
    trained = config.ways, config.shots, config.queries
    evaluated = eval_ways, *_evaluated_sizes(config)
    samplers = []
    for split, data, sizes, transform, permute in zip(
        mj.data.SPLITS,
        (train, validation, test),
        (trained, evaluated, evaluated),
        _transforms(config),
        (train_permuted, eval_permuted, eval_permuted),
    ):
        try:
            groups = data.groups if config.within_groups else None
            sampler = mj.data.FewShot(data, *sizes, transform, permute, groups)
        except ValueError as error:
            raise ValueError(f"The {split} classes: {error}") from error
        samplers.append(sampler)
    metrics = {"accuracy": mj.losses.accuracy}
    return Problem(*samplers, config.ways, eval_ways, mj.losses.cross_entropy, metrics)


def _evaluated_sizes(config) -> tuple[int, int]:
    """Shots and queries in evaluation: those of training, unless flags say else."""
    return config.eval_shots or config.shots, config.eval_queries or config.queries


def _transforms(config):
    """What happens to the images of a task, in training, validation and testing."""
    if config.rotations:
        ranges = [map(float, angles.split(":")) for angles in config.rotations]
        return [mj.data.rotate(low, high) for low, high in ranges]
    if config.augment:
        return [mj.data.flips_and_crops(), None, None]
    return [mj.data.quarter_turns if config.quarter_turns else None] * 3


DATA: dict[str, Callable[[Any], Problem]] = {
    "sinusoid": sinusoid,
    "glyphs": glyphs,
    "omniglot": omniglot,
    "mnist": mnist,
    "cifar_fs": cifar_fs,
    "fc100": fc100,
    "clinc150": clinc150,
    "folder": folder,
    "arrays": arrays,
    "texts": texts,
}


def mlp(config, problem: Problem, outputs: int | None) -> Model:
    del problem
    hidden = [int(width) for width in config.hidden]
    return mj.models.mlp(hidden, outputs, init_std=config.init_std, warp=config.warp)


def conv4(config, problem: Problem, outputs: int | None) -> Model:
    del problem
    return mj.models.conv4(
        outputs,
        width=config.width,
        downsample=config.downsample,
        normalization=config.normalization,
        head_std=config.init_std,
        warp=config.warp,
    )


def bag(config, problem: Problem, outputs: int | None) -> Model:
    rarity = mj.data.idf(problem.train.data, config.vocabulary)
    width = config.projection
    return mj.models.bag(config.vocabulary, outputs, projection=width, idf=rarity)


def text_cnn(config, problem: Problem, outputs: int | None) -> Model:
    del problem
    return mj.models.text_cnn(config.vocabulary, outputs, width=config.width)


def text_transformer(config, problem: Problem, outputs: int | None) -> Model:
    length = problem.train.data.inputs.shape[1]
    return mj.models.text_transformer(
        config.vocabulary, outputs, width=config.width, length=length
    )


MODELS: dict[str, Callable[[Any, Problem, int | None], Model]] = {
    "mlp": mlp,
    "conv4": conv4,
    "bag": bag,
    "text_cnn": text_cnn,
    "text_transformer": text_transformer,
}


def optimizer(
    name: str, rate: float | optax.Schedule, options: list[str]
) -> optax.GradientTransformation:
    """Any optimizer that optax has by this name: `optimizer("adam", 1e-3, ["b1=0"])`."""
    factory = getattr(optax, name, None)
    try:
        arguments = dict(option.split("=") for option in options)
        arguments = {k: ast.literal_eval(v) for k, v in arguments.items()}
        made = factory(rate, **arguments) if callable(factory) else None
    except (AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"Optimizer {name} with options {options}: {error}") from error
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"Unknown optimizer {name!r}: choose one that optax has, such as sgd, adam, "
            "adamw, rmsprop, lion."
        )
    return made


def constant(config) -> float:
    return config.outer_rate


def linear(config) -> optax.Schedule:
    start, end = config.outer_rate, config.outer_final_rate
    return optax.linear_schedule(start, end, max(config.num_steps, 1))


def cosine(config) -> optax.Schedule:
    end = config.outer_final_rate / config.outer_rate
    return optax.cosine_decay_schedule(config.outer_rate, max(config.num_steps, 1), end)


SCHEDULES: dict[str, Callable[[Any], float | optax.Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
}


class Given(NamedTuple):
    """What a learner is made for."""

    build: Callable[[int | None], Model]  # By the width of its head, None for no head.
    outputs: int
    classifies: bool
    loss: Loss
    num_steps: int  # Inner steps.

    @property
    def model(self) -> Model:
        return self.build(self.outputs)

    @property
    def embedding(self) -> Model:
        return self.build(None)


def _descending(make: Callable[..., MetaLearner]):
    """A factory for learners of a model, a loss, an inner optimizer and an adjoint."""

    def factory(config, given: Given) -> MetaLearner:
        optimizer, adjoint = _inner_optimizer(config), _adjoint(config, given)
        return make(
            given.model, given.loss, optimizer, given.num_steps, adjoint=adjoint
        )

    return factory


def _comparing(make: Callable[[Model, int], MetaLearner]):
    """A factory for learners of an embedding alone."""
    return lambda config, given: make(given.embedding, given.outputs)


def matching_net(config, given: Given) -> MetaLearner:
    steps = config.context_steps
    context = mj.models.full_context(steps) if steps else None
    return mj.matching_net(given.embedding, given.outputs, context=context)


def fomaml(config, given: Given) -> MetaLearner:
    optimizer = _inner_optimizer(config)
    return mj.fomaml(given.model, given.loss, optimizer, given.num_steps)


def reptile(config, given: Given) -> MetaLearner:
    return mj.reptile(
        given.model,
        given.loss,
        _inner_optimizer(config),
        given.num_steps,
        batch_size=config.inner_batch,
        keep_state=config.keep_inner_state,
    )


def meta_sgd(config, given: Given) -> MetaLearner:
    return mj.meta_sgd(
        given.model,
        given.loss,
        given.num_steps,
        initial_rates=tuple(map(float, config.initial_rates)),
        rate_per=config.rate_per,
        per_step="rates" in config.per_step,
        adjoint=_adjoint(config, given),
    )


def cavia(config, given: Given) -> MetaLearner:
    return mj.cavia(
        given.model,
        given.loss,
        _inner_optimizer(config),
        given.num_steps,
        num_context=config.num_context,
        adjoint=_adjoint(config, given),
    )


def imaml(config, given: Given) -> MetaLearner:
    return mj.imaml(
        given.model,
        given.loss,
        _inner_optimizer(config),
        given.num_steps,
        regularization=config.regularization,
        adjoint=_adjoint(config, given),
    )


def maml_plus_plus(config, given: Given, every_step: bool = False) -> MetaLearner:
    return mj.maml_plus_plus(
        given.model,
        given.loss,
        given.num_steps,
        rate=config.inner_rate,
        learn_rates="rates" in config.per_step,
        normalization="Normalize_*" if "normalization" in config.per_step else None,
        every_step=every_step,
        adjoint=_adjoint(config, given),
    )


def warpgrad(config, given: Given, every_step: bool = False) -> MetaLearner:
    rate = config.inner_rate
    return mj.warpgrad(
        given.model, given.loss, given.num_steps, rate=rate, every_step=every_step
    )


def relation_net(config, given: Given) -> MetaLearner:
    relation = mj.models.mlp(list(map(int, config.relation)), 1)
    return mj.relation_net(given.embedding, relation, given.outputs)


def metaoptnet(config, given: Given) -> MetaLearner:
    return mj.metaoptnet(
        given.embedding,
        given.outputs,
        regularization=config.regularization,
        head=config.convex_head,
    )


def in_context(config, given: Given) -> MetaLearner:
    return mj.in_context(given.embedding, READERS[config.reader](config, given.outputs))


def transformer(config, outputs: int) -> Model:
    return mj.models.in_context_transformer(
        outputs,
        width=config.reader_width,
        layers=config.reader_layers,
        heads=config.reader_heads,
    )


def snail(config, outputs: int) -> Model:
    length = config.ways * max(config.shots, config.eval_shots or 1)
    return mj.models.snail(outputs, length=length, filters=config.reader_width)


READERS: dict[str, Callable[[Any, int], Model]] = {
    "transformer": transformer,
    "snail": snail,
}


def hypernetwork(config, given: Given) -> MetaLearner:
    generator = mj.models.mlp([config.code], None)
    ways = given.outputs if given.classifies else None
    return mj.hypernetwork(
        given.model, given.embedding, generator, ways, generated=config.generated
    )


def baseline(config, given: Given) -> MetaLearner:
    return mj.baseline(
        given.embedding,
        given.loss,
        _inner_optimizer(config),
        given.num_steps,
        ways=given.outputs,
        head=config.new_head,
    )


LEARNERS: dict[str, Callable[[Any, Given], MetaLearner]] = {
    "maml": _descending(mj.maml),
    "fomaml": fomaml,
    "reptile": reptile,
    "anil": _descending(mj.anil),
    "boil": _descending(mj.boil),
    "meta_sgd": meta_sgd,
    "meta_curvature": _descending(mj.meta_curvature),
    "cavia": cavia,
    "imaml": imaml,
    "maml_plus_plus": maml_plus_plus,
    "warpgrad": warpgrad,
    "protonet": _comparing(mj.protonet),
    "matching_net": matching_net,
    "relation_net": relation_net,
    "r2d2": _comparing(mj.r2d2),
    "metaoptnet": metaoptnet,
    "meta_baseline": _comparing(mj.meta_baseline),
    "in_context": in_context,
    "hypernetwork": hypernetwork,
    "baseline": baseline,
}


def classifier(config, given: Given) -> MetaLearner:
    del config
    return mj.classifier(given.model)


# Learners that are another one in training.
TRAINED: dict[str, Callable[[Any, Given], MetaLearner]] = {"baseline": classifier}


def _annealed(config, step: jax.Array) -> jax.Array | None:
    if not config.multi_step_loss:
        return None
    return mj.step_weights(step, config.inner_steps, config.multi_step_loss)


def _equal(config, step: jax.Array) -> jax.Array:
    del step
    return jnp.full(config.inner_steps, 1 / config.inner_steps)


# Learners that train on the loss after every inner step: how much each counts at an outer
# step, or None if the last one alone does.
STEP_WEIGHTS: dict[str, Callable[[Any, jax.Array], jax.Array | None]] = {
    "maml_plus_plus": _annealed,
    "warpgrad": _equal,
}


def _inner_optimizer(config) -> optax.GradientTransformation:
    return optimizer(config.inner_optimizer, config.inner_rate, config.inner_options)


def _adjoint(config, given: Given) -> Adjoint:
    make = ADJOINTS[choices.adjoint(config.learner, config.adjoint)]
    adjoint = make(config, given.num_steps)
    return mj.adjoints.only(config.adapted, adjoint) if config.adapted else adjoint


def unroll(config, num_steps: int) -> Adjoint:
    return mj.adjoints.unroll(_last(config, num_steps), remat=config.remat)


def mixed_mode(config, num_steps: int) -> Adjoint:
    return mj.adjoints.mixed_mode(_last(config, num_steps), remat=config.remat)


def _last(config, num_steps: int) -> int | None:
    """Evaluation may take fewer steps than training differentiates."""
    if choices.estimator(config.learner, config.estimator) != "backprop":
        return 0  # Nothing is differentiated.
    return None if config.last is None else min(config.last, num_steps)


def implicit(config, num_steps: int) -> Adjoint:
    del num_steps
    solver = SOLVERS[config.solver](config)
    return mj.adjoints.implicit(solver, damping=config.damping)


ADJOINTS: dict[str, Callable[[Any, int], Adjoint]] = {
    "unroll": unroll,
    "mixed_mode": mixed_mode,
    "implicit": implicit,
}

SOLVERS: dict[str, Callable[[Any], Solver]] = {
    "cg": lambda config: mj.adjoints.cg(config.solver_iterations),
    "gmres": lambda config: mj.adjoints.gmres(config.solver_iterations),
    "neumann": lambda config: mj.adjoints.neumann(
        config.solver_iterations, config.inner_rate
    ),
    "dense": lambda config: mj.adjoints.dense(),
}


def backprop(config, problem, learner, objective, **shared) -> Estimator:
    del config, problem, learner
    return mj.estimators.backprop(objective, **shared)


def displacement(config, problem, learner, objective, **shared) -> Estimator:
    del config, objective
    return mj.estimators.displacement(
        learner, problem.loss, **shared, **problem.metrics
    )


def evolution(config, problem, learner, objective, **shared) -> Estimator:
    del problem, learner
    pairs, std = config.evolution_pairs, config.evolution_std
    return mj.estimators.evolution(objective, num_pairs=pairs, std=std, **shared)


ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "backprop": backprop,
    "displacement": displacement,
    "evolution": evolution,
}
