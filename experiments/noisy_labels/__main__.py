"""`python -m experiments.noisy_labels`."""

import time

_STARTED = time.time()

from experiments.noisy_labels import door

if __name__ == "__main__":
    door.main(_STARTED)
