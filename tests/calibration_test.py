"""Brier score, calibration error and temperature, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax import calibration, losses

RANDOM = np.random.default_rng(0)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def drawn(examples=200, ways=4, scale=2.0):
    logits = RANDOM.normal(size=(examples, ways)) * scale
    return logits.astype(np.float32), RANDOM.integers(0, ways, examples)


def test_the_brier_score_is_a_squared_distance_and_proper():
    logits, labels = drawn()
    expected = np.square(softmax(logits) - np.eye(4)[labels]).sum(axis=1).mean()
    np.testing.assert_allclose(calibration.brier(logits, labels), expected, rtol=1e-5)
    # Of constant predictions the frequencies themselves score best.
    shares = np.bincount(labels, minlength=4) / len(labels)

    def score(probabilities):
        return calibration.brier(jnp.tile(jnp.log(probabilities), (200, 1)), labels)

    for other in RANDOM.dirichlet(np.ones(4), 5):
        assert score(shares) < score(other)


def test_the_calibration_error_is_that_of_each_bin_by_hand():
    logits, labels = drawn()
    probabilities = softmax(logits.astype(np.float64))
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    expected = 0
    for low in np.arange(15) / 15:
        within = (confidence >= low) & (confidence < low + 1 / 15)
        if within.any():
            gap = abs(right[within].mean() - confidence[within].mean())
            expected += within.mean() * gap
    sums = calibration.reliability(logits, labels)
    np.testing.assert_allclose(calibration.calibration_error(sums), expected, rtol=1e-4)
    halves = [calibration.reliability(logits[i::2], labels[i::2]) for i in (0, 1)]
    np.testing.assert_allclose(sum(halves), sums, rtol=1e-5)  # They add up over tasks.


def test_what_is_sure_and_right_half_the_time_is_off_by_half():
    logits = np.tile([[50.0, 0.0]], (10, 1)).astype(np.float32)
    sums = calibration.reliability(logits, np.arange(10) % 2)
    assert calibration.calibration_error(sums) == 0.5
    assert np.isnan(calibration.calibration_error(np.zeros((3, 15))))


@pytest.mark.parametrize("name", ["brier", "reliability", "by_temperature"])
def test_padding_counts_for_nothing(name):
    logits, labels = drawn(6)
    function = getattr(calibration, name)
    padded = np.concatenate([logits, np.full((2, 4), np.nan, np.float32)])
    padded_labels, mask = np.append(labels, [-1, 9]), np.arange(8) < 6
    found = function(padded, padded_labels, mask)
    np.testing.assert_allclose(found, function(logits, labels), rtol=1e-5)


def test_the_temperature_undoes_a_scale():
    logits = RANDOM.normal(size=(4000, 3)).astype(np.float32)
    labels = jax.random.categorical(jax.random.key(0), logits)
    for scale in (0.5, 1.0, 5.0):
        each = calibration.by_temperature(logits * scale, labels)
        found = calibration.best_temperature(each[None])
        np.testing.assert_allclose(found, scale, rtol=0.1)
        place = list(calibration.TEMPERATURES).index(np.float32(found))
        at = losses.cross_entropy(logits * scale / found, labels)
        np.testing.assert_allclose(each[place], at, rtol=1e-5)
    with pytest.raises(ValueError, match="No temperature"):
        calibration.best_temperature(np.full((2, 201), np.nan))
