"""`python -m experiments.learned_optimizer`."""

import time

_STARTED = time.time()

from experiments.learned_optimizer import door

if __name__ == "__main__":
    door.main(_STARTED)
