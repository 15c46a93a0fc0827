"""What the compiler for TPUs makes of an outer step, where it is installed: it needs none.

pip install 'jax[tpu]' brings it.
"""

import jax
from jax.experimental import topologies
import numpy as np
import optax
import pytest

import metajax as mj
from metajax import losses

pytest.importorskip("libtpu")


@pytest.fixture(scope="module")
def eight_tpus():
    """A mesh of the devices of a slice that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
            patch.setenv(name, "1")
        slice_ = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
        yield jax.sharding.Mesh(np.array(slice_.devices), ("tasks",))


def compiled(mesh, width: int) -> tuple[jax.stages.Compiled, int]:
    """A training program for the devices of a mesh, and the bytes of its parameters."""
    model = mj.models.mlp([width, width], 1)
    learner = mj.maml(model, losses.squared_error, optax.sgd(0.01), 5)
    objective = mj.query_loss(learner, losses.squared_error)
    optimizer, sampler = optax.adam(1e-3), mj.data.Sinusoid(shots=5, queries=5)
    step = mj.train_step(mj.estimators.backprop(objective, mesh=mesh), optimizer)
    everywhere = jax.NamedSharding(mesh, jax.P())
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(
            lambda key: mj.init_state(key, learner, optimizer, sampler),
            jax.random.key(0),
        ),
    )
    traced = mj.training.trace(step, state, sampler, num_tasks=16, at_most=10)
    program = traced.lower(lowering_platforms=("tpu",)).compile()
    return program, 4 * sum(x.size for x in jax.tree.leaves(state.meta))


def test_eight_tpus_meet_once_a_step(eight_tpus):
    program, _ = compiled(eight_tpus, width=64)
    text = program.as_text()
    assert text.count(" all-reduce(") + text.count(" all-reduce-start(") == 1
    assert "all-gather" not in text and "all-to-all" not in text


def test_parameters_and_the_state_of_the_optimizer_are_updated_in_place(eight_tpus):
    program, size = compiled(eight_tpus, width=512)
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= 3 * size  # Adam keeps two more of each.
