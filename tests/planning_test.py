"""What the runner says of memory, before training and when there is none."""

from types import SimpleNamespace

import jax
import pytest

from experiments.few_shot import door
from experiments.running import engine, planning
from experiments.running.options import Options

SMALL = [
    "--data=sinusoid",
    "--shots=2",
    "--queries=2",
    "--hidden=4",
    "--platform=cpu",
    "--dry_run",
]


@pytest.fixture
def needs(monkeypatch):
    """Takes 100 bytes for each task in a chunk, half as many if steps are recomputed."""

    def measure(prepared, options, state, chunk, cheaper):
        chunk = chunk or prepared.experiment.num_tasks // 8
        recomputed = "--remat=step" in (cheaper or "")
        total = 100 * chunk / (2 if recomputed else 1)
        return planning.Need(total, total, flops=2 if recomputed else 1)

    monkeypatch.setattr(planning, "_measure", measure)
    return lambda memory: monkeypatch.setattr(planning, "device_memory", lambda: memory)


@pytest.mark.parametrize(
    "memory, advice",
    [
        (1000, "the flags as they are."),
        (700, "--tasks_per_chunk=4, the largest chunk that fits."),
        (150, "--tasks_per_chunk=1, the largest chunk that fits."),
        (80, "--adjoint=unroll --remat=step --tasks_per_chunk=1, the least arithmetic"),
        (10, "smaller tasks, or a smaller model: nothing fits."),
    ],
)
def test_a_dry_run_recommends_what_fits(run, needs, memory, advice):
    needs(memory)  # For 64 tasks on eight devices.
    code, out, errors = run(*SMALL, "--num_tasks=64")
    assert code == 0, errors
    assert out.splitlines()[-1].startswith(f"Recommended: {advice}")


@pytest.mark.parametrize(
    "flags, share, compiled",  # As given, another chunk, and rungs where there are any.
    [
        (["--num_tasks=4", "--num_devices=2", "--tasks_per_chunk=1"], 2, 4),
        (["--num_tasks=8", "--tasks_per_chunk=4", "--learner=fomaml"], 4, 2),
        (["--num_tasks=12", "--learner=fomaml"], 2, 2),
    ],
)
def test_a_dry_run_compiles_other_chunks_on_the_same_devices(
    run, flags, share, compiled
):
    code, out, errors = run(*SMALL, *flags)
    assert code == 0, errors
    assert f"{share} tasks a device" in out
    assert out.count("  yes\n") == compiled
    assert out.splitlines()[-1] == "Recommended: the flags as they are."


def test_a_dry_run_of_no_steps_says_so(run):
    code, _, errors = run(*SMALL, "--num_steps=0")
    assert code == engine.BAD_CONFIGURATION
    assert errors == (
        "Error: --dry_run needs a training step: set --num_steps above 0.\n"
    )


@pytest.mark.parametrize("num_devices", [1, 4])
def test_devices_of_a_cpu_share_its_memory(num_devices):
    memory = SimpleNamespace(
        temp_size_in_bytes=5,
        argument_size_in_bytes=3,
        output_size_in_bytes=3,
        alias_size_in_bytes=2,
    )
    compiled = SimpleNamespace(memory_analysis=lambda: memory)
    assert planning._bytes(compiled, num_devices) == (5 * num_devices, 9 * num_devices)


@pytest.mark.parametrize(
    "asked, data, backend, chunk",
    [
        (None, "omniglot", "cpu", 1),
        (None, "omniglot", "gpu", None),
        (None, "sinusoid", "cpu", None),
        (4, "omniglot", "cpu", 4),
        (4, "omniglot", "gpu", 4),
    ],
)
def test_a_cpu_holds_one_task_of_images_at_a_time(
    monkeypatch, with_flags, data_dir, asked, data, backend, chunk
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    flags = [f"--data={data}", "--workdir=unused"]
    flags += [f"--tasks_per_chunk={asked}"] if asked else []
    flags += [f"--data_dir={data_dir}"] if data == "omniglot" else []
    assert with_flags(door.experiment, *flags).tasks_per_chunk == chunk


def test_a_run_without_memory_ends_with_advice_and_a_code(run, monkeypatch, tmp_path):
    monkeypatch.setattr(planning, "device_memory", lambda: 1000)
    flags = [flag for flag in SMALL if flag != "--dry_run"]
    code, _, errors = run(*flags, "--num_tasks=16", f"--workdir={tmp_path / 'run'}")
    assert code == engine.OUT_OF_MEMORY
    assert errors.startswith("Error: out of memory: the training step needs")
    assert "--tasks_per_chunk below 2" in errors and errors.count("\n") == 1


def test_an_error_without_words_is_explained_too():
    line = planning.advice(MemoryError(), Options("unused", num_seeds=2), None)
    assert line.startswith(
        "Error: out of memory: a request was refused. Try fewer --num_seeds, "
    )
