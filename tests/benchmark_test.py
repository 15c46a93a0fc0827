"""The benchmark counts rightly, and its peers compute what metajax computes."""

from functools import lru_cache
from importlib import import_module
import json
import subprocess
import sys

import jax
from jax.interpreters.partial_eval import dce_jaxpr
import numpy as np
import optax
import pytest

import metajax as mj
from metajax.costs import matmul_flops
from scripts.benchmarks import flops, game_training, games, numpy_games, peers, report
from scripts.benchmarks.processes import ROOT, Process, Worker, WorkerError
from scripts.benchmarks.workloads import WORKLOADS, draw_tasks, initial_params, layers

SINUSOID, MNIST = WORKLOADS["sinusoid"], WORKLOADS["mnist"]
CONV = WORKLOADS["omniglot_5way_1shot"]


def tiny(name: str, order: int):
    """A small workload of the same kind."""
    full = WORKLOADS[name]
    return full._replace(
        name="tiny",
        hidden=(8,) * len(full.hidden),
        ways=min(full.ways, 3),
        shots=2,
        queries=1,
        num_tasks=2,
        inner_steps=1 if full.convolutional else 2,
        order=order,
    )


@lru_cache
def first_step(module: str, workload):
    """Loss and meta-gradient of the first outer step by one implementation."""
    build = import_module(f"scripts.benchmarks.{module}").build
    params, tasks = (draw(workload, "float64") for draw in (initial_params, draw_tasks))
    with jax.enable_x64(True):
        implementation = build(workload, params, tasks)
        return {"loss": implementation.run(1), "gradient": implementation.gradient()}


@pytest.mark.parametrize(
    "workload, order", [("sinusoid", 1), ("sinusoid", 2), ("omniglot_5way_1shot", 2)]
)
@pytest.mark.parametrize("peer", peers.PEERS)
def test_peers_compute_what_metajax_computes(peer, workload, order):
    pytest.importorskip(peers.NEEDS.get(peer, "jax"))
    workload = tiny(workload, order)
    ours = first_step("metajax_backprop", workload)
    theirs = first_step(peers.MODULES[peer], workload)
    assert theirs["gradient"].keys() == ours["gradient"].keys()
    assert peers.difference(ours, theirs) < 1e-9


@pytest.mark.parametrize("order", [2, 1])
@pytest.mark.parametrize("workload", [SINUSOID, MNIST._replace(hidden=(7, 6, 5))])
def test_flops_are_those_of_the_products_in_the_traced_step(workload, order):
    workload = workload._replace(num_tasks=3, inner_steps=2, order=order)
    model = mj.models.mlp(workload.hidden, workload.ways)
    loss = mj.losses.squared_error if workload.regression else mj.losses.cross_entropy
    learner = mj.maml(
        model,
        loss,
        optax.sgd(workload.inner_rate),
        workload.inner_steps,
        adjoint=mj.adjoints.unroll(last=None if order == 2 else 0),
    )
    meta_grad = mj.estimators.backprop(mj.query_loss(learner, loss))
    arrays = [x[0] for x in draw_tasks(workload, "float32")]
    tasks = mj.Task(mj.Batch(*arrays[:2]), mj.Batch(*arrays[2:]))
    key = jax.random.key(0)
    meta = jax.eval_shape(model.init, key, arrays[0][0])
    program = jax.make_jaxpr(meta_grad)(key, meta, tasks).jaxpr
    used, _ = dce_jaxpr(program, [True] * len(program.outvars))
    assert flops.outer_step(workload) == matmul_flops(used)


def test_multiplications_of_convolutions_by_hand():
    counts = [np.prod(layer.kernel_shape) * layer.places for layer in layers(CONV)]
    assert counts == [
        9 * 1 * 64 * 14 * 14,
        9 * 64 * 64 * 7 * 7,
        9 * 64 * 64 * 4 * 4,
        9 * 64 * 64 * 2 * 2,
        64 * 5,
    ]


def test_difference_is_that_of_the_worst_leaf():
    ours = {"loss": 2.0, "gradient": {"a": np.ones(4), "b": np.full(4, 10.0)}}
    other = {"loss": 2.0, "gradient": {"a": np.full(4, 1.5), "b": np.full(4, 11.0)}}
    assert peers.difference(ours, ours) == 0
    assert peers.difference(ours, other) == pytest.approx(0.5)
    assert np.isnan(peers.difference(ours, ours | {"loss": np.nan}))


