"""Runs by the command line that are ended at an operation on files, imported but once."""

import contextlib
import os
from pathlib import Path
import random
import runpy
import shutil
import sys
import traceback

from absl import flags

from experiments import running  # noqa: F401 (For all that is started.)
from experiments.running import pictures  # noqa: F401
from scripts import faults, shim
from scripts.trials import FEW, Counts


def kills(root: Path, number: int, chance: random.Random) -> Counts:
    """Real processes end at some operation, three times each, and then may go on."""
    alone, counts = root / "alone", Counts()
    alone.mkdir()
    if code := start(alone):
        raise RuntimeError(f"{alone} ended with {code}: {said(alone)}")
    expected = faults.outcome(alone / "run")
    for trial in range(number):
        place = root / str(trial)
        place.mkdir()
        for _ in range(3):
            when = chance.choice(("before", "within", "after"))
            start(place, shim.kill_at(chance.randrange(200), when))
        done = (place / "run" / "result.json").exists()
        saved = max(faults.whole_checkpoints(place / "run"), default=0)
        code = start(place)
        went_on = f"going on from step {saved}" in said(place) or not saved
        found = faults.outcome(place / "run") if code == 0 or done else None
        judged = {
            "refused": code != 0 and not done,
            "lost": code == 0 and not went_on,
            "silent": found not in (None, expected),
            "traces": "Traceback" in said(place),
        }
        counts = counts.plus(trials=1, **{k: int(bad) for k, bad in judged.items()})
        if any(judged.values()):
            print(f"{place}: {judged}: {said(place)}", file=sys.stderr, flush=True)
        else:
            shutil.rmtree(place)
    return counts


def start(place: Path, hook: shim.Hook | None = None) -> int:
    """Starts the command for `run` in a directory, in a process of its own.

    Returns:
      The exit code; of one that was ended by a signal, its negative number.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:  # Nothing of it may come back into the parent's code.
        errors = os.open(place / "errors", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if "seed" in flags.FLAGS:
            flags.FLAGS.remove_flag_values(["seed"])  # That of whoever starts trials.
        sys.argv = ["few_shot", *FEW[:-1], f"--workdir={place / 'run'}"]
        with contextlib.ExitStack() as stack:
            if hook is not None:
                stack.enter_context(shim.watched(place / "run", hook))
            runpy.run_module("experiments.few_shot", run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def said(place: Path) -> str:
    """What the last start of a directory has written on standard error."""
    return (place / "errors").read_text()
