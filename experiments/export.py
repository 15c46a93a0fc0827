"""Writes what a run has learned to one file that JAX alone runs, on CPU, GPU and TPU.

python -m experiments.export --workdir=DIR --ways=5 --shots=1 --out=FILE

The file holds two programs: one adapts to examples with labels, one predicts. How they
are called is in experiments/examples/run_export.py, which needs JAX and flatbuffers.
"""

import sys

from absl import flags

from experiments import command

FLAGS = flags.FlagValues()
flags.DEFINE_string("workdir", None, "A finished run.", flag_values=FLAGS)
flags.DEFINE_integer(
    "ways", None, "Classes a task; as in training by default.", 2, flag_values=FLAGS
)
flags.DEFINE_integer(
    "shots", 1, "Support examples a class, or points in all.", 1, flag_values=FLAGS
)
flags.DEFINE_string("out", None, "The file to write.", flag_values=FLAGS)
flags.mark_flags_as_required(["workdir", "out"], flag_values=FLAGS)


def export() -> int:
    """Does what the flags say, and returns the exit code."""
    import metajax as mj

    try:
        run = mj.load(FLAGS.workdir)
        mj.export(run, FLAGS.out, shots=FLAGS.shots, ways=FLAGS.ways)
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"Written to {FLAGS.out}; run it as experiments/examples/run_export.py does.")
    if run.encoder:
        print(f"It takes features of {run.encoder.name}, which is not in the file.")
    return 0


def main() -> None:
    """Does what the command line asks for."""
    command.start(FLAGS, export, about=__doc__)


if __name__ == "__main__":
    main()