def test_tasks_are_what_the_workload_says():
    workload = tiny("mnist", order=2)
    tasks = draw_tasks(workload, "float32")
    assert tasks.support_inputs.shape == (4, 2, 6, 784)
    np.testing.assert_array_equal(tasks.support_targets[3, 1], [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(tasks.query_targets[0, 0], [0, 1, 2])
    support, query = tasks.support_inputs[0, 0], tasks.query_inputs[0, 0]
    apart = np.abs(query[:, None] - support[None]).mean(
        -1
    )  # Few pixels within a class.
    np.testing.assert_array_equal(apart.argmin(1) // 2, [0, 1, 2])


def test_a_process_serves_workers_and_survives_errors():
    workload = tiny("sinusoid", order=2)
    with Process("cpu", "float64") as process:
        worker = Worker(process, "jax_vmap", workload, "float64")
        start = worker.start()
        assert start["gradient"]["head/bias"].dtype == np.float64
        assert peers.difference(first_step("jax_vmap", workload), start) < 1e-9
        broken = Worker(process, "nothing", workload, "float64")
        with pytest.raises(WorkerError, match="ModuleNotFoundError: No module named"):
            broken.start()
        assert worker.run(3) > 0
        assert worker.peak_bytes() > 0


def test_a_process_that_was_killed_says_so():
    with Process("cpu") as process:
        process._process.kill()
        process._process.wait()
        process.send("run", "jax_vmap", 1)
        with pytest.raises(WorkerError, match="ended by signal 9"):
            process.read()


def test_tic_tac_toe_by_numpy_is_worth_what_is_exact():
    rule, number = 37, 20000
    random = np.random.default_rng(0)
    board = numpy_games.TicTacToes(
        random, number, mj.rl.environments.all_rules()[[rule]]
    )
    total, going_on = np.zeros(number), np.ones(number, bool)
    for _ in range(board.horizon):
        chances = np.where(board.legal, random.random((number, 9)), -1)
        rewards, over = board.step(chances.argmax(axis=1))
        total += np.where(going_on, rewards, 0)
        going_on &= ~over
        board.restart(over)
    assert not going_on.any()
    exact = mj.rl.exact.tic_tac_toe_returns().random[rule]
    assert abs(total.mean() - exact) < 4 * total.std() / np.sqrt(number)


GAMES = [game_training.BANDIT, game_training.TIC_TAC_TOE]


@pytest.mark.parametrize("setting", GAMES, ids=lambda setting: setting.game)
def test_pytorch_learns_games_as_metajax_does(setting):
    pytest.importorskip("torch")
    from scripts.benchmarks import torch_rl2

    small = setting._replace(width=8, head_width=4, num_episodes=2)
    update = game_training.first_update(game_training.make(small))
    assert games.disagreement(small, update) < 1e-5
    policy = torch_rl2.by_hand(update.params)
    trials = torch_rl2.collect(small, policy, np.random.default_rng(0), 3)
    log_probs, _ = policy.decide(policy.along(trials.features), trials.legal)
    chosen = log_probs.gather(2, trials.actions[..., None])[..., 0]
    np.testing.assert_allclose(chosen.detach(), trials.log_probs, rtol=1e-5)
    actions = log_probs.shape[2]
    last, reward, first, begins, left = np.split(
        trials.features[..., -actions - 4 :].numpy(),
        np.cumsum([actions, 1, 1, 1]),
        axis=2,
    )
    np.testing.assert_array_equal(last[1:].argmax(2), trials.actions[:-1])
    np.testing.assert_array_equal(begins[..., 0].any(1), np.arange(len(begins)) == 0)
    np.testing.assert_allclose(left[:, 0, 0], update.features[0, : len(left), -1])
    assert first[0].all() and not last[0].any()
    real = trials.real[1:]
    np.testing.assert_array_equal(reward[1:, :, 0][real], trials.rewards[:-1][real])


class Clock:
    """A worker whose steps take a given time, and that notes when it is asked."""

    def __init__(self, seconds: float, asked: list):
        self.seconds, self.asked = seconds, asked

    def run(self, num_steps: int) -> float:
        self.asked.append((self, num_steps))
        if self.seconds is None:
            raise WorkerError("no memory")
        return self.seconds * num_steps


def test_rounds_take_turns_and_slow_peers_have_fewer(monkeypatch):
    monkeypatch.setattr(peers, "PAUSE_SECONDS", 0)
    asked, rows = [], [peers.Row("metajax"), peers.Row("slow"), peers.Row("broken")]
    ours, slow, broken = (Clock(s, asked) for s in (0.002, 9.0, None))
    matmul = Clock(0.35, asked)
    workers = {"metajax": ours, "slow": slow, "broken": broken}
    assert peers._time(SINUSOID, rows, workers, matmul, rounds=3) == 0.35
    rounds = [(matmul, 2), (ours, 350), (slow, 1)] * 2 + [(matmul, 2), (ours, 350)]
    assert asked[-len(rounds) :] == rounds
    assert rows[2].note == "failed: no memory"
    peers._summarize(peers._live(rows), floor_seconds=0.001)
    assert rows[0].matmul_share == pytest.approx(0.5)
    assert rows[1].ratio == pytest.approx(4500)
    assert rows[2].ratio is None


class Failing:
    """A worker that does not start if it is metajax's."""

    def __init__(self, process, module, workload, dtype):
        self.fails = module == "metajax_backprop"

    def start(self):
        if self.fails:
            raise peers.WorkerError("no memory")


@pytest.mark.parametrize("fails", ["in float64", "in float32"])
def test_nothing_is_compared_where_metajax_fails(monkeypatch, fails):
    monkeypatch.setattr(peers, "processes", lambda *_: iter("abcdefgh"))
    monkeypatch.setattr(peers, "Worker", Failing)
    if fails == "in float32":
        monkeypatch.setattr(peers, "_check", lambda *_: None)
    monkeypatch.setattr(peers, "_time", lambda *_: 1.0)
    found = peers.measure(SINUSOID, ["jax_vmap"], 1, "cpu")
    assert report.table(found).splitlines()[1:] == [
        "          ms a step  x metajax  range  matmul  start s  peak MiB  temp MiB  error",
        "metajax   failed: no memory",
        "jax_vmap  not compared, since metajax failed",
    ]


def result() -> dict:
    """A result as `peers.measure` returns it."""
    return {
        "workload": SINUSOID._asdict(),
        "flops": flops.outer_step(SINUSOID),
        "matmul_flops_per_second": 1.5e11,
        "rows": [
            row("metajax", seconds=0.0005, ratio=1.0, temporary_bytes=2**20),
            row("torch_func", seconds=0.0046, ratio=9.2, ratio_range=(9.0, 9.5)),
            vars(peers.Row("higher", note="skipped, for want of higher")),
        ],
    }


def row(name: str, **found) -> dict:
    complete = peers.Row(name, error=3e-15, float32_error=1e-6, start_seconds=4.0)
    some = {"peak_bytes": 2**28, "ratio_range": (1.0, 1.0), "matmul_share": 0.13}
    return vars(complete) | some | found


def test_the_table_says_everything_in_columns():
    title, header, ours, theirs, skipped = report.table(result()).splitlines()
    assert "25 tasks of 10 + 10 examples" in title and "150 GFLOP/s" in title
    assert header.split()[:2] == ["ms", "a"]
    assert ours.split()[:3] == ["metajax", "0.5", "1.00"]
    assert theirs.split()[:6] == ["torch_func", "4.6", "9.20", "9.00", "-", "9.50"]
    assert len(header) == len(ours) == len(theirs)
    assert skipped == "higher      skipped, for want of higher"


def test_the_picture_is_drawn(tmp_path):
    report.draw([json.loads(json.dumps(result()))], tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


SUITES = ["train", "memory", "growth", "adapt", "devices", "seeds", "games"]
STAND_IN = """
import importlib, sys
from scripts.benchmarks import alone
for name in sys.argv[1:]:
    suite = importlib.import_module(f"scripts.benchmarks.{name}")
    suite.run = lambda out, quick: (name, str(out), quick)
    suite.table = str
    sys.argv = ["alone", name, "somewhere", "True"]
    alone.main()
"""


def test_suites_are_measured_in_another_process():
    """With a stand-in for their `run`, which takes minutes; what they import is real."""
    command = [sys.executable, "-c", STAND_IN, *SUITES]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    expected = [str((name, "somewhere", True)) for name in SUITES]
    assert ended.stdout.splitlines() == expected, ended.stderr


def test_an_unknown_name_ends_with_those_that_are_known():
    command = [sys.executable, ROOT / "scripts" / "benchmark.py", "--peers=nobody"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "choose among torch_func, torch_loop, higher, jax_vmap" in ended.stderr
