"""Image files to vectors.

``timm:MODEL`` and ``torchvision:MODEL`` name a network, which is used without its classifier and with weights from a
local file; ``torchvision:vgg16`` gives the 4096-wide features of the papers. Any other callable on a batch of images
can be wrapped in an :class:`ImageEncoder`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import torch

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need

from ..match import join
from ..progress import bar
from ..skips import Skips
from ..stages import Stages, fingerprint, in_pieces
from ..tokens import file_stem

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
#: An image with more pixels is not decoded: it would exhaust the memory, by accident or on purpose.
MAX_PIXELS = 100_000_000
#: Images per saved piece, which is the most that an interruption loses.
PIECE = 1024

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # those of ImageNet, which most networks expect


@dataclass
class ImageEncoder:
    """A network and the images that it expects.

    Attributes:
        name: for the card; also part of the fingerprint of finished pieces.
        network: (b, 3, size, size) float32 -> (b, d), on ``device``.
        size: height and width in pixels.
        mean, std: per channel, of values from 0 to 1.
        crop: the side of the central square that is used, as a share of the shorter side of the image.
        device: where the network is.
    """

    name: str
    network: Callable[[torch.Tensor], torch.Tensor]
    size: int = 224
    mean: Sequence[float] = _MEAN
    std: Sequence[float] = _STD
    crop: float = 0.875
    device: str = "cpu"

    def load(self, path: Path) -> np.ndarray:
        """One image as (3, size, size) float32, ready for the network.

        Raises:
            OSError, ValueError, SyntaxError: it cannot be read (pillow raises these for broken files).
        """
        image_module = need("PIL.Image", "features")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd palettes and the like, which do not matter here
            with image_module.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError("too many pixels")
                # a hint that lets the JPEG decoder shrink while it reads
                image.draft("RGB", (2 * self.size, 2 * self.size))
                picture = image.convert("RGBA" if "transparency" in image.info else "RGB").convert("RGB")
        side = round(min(picture.size) * self.crop) or 1
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        picture = picture.resize((self.size, self.size), image_module.Resampling.BICUBIC, box=box)
        values = np.asarray(picture, dtype=np.float32) / 255
        values = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1))

    def encode(self, batch: np.ndarray) -> np.ndarray:
        """(b, 3, size, size) -> (b, d) float32."""
        with torch.inference_mode():
            out = self.network(torch.from_numpy(batch).to(self.device))
        return out.flatten(1).float().cpu().numpy()


def find_images(folder: Path, item_ids: Sequence[str]) -> tuple[list[Path | None], str | None]:
    """(the file of each item, or None; a sentence for the user if file names and ids are written differently).

    Files have the names that :func:`dataset_prep.tokens.file_stem` gives.

    Raises:
        UserError: no such folder, or images of under 1 % of the items.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    found: dict[str, Path] = {}
    rank = {ending: n for n, ending in enumerate(ENDINGS)}
    for path in sorted(folder.iterdir()):
        ending = path.suffix.lower()
        if ending in rank and path.is_file():
            best = found.get(path.stem)
            if best is None or rank[ending] < rank[best.suffix.lower()]:
                found[path.stem] = path
    if not found:
        raise UserError(f"{folder} holds no image ({', '.join(ENDINGS)})")
    none = f"it holds no image named after an item (such as {file_stem(item_ids[0])}.jpg)"
    names, note = join(item_ids, map(unquote, found), f"the folder {folder.name}", none)
    return [found.get(file_stem(name)) for name in names], note


