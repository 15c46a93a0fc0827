"""Examples come in unchanged or are refused by name, and are dealt out by class."""

import numpy as np
import pytest

from metajax.data.class_arrays import by_fraction, by_name, from_arrays


def test_from_arrays_groups_examples_by_sorted_label():
    data = from_arrays(np.arange(5.0)[:, None], ["b", "a", "c", "a", "b"])
    assert data.names == ("a", "b", "c") and data.num_classes == 3
    assert data.counts.tolist() == [2, 2, 1]
    groups = [row[:n].tolist() for row, n in zip(data.rows, data.counts)]
    assert groups == [[1, 3], [0, 4], [2]]


def test_integer_labels_index_the_names_and_need_not_be_contiguous_without():
    inputs = np.zeros((4, 1))
    assert from_arrays(inputs, [1, 0, 1, 1], ["x", "y"]).names == ("x", "y")
    assert from_arrays(inputs, [7, 3, 7, 7]).names == ("3", "7")


@pytest.mark.parametrize(
    "inputs, labels, names, message",
    [
        (np.zeros((3, 1)), [0, 1], None, r"got inputs \(3, 1\) and labels \(2,\)"),
        (np.zeros((2, 1)), [[0], [1]], None, r"labels \(2, 1\)"),
        (np.zeros((0, 1)), [], None, r"labels \(0,\)"),
        (np.array([[0.0], [np.nan]]), [0, 1], None, "NaN, infinite"),
        (np.array([[0.0], [np.inf]]), [0, 1], None, "NaN, infinite"),
        (np.zeros((2, 1)), [0, 2], ["a", "b"], "label 2 has no name; 2 were given"),
        (np.zeros((2, 1)), [0, 2], ["a", "b", "c", "d"], "no example of class b, d"),
    ],
)
def test_arrays_that_make_no_classes_are_refused(inputs, labels, names, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(inputs, labels, names)


def test_groups_are_the_first_part_of_names():
    names = ["b/c1", "a/c1/rot090", "b/c2", "plain"]
    data = from_arrays(np.zeros((4, 1)), np.arange(4), names)
    assert data.groups == ("b", "a", "b", "plain")
    assert data.take([1, 0]).groups == ("a", "b")


def test_take_keeps_the_given_order():
    classes = np.array([0, 1, 3, 0, 3, 2, 3])
    part = from_arrays(np.zeros((7, 1)), classes).take([3, 0])
    assert part.names == ("3", "0") and part.counts.tolist() == [3, 2]
    assert set(part.rows[1, :2].tolist()) == set(np.flatnonzero(classes == 0))


def _many_classes(num=100):
    names = [f"c{i:03}" for i in range(num)]
    return from_arrays(np.arange(num, dtype=np.int32)[:, None], np.arange(num), names)


@pytest.mark.parametrize(
    "num, fractions, sizes",
    [
        (100, [0.64, 0.16, 0.2], [64, 16, 20]),
        (10, [1 / 3, 1 / 3, 1 / 3], [3, 4, 3]),
        (7, [0.5, 0.5], [4, 3]),
        (5, [1.0], [5]),
    ],
)
def test_by_fraction_deals_every_class_to_one_part(num, fractions, sizes):
    data = _many_classes(num)
    parts = by_fraction(data, fractions)
    assert [part.num_classes for part in parts] == sizes
    dealt = [name for part in parts for name in part.names]
    assert sorted(dealt) == list(data.names)
    for part in parts:  # The examples are those of the named classes.
        examples = part.inputs[part.rows[:, 0], 0]
        assert [f"c{i:03}" for i in examples.tolist()] == list(part.names)


def test_by_fraction_is_fixed_by_its_seed():
    def names(seed):
        return [part.names for part in by_fraction(_many_classes(), [0.8, 0.2], seed)]

    assert names(0) == names(0) != names(1)
    first_half = tuple(f"c{i:03}" for i in range(80))
    assert names(0)[0] != first_half and names(1)[0] != first_half


def test_the_parts_of_seed_zero_are_the_same_on_every_machine():
    part = by_fraction(_many_classes(10), [0.7, 0.3])[1]
    assert part.names == ("c000", "c001", "c008")


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [0.7, 0.7], [1.2, -0.2], [1.0, 0.0]])
def test_fractions_that_do_not_divide_the_whole_are_refused(fractions):
    with pytest.raises(ValueError, match="positive and sum to 1: got"):
        by_fraction(_many_classes(), fractions)


def test_fractions_that_leave_a_part_empty_are_refused():
    with pytest.raises(ValueError, match="2 classes are too few for the fractions"):
        by_fraction(_many_classes(2), [0.8, 0.1, 0.1])


