"""What can be chosen about a preparation. Imports nothing heavy: the command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recbole_mambarec_common.errors import UserError

SPLIT_METHODS = ("mmrec", "leave-one-out", "temporal-user", "temporal-global", "none")
#: Largest share of unusable lines of a file that is skipped by default.
MAX_BAD = 0.01


@dataclass
class Options:
    """How to prepare a dataset; every field has an option of the same name on the command line."""

    #: Keep users and items with at least this many interactions, repeated until nothing changes; 1 keeps all.
    k_core: int = 5
    #: Keep interactions with this rating or a better one.
    min_rating: float | None = None
    #: One of :data:`SPLIT_METHODS`.
    split: str = "mmrec"
    #: Of the random split and of TF-IDF's decomposition.
    seed: int = 999
    #: ``tfidf``, ``sentence-transformers:<name or folder>`` or ``none``.
    text_encoder: str = "tfidf"
    #: Width of ``tfidf``.
    text_width: int = 384
    #: Amazon's ``.b`` file of 4096-wide image features, or a folder of one ``.npy`` per item.
    image_features: str | Path | None = None
    #: A folder of images named by item id.
    images: str | Path | None = None
    #: ``timm:MODEL``, ``torchvision:MODEL`` or an :class:`dataset_prep.encoders.image.ImageEncoder`.
    image_encoder: object = None
    #: File of the network's weights.
    image_weights: str | Path | None = None
    #: Texts or images per step of an encoder.
    batch: int = 64
    #: Largest share of unusable lines of a file that is skipped; more is an error.
    max_bad: float = MAX_BAD

    def check(self) -> None:
        """Refuse values that cannot work, before any work is done.

        Raises:
            UserError: a value is out of its range, or two exclude each other.
        """
        if self.split not in SPLIT_METHODS:
            raise UserError(f"unknown split {self.split!r}: choose one of {', '.join(SPLIT_METHODS)}")
        for key, least in (("k_core", 0), ("text_width", 1), ("batch", 1)):
            if getattr(self, key) < least:
                option = f"--{key.replace('_', '-')}"
                raise UserError(f"{option} must be a whole number from {least}, got {getattr(self, key)}")
        if self.image_features is not None and self.images is not None:
            raise UserError("--image-features and --images both provide the images: choose one")
        if self.images is not None and self.image_encoder is None:
            raise UserError("--images needs --image-encoder (timm:MODEL or torchvision:MODEL)")
        if self.text_encoder.startswith("sentence-transformers:"):
            from recbole_mambarec_common.extras import need

            need("sentence_transformers", "features")
        elif self.text_encoder not in ("tfidf", "none"):
            raise UserError(
                f"unknown text encoder {self.text_encoder!r}: choose tfidf, sentence-transformers:<name or folder> "
                "or none"
            )
