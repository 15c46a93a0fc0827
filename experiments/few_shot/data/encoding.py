"""How texts become ids of tokens: the flags that text data and models share."""

from experiments.few_shot.flags import integer, one_of

ENCODING = one_of(
    "encoding",
    "words",
    ["words", "ngrams"],
    "What texts become: their words in order, or all n-grams they contain, for bags.",
)
VOCABULARY = integer("vocabulary", 8192, "Ids that tokens of text are hashed to.", 2)
TEXT_LENGTH = integer(
    "text_length",
    32,
    "Tokens kept of a text; 256 are enough for the n-grams of CLINC150.",
    1,
)


# What the flags above are where a frozen encoder reads texts as they are.
WHOLE = {ENCODING.name: "characters", TEXT_LENGTH.name: None}


def tokens(encoding: str, vocabulary: int):
    """From texts to ids."""
    import metajax as mj

    if encoding == "characters":
        return mj.data.characters
    return {"words": mj.data.words, "ngrams": mj.data.ngrams}[encoding](vocabulary)
