"""`python -m experiments.few_shot`, or `metajax-few-shot` once installed."""

import time

_STARTED = time.time()

from experiments.few_shot import door


def main() -> None:
    """What the installed command `metajax-few-shot` does."""
    door.main(_STARTED)


if __name__ == "__main__":
    main()
