"""Texts become the ids they should, the same everywhere, and say what was lost."""

import subprocess
import sys
import unicodedata
import zlib

import numpy as np
import pytest

from metajax.data.class_arrays import from_arrays
from metajax.data.text import from_texts, idf, ngrams, split_words, words


def _id(token, vocabulary=8192):
    return 1 + zlib.crc32(token.encode()) % (vocabulary - 1)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("What 's NEW?", ["what", "s", "new"]),
        ("it\u2019s 5pm", ["it's", "5pm"]),
        (
            "\uff26ull \u00fcber STRASSE stra\u00dfe",
            ["full", "\u00fcber", *["strasse"] * 2],
        ),
        ("'quoted' rock'n'roll", ["quoted", "rock'n'roll"]),
        ("\u4f60\u597d \u4e16\u754c", ["\u4f60\u597d", "\u4e16\u754c"]),
        ("?!  ", []),
    ],
)
def test_words_are_runs_of_letters_in_lower_case(text, expected):
    assert split_words(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "\u0926\u093f\u0928",  # Hindi: a vowel sign that stands before its letter.
        "\u0926\u093e\u0928",
        "\u0995\u09cd\u09b7\u09c1\u09a6\u09cd\u09b0",  # Bangla: letters joined.
        "\u09b0\u200d\u09cd\u09af\u09be\u09ac",  # With a joiner before a mark.
        "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd",  # Tamil: a letter without its vowel.
        "\u0643\u064e\u062a\u064e\u0628\u064e",  # Arabic and Hebrew, vocalised.
        "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
        "\u0e17\u0e35\u0e48",  # Thai: a vowel and a tone above.
        "\u1eb9\u0300k\u1ecd\u0301",  # Yoruba: no letter of its own for both.
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian: a non-joiner.
        "\u0d28\u0d4d\u200d\u0d2e",  # Malayalam: a joiner.
    ],
)
def test_letters_keep_their_marks_and_joiners(text):
    assert split_words(f"{text}, {text}!") == [text, text]
    assert split_words(unicodedata.normalize("NFD", text)) == [text]
    bare = "".join(c for c in text if unicodedata.category(c)[0] == "L")
    assert split_words(bare) == [bare] != [text]


def test_marks_and_joiners_alone_are_no_words():
    assert split_words("\u0301 \u200d \u093f \u2764\ufe0f") == []
    assert split_words("a\u200c b\u200d") == ["a", "b"]


def test_one_spelling_is_one_word_in_every_form():
    forms = {
        f: unicodedata.normalize(f, "\u00c9t\u00e9 \u0130") for f in ("NFC", "NFD")
    }
    assert forms["NFC"] != forms["NFD"]
    (found,) = {tuple(split_words(text)) for text in forms.values()}
    assert found == ("\u00e9t\u00e9", "i\u0307")
    assert split_words("\u03aa\u0301") == split_words("\u0390") == ["\u0390"]


def test_runs_of_characters_keep_letters_whole():
    """Two letters, the first with its vowel sign, have three runs of two with spaces."""
    runs = ["c \u0926\u093f", "c\u0926\u093f\u0928", "c\u0928 "]
    encoded = ngrams(words=(), characters=(2,))("\u0926\u093f\u0928")
    assert encoded == list(map(_id, runs))
    letters = ["c ", "c\u09b0\u200d\u09cd", "c\u09af", "c "]  # With a joiner between.
    encoded = ngrams(words=(), characters=(1,))("\u09b0\u200d\u09cd\u09af")
    assert encoded == list(map(_id, letters))


def test_characters_tell_apart_what_is_written_without_spaces():
    texts = ["\u6211\u8981\u53bb\u5317\u4eac", "\u6211\u8981\u53bb\u4e0a\u6d77"]
    assert len(words()(texts[0])) == 1
    first, second = (set(ngrams(words=(), characters=(1, 2))(text)) for text in texts)
    shared = ["c ", "c\u6211", "c\u8981", "c\u53bb", "c \u6211", "c\u6211\u8981"]
    shared += ["c\u8981\u53bb"]
    assert first & second == set(map(_id, shared)) and first != second


def test_words_are_hashed_in_order():
    assert words()("Play it, play!") == [_id(w) for w in ("play", "it", "play")]
    assert words(7)("play it") == [_id("play", 7), _id("it", 7)]


def test_ngrams_are_words_pairs_and_parts_of_words_with_repeats():
    runs = ["wplay", "wit", "wit", "wplay it", "wit it"]
    runs += ["c pl", "cpla", "clay", "cay ", "c pla", "cplay", "clay "]
    runs += 2 * ["c it", "cit ", "c it "]
    assert sorted(ngrams()("Play it it")) == sorted(map(_id, runs))
    assert ngrams(words=(), characters=(9,))("play it") == []


