"""How raw examples of a user are read for a learner of some data."""

from experiments.door import Part
from experiments.few_shot.data.encoding import ENCODING, TEXT_LENGTH, VOCABULARY, tokens


def read_images(example, **options):
    """The reader of images as the example is; options as of `data.image_reader`."""
    import metajax as mj

    size, _, channels = example.shape
    return mj.data.image_reader(size, grey=channels == 1, **options)


def _texts(example, *, encoding, vocabulary, text_length):
    import metajax as mj

    # That of the longest, where flags say none.
    length = text_length and example.shape[0]
    return mj.data.text_reader(tokens(encoding, vocabulary), length)


def _arrays(example):
    import metajax as mj

    return mj.data.array_reader(example.shape, example.dtype)


IMAGES = Part("images", read_images)
TEXTS = Part("texts", _texts, (ENCODING, VOCABULARY, TEXT_LENGTH))
ARRAYS = Part("arrays", _arrays)
