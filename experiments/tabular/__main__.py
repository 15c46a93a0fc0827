"""`python -m experiments.tabular`."""

import time

_STARTED = time.time()

from experiments.tabular import door

if __name__ == "__main__":
    door.main(_STARTED)
