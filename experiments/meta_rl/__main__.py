"""`python -m experiments.meta_rl`, or `metajax-meta-rl` once installed."""

import time

_STARTED = time.time()

from experiments.meta_rl import door


def main() -> None:
    """What the installed command `metajax-meta-rl` does."""
    door.main(_STARTED)


if __name__ == "__main__":
    main()
