import os
import random

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import checkpoints


def tree(seed: int):
    """Leaves of many kinds."""
    key = jax.random.key(seed)
    return {
        "params": {"kernel": jax.random.normal(key, (40, 30)), "bias": jnp.zeros(0)},
        "key": key,
        "half": jax.random.normal(key, (3,), jnp.bfloat16),
        "states": (jnp.int32(seed), jnp.array([True, False])),
    }


def assert_equal(a, b):
    chex.assert_trees_all_equal_dtypes(a, b)
    chex.assert_trees_all_equal(
        *[jax.tree.map(checkpoints._numbers, each) for each in (a, b)]
    )


def test_what_is_saved_is_restored_with_its_notes(tmp_path):
    notes = {"losses": [0.1, float("inf"), 1 / 3]}
    checkpoints.save(tmp_path, 7, tree(1), notes=notes)
    shapes = jax.eval_shape(lambda: tree(0))
    found = checkpoints.restore(tmp_path, shapes)
    assert (found.step, found.notes) == (7, notes)
    assert_equal(found.tree, tree(1))


def test_nothing_is_restored_where_nothing_was_saved(tmp_path):
    assert checkpoints.restore(tmp_path / "absent", tree(0)) is None


def test_the_newest_are_kept_and_what_came_after_a_damage_goes(tmp_path):
    for step in (1, 2, 3, 10):
        checkpoints.save(tmp_path, step, tree(step), keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["10.npz", "2.npz", "3.npz"]
    (tmp_path / "5.tmp").write_bytes(b"cut off")
    checkpoints.save(tmp_path, 4, tree(4), keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.npz", "3.npz", "4.npz"]


def test_saving_in_the_background_copies_first(tmp_path):
    give_up = jax.jit(lambda x: x + 1, donate_argnums=0)
    state = jnp.arange(1000.0)
    with checkpoints.InBackground(tmp_path, keep=4) as background:
        for step in range(4):
            background.save(step, {"state": state})
            state = give_up(state)
    for step in reversed(range(4)):
        found = checkpoints.restore(tmp_path, {"state": state})
        assert found.step == step
        np.testing.assert_array_equal(found.tree["state"], jnp.arange(1000.0) + step)
        (tmp_path / f"{step}.npz").unlink()


def test_a_save_that_fails_is_said_and_leaves_the_older_whole(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        with checkpoints.InBackground(tmp_path) as background:
            background.save(1, tree(1))
            background.check(wait=True)
            monkeypatch.setattr(os, "fsync", full)
            background.save(2, tree(2))
    assert [path.name for path in tmp_path.iterdir()] == ["1.npz"]
    assert_equal(checkpoints.restore(tmp_path, tree(0)).tree, tree(1))


@pytest.mark.parametrize("fault", ["flip", "cut", "zero", "empty"])
def test_damage_is_found_and_the_older_checkpoint_used(tmp_path, caplog, fault):
    """Also where the damage hits the format rather than an array."""
    checkpoints.save(tmp_path, 1, tree(1))
    checkpoints.save(tmp_path, 2, tree(2))
    whole = (tmp_path / "2.npz").read_bytes()
    generator, harmless = random.Random(fault), 0
    for _ in range(15):
        position = generator.randrange(len(whole))
        if fault == "flip":
            flipped = bytes([whole[position] ^ (1 << generator.randrange(8))])
            damaged = whole[:position] + flipped + whole[position + 1 :]
        else:
            size = min(64, len(whole) - position)
            rest = b"\0" * size + whole[position + size :]
            damaged = whole[:position] + {"zero": rest}.get(fault, b"")
            damaged = b"" if fault == "empty" else damaged
        (tmp_path / "2.npz").write_bytes(damaged)
        caplog.clear()
        found = checkpoints.restore(tmp_path, tree(0))
        assert_equal(found.tree, tree(found.step))
        harmless += found.step == 2  # Such as a bit of a date.
        warned = "2.npz is damaged" in caplog.text and "step 1 instead" in caplog.text
        assert warned == (found.step == 1)
    assert harmless < 8


def test_checkpoints_of_another_kind_are_refused(tmp_path):
    (tmp_path / "7.tmp").write_text("cut off")
    assert checkpoints.restore(tmp_path, tree(0)) is None
    (tmp_path / "7").mkdir()
    with pytest.raises(ValueError, match="7 is no checkpoint that this version can"):
        checkpoints.restore(tmp_path, tree(0))


def test_damage_to_all_checkpoints_is_said(tmp_path):
    checkpoints.save(tmp_path, 1, tree(1))
    (tmp_path / "1.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint can be read.*1.npz"):
        checkpoints.restore(tmp_path, tree(0))


def test_other_settings_are_listed(tmp_path):
    saved = {"ways": "5", "learner": "maml", "of an older version": "1"}
    checkpoints.save(tmp_path, 1, tree(1), fingerprint=saved)
    now = {"ways": "20", "learner": "maml", "of a newer version": "2"}
    with pytest.raises(ValueError, match="other settings: ways was 5, is 20.$"):
        checkpoints.restore(tmp_path, tree(0), fingerprint=now)
    assert checkpoints.restore(tmp_path, tree(0), fingerprint=saved | {"new": "3"})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"key": None}, "lacks nothing, and has key besides"),
        ({"more": jnp.zeros(2)}, "lacks more, and has nothing besides"),
        ({"half": jnp.zeros(3)}, r"half is bfloat16\[3\] there, and float32\[3\] here"),
        ({"half": jnp.zeros(4, jnp.bfloat16)}, r"bfloat16\[3\] there, and bfloat16\[4"),
        ({"key": jax.random.key(0, impl="rbg")}, "key is key<fry>"),
    ],
)
def test_other_trees_are_refused_by_name(tmp_path, change, message):
    checkpoints.save(tmp_path, 1, tree(1))
    with pytest.raises(ValueError, match=message):
        checkpoints.restore(tmp_path, tree(0) | change)


@pytest.mark.parametrize("num_devices", [1, 2, 3, 4])
def test_any_number_of_devices_restores_what_others_saved(tmp_path, num_devices):
    def placed(number):
        mesh = jax.make_mesh((number,), ("tasks",), devices=jax.devices()[:number])
        return jax.device_put(tree(number), jax.NamedSharding(mesh, jax.P()))

    checkpoints.save(tmp_path, 1, placed(2))
    like = placed(num_devices)
    found = checkpoints.restore(tmp_path, like).tree
    assert_equal(found, tree(2))
    shardings = [jax.tree.map(lambda x: x.sharding, each) for each in (found, like)]
    assert shardings[0] == shardings[1]