def test_by_name_takes_a_list_or_a_file_of_names_in_their_order(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("c007\n\nc002\n")
    for names in (["c007", "c002"], file, str(file)):
        part = by_name(_many_classes(), names)
        assert part.names == ("c007", "c002")
        assert part.inputs[part.rows[:, 0], 0].tolist() == [7, 2]


def test_unknown_names_are_refused_with_some_that_are_known():
    with pytest.raises(ValueError, match=r"class b, z: the 2 classes.*are a, c\."):
        by_name(from_arrays(np.zeros((2, 1)), ["a", "c"]), ["a", "b", "z"])
    with pytest.raises(ValueError, match=r"the 100 classes .*c008, c009 \.\.\.\."):
        by_name(_many_classes(), ["nobody"])


def test_a_class_named_twice_is_refused():
    with pytest.raises(ValueError, match="named twice"):
        by_name(_many_classes(), ["c001", "c002", "c001"])


# Values as they are, or a refusal.


@pytest.mark.parametrize(
    "values",
    [
        1.7e9 + np.arange(60) / 2,  # Seconds.
        2459000.5 + np.arange(60) / 1000,  # Julian days.
        123456789.0 + np.arange(60),  # Numbers of customers.
        np.repeat([5e5, 5e5 + 1e-3], 30),  # Metres of a map.
    ],
)
def test_values_that_float32_makes_one_are_refused(values):
    labels = np.arange(60) % 2
    features = np.stack([np.linspace(-1e12, 1e12, 60), values, np.zeros(60)], axis=1)
    for inputs in (values, features, features[:, None].repeat(2, axis=1)):
        with pytest.raises(
            ValueError, match="inputs holds different values that are one"
        ):
            from_arrays(inputs, labels)
    nearer = values - values.min()  # What the message asks for.
    kept = np.asarray(from_arrays(nearer[:, None], labels).inputs)
    np.testing.assert_allclose(kept[:, 0], nearer, rtol=1e-7)


def test_values_that_float32_only_rounds_are_taken():
    random = np.random.default_rng(0)
    inputs = random.normal(size=(5000, 4)) * [1e-9, 1, 1e9, 1] + [0, 30, 0, 0]
    inputs[:, 3] = 0.1 + random.integers(0, 3, 5000) * 1e-17  # Noise of float64 itself.
    inputs[:, 2] = (
        1e6 + random.integers(0, 9, 5000) * 0.7
    )  # Still nine different values.
    data = from_arrays(inputs, np.arange(5000) % 2)
    assert data.inputs.dtype == np.float32
    np.testing.assert_allclose(data.inputs, inputs, rtol=1e-7)


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2", ">i4", ">i8", ">u4"])
def test_either_byte_order_gives_the_same_values(dtype):
    inputs = np.array([[1, 2], [30000, 5]], dtype)
    data = from_arrays(inputs, np.array([7, 3], ">i4"))
    np.testing.assert_array_equal(data.inputs, inputs)
    assert data.names == ("3", "7") and data.rows.tolist() == [[1], [0]]


@pytest.mark.parametrize(
    "labels, names",
    [
        ([b"cat", b"dog", b"cat"], ("cat", "dog")),
        (np.array([b"cat", b"dog", b"cat"]), ("cat", "dog")),
        (np.array(["cat", "dog", "cat"], object), ("cat", "dog")),
        ([" cat", "dog\n", "cat\u00a0"], ("cat", "dog")),
        (["caf\u00e9", "dog", "cafe\u0301"], ("caf\u00e9", "dog")),
        ([2.0, 10.0, 2.0], ("2", "10")),
        (np.array([2, 10, 2], object), ("2", "10")),
        ([2**40, 2**60, 2**40], (str(2**40), str(2**60))),
        (np.array([0, 2**63, 0], np.uint64), ("0", str(2**63))),
    ],
)
def test_labels_are_what_they_say_in_any_type(labels, names):
    data = from_arrays(np.zeros((3, 1)), labels)
    assert data.names == names and data.rows.tolist() == [[0, 2], [1, 0]]
    assert by_name(data, [f"{names[1]} "]).names == names[1:]


def test_names_may_be_bytes_and_labels_of_any_width():
    names = np.array([b"cat", b" dog"])
    for dtype in (np.uint64, np.int8, ">i8", float):
        data = from_arrays(np.zeros((3, 1)), np.array([1, 0, 1], dtype), names)
        assert data.names == ("cat", "dog") and data.counts.tolist() == [1, 2]


@pytest.mark.parametrize(
    "labels, names, message",
    [
        ([0.0, np.nan, 1.0], None, "labels hold nan, which is no class"),
        ([0.0, 0.5, 1.0], None, "labels hold 0.5, which is no class"),
        ([0.0, np.inf, 1.0], ["a", "b"], "labels hold inf"),
        (["a", np.nan, "b"], None, "labels are words, but for one, nan"),
        (np.array(["a", None, "b"], object), None, "but for one, None"),
        ([None, None, None], None, "integers or words: got object"),
        ([1j, 2j, 1j], None, "integers or words: got complex128"),
        (["a", " ", "b"], None, "A class must have a name: got ' '"),
        (
            np.ma.array([0, 1, 1], mask=[0, 1, 0]),
            None,
            "labels is an array with masked",
        ),
        ([0, 10**12, 1], ["a", "b"], "label 1000000000000 has no name"),
        ([0, -1, 1], ["a", "b"], "from 0: got int64, such as -1"),
        ([0, 1, 1], {1: "b", 0: "a"}, "list in the order of the labels: got dict"),
        ([0, 1, 1], {"a", "b"}, "list in the order of the labels: got set"),
        ([0, 1, 1], ["caf\u00e9", "cafe\u0301"], "two classes have the same name"),
    ],
)
def test_labels_that_would_be_changed_are_refused(labels, names, message):
    with pytest.raises(ValueError, match=message) as error:
        from_arrays(np.zeros((3, 1)), labels, names)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "inputs, message",
    [
        (np.ma.array(np.zeros((2, 2)), mask=[[0, 0], [0, 1]]), "inputs is .* masked"),
        (np.array([[0], [2**31]]), "inputs holds 2147483648, too large for int32"),
        (np.array([[0], [2**32]], np.uint64), "4294967296, too large for uint32"),
        (np.array([[0.0], [1e39]]), "inputs holds 1e.39, too large for float32"),
        (np.array([["1"], ["2"]]), "inputs must be numbers: got <U1"),
        (np.array([[1j], [2]]), "NaN, infinite or complex"),
        (np.zeros((2, 3, 8, 8)), r"\(2, 3, 8, 8\) have channels first.*moveaxis"),
        (np.zeros((2, 1, 8, 8), np.uint8), r"\(2, 1, 8, 8\) have channels first"),
        (np.zeros((2, 8, 8, 1), np.uint16), "inputs are uint16.*scale images to uint8"),
        (np.full((2, 8, 8, 3), 254.5), "images of float32 from 254.5 to 254.5: make"),
        (np.full((2, 8, 8, 1), 4095.0), "images of float32 from 4095.0 to 4095.0"),
        (np.full((2, 8, 8, 1), 4095), "images of int32 from 4095 to 4095"),
    ],
)
def test_inputs_that_would_be_changed_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message) as error:
        from_arrays(inputs, [0, 1])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16])
