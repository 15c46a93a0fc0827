"""One run from top to bottom: prepare, train, choose on validation tasks, report."""

from collections.abc import Callable
import contextlib
import sys
import time

from absl import logging
import jax
import numpy as np

from experiments.running import (
    devices,
    locks,
    planning,
    preparing,
    processes,
    reporting,
    startup,
    workdirs,
)
from experiments.running.experiment import Experiment
from experiments.running.loop import NonFinite, Since, draw_tasks, train
from experiments.running.options import Options
from experiments.running.preparing import Prepared, Progress
from experiments.running.records import Records
from experiments.running.signals import Signals, Stopped
from experiments.running.workdirs import Settings
import metajax as mj
from metajax import checkpoints, trees

# Exit codes, beside processes.LOST_PEER, and 128 and its number for a signal.
BAD_CONFIGURATION, NON_FINITE, OUT_OF_MEMORY, UNWRITABLE = 2, 3, 4, 5

_NOTHING_RECORDED = Settings()


def run(
    make: Callable[[], Experiment],
    options: Options,
    settings: Settings = _NOTHING_RECORDED,
    *,
    started: float | None = None,
) -> int:
    """Trains an experiment to the end, or goes on with it, and reports what came of it.

    Whatever ends a run early, the same call goes on from its last checkpoint, to the
    same bits.

    Args:
      make: builds the experiment, once JAX runs where the options say.
      options: how it is run.
      settings: what `run.flags` records of it, and what checkpoints depend on.
      started: when the command began, by `time.time`; now if None.

    Returns:
      The exit code: 0, or what one line on standard error explains.

    Example:
      >>> sys.exit(run(experiment, Options(Path("runs/mine"))))  # doctest: +SKIP
    """
    clock = startup.Clock(started or time.time())
    startup.use_cache(options.compilation_cache)
    with Signals() as signals, contextlib.ExitStack() as held:
        this = _Run(options, settings, clock, signals, held)
        try:
            with signals.immediate():
                code = this.run(make)
        except (Exception, Stopped) as error:
            code = _explained(error, options, this.prepared)
            if code is None:
                processes.leave_after(error)
                raise
    return processes.leave(code)


def run_each(
    makers: dict[str, Callable[[], Experiment]],
    options: Options,
    settings: Settings = _NOTHING_RECORDED,
    *,
    started: float | None = None,
) -> int:
    """Runs several experiments, one after another, each in a directory of its own.

    Those that are finished are not run again.

    Args:
      makers: what builds each experiment, by the name of its directory.
      options: how they are run; directories are made in its `workdir`.
      settings: as in `run`.
      started: as in `run`.

    Returns:
      0 once all are finished; else the exit code of the one that is not.
    """
    for name, make in makers.items():
        own = options._replace(workdir=options.workdir / name)
        if workdirs.is_finished(own.workdir) and not (own.eval_only or own.dry_run):
            changed = workdirs.differences(settings, own.workdir, settings.may_differ)
            if changed:
                print(
                    f"Error: {own.workdir} holds a finished run with other flags: choose "
                    f"another --workdir, or make these agree: {' '.join(changed)}",
                    file=sys.stderr,
                )
                return BAD_CONFIGURATION
            continue
        logging.info("%s", name)
        code = run(make, own, settings, started=started)
        if code:
            return code
        started = None
    return 0


def _explained(
    error: BaseException, options: Options, prepared: Prepared | None
) -> int | None:
    """Says in one line what has ended the run; the exit code, or None if it is a bug."""
    if isinstance(error, Stopped):
        print(f"Stopped by {error}: the same command goes on.", file=sys.stderr)
        return error.exit_code
    if isinstance(error, NonFinite):
        print(f"Error: {error}", file=sys.stderr)
        return NON_FINITE
    if planning.is_out_of_memory(error):
        print(planning.advice(error, options, prepared), file=sys.stderr)
        return OUT_OF_MEMORY
    if isinstance(error, locks.Lost):
        print(f"Error: {error}", file=sys.stderr)
        return UNWRITABLE
    if isinstance(error, OSError):  # Configuration and data have been read before.
        print(
            f"Error: {error.filename or options.workdir} cannot be written: "
            f"{error.strerror or error}. Make room (fewer --keep_checkpoints), mend it, or "
            "choose another --workdir; what was saved before is whole, and the same "
            "command goes on from there.",
            file=sys.stderr,
        )
        return UNWRITABLE
    return None