def test_ids_stay_within_the_vocabulary():
    texts = [f"word{i} and more" for i in range(200)]
    for encode in (words(5), ngrams(5)):
        ids = {i for text in texts for i in encode(text)}
        assert ids == {1, 2, 3, 4}


def test_ids_are_the_same_in_another_process():
    code = "from metajax.data.text import words; print(words()('the same everywhere'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == str(words()("the same everywhere"))


def test_texts_are_padded_at_the_end_and_grouped():
    texts = ["a b", "c", "d e f"]
    data = from_texts(texts, ["y", "x", "y"], encode=words())
    assert data.names == ("x", "y") and data.counts.tolist() == [1, 2]
    assert data.inputs.dtype == np.int32
    expected = [[_id("a"), _id("b"), 0], [_id("c"), 0, 0], [_id(w) for w in "def"]]
    assert data.inputs.tolist() == expected
    wider = from_texts(texts, [1, 0, 1], ["x", "y"], encode=words(), length=5)
    assert wider.names == data.names
    np.testing.assert_array_equal(wider.inputs[:, :3], data.inputs)
    np.testing.assert_array_equal(wider.inputs[:, 3:], 0)


def test_texts_that_are_too_long_are_cut_with_one_warning(caplog):
    data = from_texts(["a b c", "a b", "d e f g"], [0, 1, 0], encode=words(), length=2)
    assert data.inputs.tolist()[2] == [_id("d"), _id("e")]
    (record,) = caplog.records
    message = record.getMessage()
    assert "2 of 3 texts have more than 2 tokens" in message
    assert "the longest has 4" in message and "greater length" in message
    caplog.clear()
    from_texts(["a b", "a b"], [0, 1], encode=words(), length=2)
    assert not caplog.records


@pytest.mark.parametrize(
    "texts, labels, options, message",
    [
        (["a", ""], [0, 1], {}, "text 1, '', has no token: remove it"),
        (["...", "b"], [0, 1], {}, r"text 0, '\.\.\.', has no token"),
        (["a", None], [0, 1], {}, "must be strings: text 1 is None"),
        (["!", "b", "?"], [0, 1, 0], {}, "text 0, '!', has.*text 2, .*: remove them"),
        (["a", "b"], [0], {}, r"one label an example: got inputs \(2, 1\).*\(1,\)"),
        ([], [], {}, r"one label an example: got inputs \(0, 1\)"),
        (["a", "b"], [0, 2], {"names": ["x", "y"]}, "label 2 has no name"),
        (["a"], [0], {"length": 0}, "length must be at least 1: got 0"),
    ],
)
def test_texts_that_make_no_classes_are_refused(texts, labels, options, message):
    with pytest.raises(ValueError, match=message):
        from_texts(texts, labels, encode=words(), **options)


@pytest.mark.parametrize("make", [words, ngrams])
def test_a_vocabulary_of_padding_alone_is_refused(make):
    with pytest.raises(ValueError, match="at least 2 ids.*got 1"):
        make(1)


def test_idf_counts_the_texts_of_these_classes_that_have_an_id():
    texts = ["a b a", "a", "b c", "d a"]
    data = from_texts(texts, [0, 0, 1, 2], encode=words())
    weights = idf(data, 8192)
    assert weights.shape == (8192,) and weights.dtype == np.float32
    number = {"a": 3, "b": 2, "c": 1, "d": 1, "e": 0}
    for word, count in number.items():
        expected = 1 + np.log(5 / (1 + count))
        np.testing.assert_allclose(weights[_id(word)], expected, rtol=1e-6)
    np.testing.assert_allclose(weights[0], 1 + np.log(5))  # Padding is in no text.
    part = idf(data.take([0]), 8192)
    np.testing.assert_allclose(part[_id("b")], 1 + np.log(3 / 2), rtol=1e-6)
    np.testing.assert_allclose(part[_id("c")], 1 + np.log(3), rtol=1e-6)


def test_idf_of_a_smaller_vocabulary_is_refused():
    data = from_texts(["a b c d"], [0], encode=words())
    with pytest.raises(ValueError, match="a vocabulary of 64 ends at 63"):
        idf(data, 64)


def test_rarity_is_for_texts():
    images = from_arrays(np.zeros((4, 3, 3, 1), np.uint8), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="needs texts as int32 ids"):
        idf(images, 8)