def test_whole_pixels_of_other_types_are_scaled_like_those_of_uint8(dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
    data = from_arrays(pixels.astype(dtype), [0, 0, 1, 1])
    assert data.inputs.dtype == np.uint8
    np.testing.assert_array_equal(data.inputs, pixels)


@pytest.mark.parametrize(
    "inputs",
    [
        np.random.default_rng(0).random((2, 6, 6, 3), np.float32),
        np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype(np.float32) * 200,
        np.full((2, 6, 6, 64), 255, np.float32),  # Features of another network.
        np.full((2, 255), 255, np.float32),
        np.ma.array(np.ones((2, 3), np.float32)),
    ],
)
def test_inputs_that_are_no_pixels_are_untouched(inputs):
    data = from_arrays(inputs, [0, 1])
    assert data.inputs.dtype == np.float32
    np.testing.assert_array_equal(data.inputs, inputs)


# The digest.


def _digests(inputs, labels=(0, 1, 1), names=("a", "b")):
    return from_arrays(inputs, list(labels), names).digest


def test_equal_data_have_one_digest():
    inputs = np.arange(12, dtype=np.uint8).reshape(3, 4)
    digest = _digests(inputs)
    assert len(digest) == 16 and int(digest, 16) >= 0
    assert digest == _digests(np.asfortranarray(inputs))
    # The same on every machine: it is kept in files.
    assert digest == "233c3fb2ac8f1e49"


def test_any_change_gives_another_digest():
    inputs = np.arange(12, dtype=np.uint8).reshape(3, 4)
    other = inputs.copy()
    other[2, 3] += 1
    data = from_arrays(inputs, [0, 1, 1], ["a", "b"])
    digests = [
        data.digest,
        data.take([1, 0]).digest,
        data.take([0]).digest,
        _digests(other),
        _digests(inputs.astype(np.int32)),
        _digests(inputs.view(np.int8)),
        _digests(inputs.reshape(3, 2, 2)),
        _digests(inputs, (0, 0, 1)),
        _digests(inputs, names=("a", "c")),
        _digests(inputs, names=("a,b", "c")),
    ]
    assert len(set(digests)) == len(digests)