class _Run:
    """One run, with what it holds."""

    def __init__(self, options, settings, clock, signals, held):
        self.options: Options = options
        self.settings: Settings = settings
        self.clock: startup.Clock = clock
        self.signals: Signals = signals
        self.held: contextlib.ExitStack = held
        self.prepared: Prepared | None = None
        self.lock: locks.Lock | None = None  # That of the first process.

    def run(self, make: Callable[[], Experiment]) -> int:
        options = self.options
        try:
            device = _select_platform(options)
            if options.dry_run:
                planning.dry_run(make(), options, device)
                return 0
            progress, notes, program = self._begin(make, device)
        except locks.Unwritable:
            raise
        except (ValueError, OSError, ImportError, mj.data.DataError) as error:
            if processes.is_loss_of_peer(error):
                raise
            print(f"Error: {error}", file=sys.stderr)
            return BAD_CONFIGURATION
        size = trees.size(progress.best) // options.num_seeds
        logging.info("%s, %d parameters", device, size)
        if options.eval_only:
            reporting.evaluate_again(self.prepared, options, self.settings, progress)
            return 0
        if np.asarray(progress.state.step).min() < options.num_steps:
            planning.check_memory(program.lower().compile(), self.prepared)
        progress = self._train(progress, **notes or {})
        self.signals.check()
        if self.clock.runs:  # Else training has drawn them.
            draw_tasks(self.prepared, options.workdir)
        reporting.report(self.prepared, options, self.lock, progress)
        return 0

    def _train(self, progress: Progress, logged=(), **since) -> Progress:
        """Trains to the end, from progress and notes of a checkpoint, if there is one."""
        since, options = Since(**since), self.options
        last_line = int(np.asarray(progress.state.step).min()) - since.num_steps
        records = processes.only_first(
            Records, options, self.lock, self._fingerprint(), last_line, logged
        )
        return train(
            self.prepared, options, records, progress, since, self.clock, self.signals
        )

    def _fingerprint(self) -> checkpoints.Fingerprint:
        digests = self.prepared.experiment.digests
        return workdirs.fingerprint(self.settings, digests)

    def _begin(self, make: Callable[[], Experiment], device: str):
        """What training begins with, once the directory is known to be the run's."""
        options, workdir = self.options, self.options.workdir
        if options.eval_only:
            workdirs.check_saved(self.settings, workdir)
        else:
            self.lock = processes.on_first(
                workdirs.check, self.settings, workdir, self.held
            )
        self.prepared, progress = preparing.prepare(make(), options)
        saved = self._restore(progress)
        if options.eval_only and saved is None:
            raise ValueError(f"{workdir} has no checkpoint to evaluate yet.")
        if saved:
            progress = saved.tree
        elif options.initial_params:
            progress = preparing.start_from_file(
                self.prepared, progress, options.initial_params
            )
        # Finds what cannot be differentiated, before it is compiled or anything written.
        program = preparing.trace(
            self.prepared, progress.state, options.log_every_steps
        )
        if not options.eval_only:
            self.lock = processes.on_first(
                workdirs.claim, self.settings, workdir, self.held, self.lock
            )
            processes.on_first(workdirs.write_record, workdir, device)
            if saved:
                processes.on_first(workdirs.warn_of_other_code, workdir)
        return progress, saved and saved.notes, program

    def _restore(self, progress: Progress) -> checkpoints.Checkpoint | None:
        """The newest checkpoint, which the first process reads for all."""
        options = self.options
        fingerprint = {} if options.eval_only else self._fingerprint()
        like = processes.local(progress)

        def restore():
            directory = options.workdir / "checkpoints"
            return checkpoints.restore(directory, like, fingerprint=fingerprint)

        saved = processes.on_first(restore)
        if not processes.share(np.int32(saved is not None)):
            return None
        saved = saved or checkpoints.Checkpoint(0, like, None)
        tree = processes.share(saved.tree)
        tree = devices.place_progress(self.prepared.devices, tree)
        step = int(np.asarray(tree.state.step).min())
        logging.info("going on from step %d", step)
        notes = processes.share_json(saved.notes)
        return checkpoints.Checkpoint(step, tree, notes)


def _select_platform(options: Options) -> str:
    """Makes JAX use the platform asked for, or says that it is not there.

    JAX itself takes the best platform it finds, and falls back silently.
    """
    name = options.platform
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    processes.join(options)
    try:
        found = jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX's own setting asks too much.
        raise ValueError(
            f"JAX_PLATFORMS={jax.config.jax_platforms} is not to be had here: unset it."
        ) from error
    platform = found[0].platform
    if name not in ("auto", platform):
        raise ValueError(
            f"--platform={name} was asked for, but JAX finds only {platform} here: "
            "install the JAX that supports it, or use --platform=auto."
        )
    number = f"{jax.process_count()} processes, " if processes.are_several() else ""
    return f"{number}{len(found)} {platform} device(s), {found[0].device_kind}"
