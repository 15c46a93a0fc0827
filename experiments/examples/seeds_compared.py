"""A sweep over seeds of two learners, by the runner, and what can be said of it.

    python -m experiments.examples.seeds_compared DIR

One program trains all seeds of a learner. Tasks are compared one by one for each seed, and
the interval is over seeds, since tasks do not tell how much training varies.
"""

from pathlib import Path
import subprocess
import sys

import numpy as np

from experiments import compare

LEARNERS = {
    "maml": [],
    "first order": ["--adjoint=unroll", "--last=0"],
}


def run(workdir, arguments, num_seeds):
    command = [sys.executable, "-m", "experiments.few_shot", "--flagfile=quickstart"]
    command += [f"--num_seeds={num_seeds}", f"--workdir={workdir}", *arguments]
    if not (workdir / "result.json").exists():  # What was cut off goes on.
        subprocess.run(command, check=True)


def main(directory, num_seeds=5, places=(0, 1, 5, 10), more=()):
    directory = Path(directory)
    for name, arguments in LEARNERS.items():
        run(directory / name.replace(" ", "_"), [*arguments, *more], num_seeds)
    maml, first = (directory / name.replace(" ", "_") for name in LEARNERS)
    print("inner steps   maml    first order   difference, seed by seed")
    for inner_steps in places:
        each, name = [compare.load(run) for run in (maml, first)], f"loss_{inner_steps}"
        means = [np.mean([e.values[name].mean() for e in seeds]) for seeds in each]
        gap, interval = compare.difference(*each, name)
        verdict = "they differ" if abs(gap) > interval else "no difference shown"
        print(
            f"{inner_steps:11d}  {means[0]:.3f}  {means[1]:.3f}         "
            f"{gap:+.3f} +- {interval:.3f}, {verdict}"
        )


if __name__ == "__main__":
    main(sys.argv[1])
