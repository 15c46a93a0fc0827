"""From a run that is cut off to a file that JAX alone runs.

    python -m experiments.examples.resumed_and_exported DIR

A run is stopped half way and goes on to the same bits; what it has learned is used on a
task of new classes, and written to a file by `metajax.export`.
"""

from pathlib import Path
import subprocess
import sys
import zipfile

import jax
import numpy as np

import metajax as mj


def run(workdir, num_steps, more):
    command = [sys.executable, "-m", "experiments.few_shot", f"--workdir={workdir}"]
    command += ["--data=glyphs", "--learner=protonet", "--hidden=64", "--queries=5"]
    command += ["--outer_rate=1e-3", f"--num_steps={num_steps}", "--calibrate"]
    subprocess.run([*command, "--eval_every_steps=50", *more], check=True)


def main(directory, num_steps=200, more=()):
    directory = Path(directory)
    for name in ("half way", "at once"):
        workdir = directory / name.replace(" ", "_")
        if name == "half way":  # As if it had been stopped: see checkpoints there.
            run(workdir, num_steps // 2, more)
            (workdir / "result.json").unlink()
        run(workdir, num_steps, more)
    files = [directory / name / "best.npz" for name in ("half_way", "at_once")]
    same = all(
        np.array_equal(a, b) for a, b in zip(*(np.load(f).values() for f in files))
    )
    print(f"the same parameters to the bit: {same}")

    learned = mj.load(directory / "at_once")
    data = mj.data.glyphs("test", num_classes=50)
    images, rows = np.asarray(data.inputs), data.rows[:5]
    task = learned.adapt(images[rows[:, 0]], list("abcde"))
    found = learned.predict(task, images[rows[:, 1]])
    print(f"taken for {' '.join(found.labels)}, where a b c d e is right")

    mj.export(learned, directory / "learned.zip", ways=5, shots=1)
    with zipfile.ZipFile(directory / "learned.zip") as file:
        adapt, predict = (
            jax.export.deserialize(bytearray(file.read(name)))
            for name in ("adapt", "predict")
        )
    exported = adapt.call(images[rows[:, 0]], np.arange(5, dtype=np.int32))
    shares = np.asarray(predict.call(exported, images[rows[:, 1]]))
    print(f"largest difference: {np.abs(shares - found.probabilities).max():.1e}")
    size = (directory / "learned.zip").stat().st_size
    print(f"{directory / 'learned.zip'}: {size / 1024:.0f} KiB, for CPU, CUDA and TPU")


if __name__ == "__main__":
    main(sys.argv[1])
