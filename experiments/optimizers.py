"""Optimizers by name, for inner and outer steps."""

import ast
import difflib
import importlib

# Those of optax that take a rate and nothing of the loss but its gradient.
NAMES = (
    *("sgd", "adam", "adamw", "rmsprop", "lion", "nadam", "nadamw", "radam", "adamax"),
    *("adamaxw", "adagrad", "adadelta", "adafactor", "adabelief", "adan", "amsgrad"),
    *("fromage", "lamb", "lars", "novograd", "optimistic_adam", "optimistic_adam_v2"),
    *("optimistic_gradient_descent", "rprop", "sign_sgd", "signum", "sm3", "yogi"),
)


def optimizer(name: str, rate, options: list[str]):
    """An optimizer: `optimizer("adam", 1e-3, ["b1=0"])`.

    Args:
      name: one of `NAMES`, or `package.module:factory` for a function of one's own from
        a rate and options to an optax transformation.
      rate: the learning rate, or a schedule of it.
      options: further arguments of the factory, each as `name=value`.

    Raises:
      ValueError: if there is none, or it does not take the options.
    """
    import optax

    factory = _own(name) if ":" in name else _known(name)
    try:
        arguments = dict(option.split("=") for option in options)
        arguments = {k: ast.literal_eval(v) for k, v in arguments.items()}
        made = factory(rate, **arguments)
    except (AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"Optimizer {name} with options {options}: {error}") from error
    if not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"Optimizer {name} is none: its factory must return an optax transformation, "
            f"not {type(made).__name__}."
        )
    return made


def _known(name: str):
    import optax

    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"Unknown optimizer {name!r}.{guess} Choose one of {', '.join(NAMES)}, or "
            "package.module:factory for one of your own."
        )
    return getattr(optax, name)


def _own(name: str):
    module, _, factory = name.partition(":")
    try:
        return getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"Optimizer {name} is not there ({error}): name an importable module and a "
            "function in it, as package.module:factory."
        ) from error