def encode_images(
    folder: str | Path, item_ids: Sequence[str], encoder: ImageEncoder, stages: Stages, *, batch: int = 32
) -> tuple[np.ndarray, Skips]:
    """One row per item, NaN if there is no image or it cannot be read.

    Returns:
        (n, d) float32, and the number of broken images.

    Raises:
        UserError: no such folder, images in it for under 1 % of the items, or every image is broken.
    """
    folder = Path(folder)
    files, note = find_images(folder, item_ids)
    rows = [row for row, file in enumerate(files) if file is not None]
    described = [[files[row].name, files[row].stat().st_size, files[row].stat().st_mtime_ns] for row in rows]
    pieces_folder = stages.open_folder("images", fingerprint(encoder.name, encoder.size, described))

    def encode(start: int, stop: int) -> np.ndarray:
        parts = []
        for first in range(start, stop, batch):
            parts.extend(_encode_batch([files[row] for row in rows[first : min(first + batch, stop)]], encoder))
        width = max(map(len, parts))
        return np.stack([part if len(part) else np.full(width, np.nan, np.float32) for part in parts])

    skips = Skips("images")
    skips.lines = len(rows)
    skips.notes += [f"{folder.name}: {note}"] if note else []
    pieces = []
    with bar(f"images through {encoder.name}", len(rows), "image") as shown:
        for start, part in in_pieces(pieces_folder, len(rows), PIECE, encode):
            pieces.append(part)
            shown.update(start + len(part) - shown.n)
    width = max(part.shape[1] for part in pieces)
    array = np.full((len(item_ids), width), np.nan, dtype=np.float32)
    for start, part in zip(range(0, len(rows), PIECE), pieces):
        if part.shape[1] == width:  # a piece of nothing but broken images has no width
            array[rows[start : start + len(part)]] = part
    broken = len(rows) - int(np.count_nonzero(~np.isnan(array).all(axis=1)))
    skips.add("broken image", broken)
    if broken == len(rows):
        raise UserError(f"none of the {broken} images in {folder} can be read")
    return array, skips


def _encode_batch(files: list[Path], encoder: ImageEncoder) -> list[np.ndarray]:
    """One vector per file, of length 0 if the image is broken."""
    vectors = [np.zeros(0, dtype=np.float32)] * len(files)
    good, pictures = [], []
    for n, file in enumerate(files):
        try:
            pictures.append(encoder.load(file))
            good.append(n)
        except (OSError, ValueError, SyntaxError, EOFError, MemoryError, IndexError, OverflowError):
            continue
        except Exception as error:  # pillow's plugins also raise struct.error, zlib.error and exceptions of their own
            if type(error).__module__.partition(".")[0] not in ("PIL", "struct", "zlib"):
                raise
    if good:
        for n, vector in zip(good, encoder.encode(np.stack(pictures))):
            vectors[n] = vector
    return vectors


def load_encoder(spec: str, weights: str | Path | None) -> ImageEncoder:
    """The network named by ``timm:MODEL`` or ``torchvision:MODEL`` with ``weights`` from a local file.

    Args:
        weights: a file of weights (``.pth``, ``.safetensors``), or ``pretrained`` to let timm or
            torchvision fetch theirs.

    Raises:
        UserError: unknown kind or model, missing package, weights that do not fit or are not given.
    """
    kind, _, name = spec.partition(":")
    if kind not in ("timm", "torchvision") or not name:
        raise UserError(f"unknown image encoder {spec!r}: choose timm:MODEL or torchvision:MODEL")
    if weights is None:
        raise UserError("give --image-weights FILE (or 'pretrained'): an untrained network recognises nothing")
    fetch = str(weights) == "pretrained"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    module = need("timm" if kind == "timm" else "torchvision.models", "features")
    label = spec if fetch else f"{spec} ({Path(weights).name})"
    try:
        if kind == "timm":
            network = module.create_model(name, pretrained=fetch)
        else:
            network = module.get_model(name, weights="DEFAULT" if fetch else None)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise UserError(f"{spec} could not be built ({_first_line(error)})") from None
    if not fetch:
        _load_weights(network, Path(weights))
    encoder = ImageEncoder(label, _without_classifier(network, kind), device=device)
    if kind == "timm":
        settings = getattr(network, "pretrained_cfg", None) or {}
        encoder.size = settings.get("input_size", (3, 224, 224))[-1]
        encoder.mean, encoder.std = settings.get("mean", _MEAN), settings.get("std", _STD)
        encoder.crop = settings.get("crop_pct") or encoder.crop
    network.eval().to(device)
    return encoder


def _without_classifier(network: Any, kind: str) -> Callable[[torch.Tensor], torch.Tensor]:
    if kind == "timm":
        return lambda images: network.forward_head(network.forward_features(images), pre_logits=True)
    # the classifier of torchvision's networks is one of these, or its last layer
    for attribute in ("fc", "classifier", "head", "heads"):
        layer = getattr(network, attribute, None)
        if isinstance(layer, torch.nn.Sequential) and len(layer):
            layer[-1] = torch.nn.Identity()
            return network
        if isinstance(layer, torch.nn.Linear):
            setattr(network, attribute, torch.nn.Identity())
            return network
    raise UserError(f"{type(network).__name__} has no classifier that could be removed")


def _load_weights(network: torch.nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            state = need("safetensors.torch", "features").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        network.load_state_dict(state)
    except Exception as error:  # torch, pickle and safetensors raise exceptions of their own
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path.name} does not hold the weights of this network ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
