"""`python -m experiments.meta_rl`."""

import time

_STARTED = time.time()

from experiments.meta_rl import door

if __name__ == "__main__":
    door.main(_STARTED)
