"""`python -m experiments.few_shot`."""

import time

_STARTED = time.time()

from experiments.few_shot import door

if __name__ == "__main__":
    door.main(_STARTED)
