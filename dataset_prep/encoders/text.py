"""Texts to vectors.

``tfidf`` needs no download: TF-IDF of words, reduced by a truncated singular value decomposition (LSA).
``sentence-transformers:NAME`` runs a sentence encoder, a published model or one in a local folder; the papers use
``sentence-transformers:all-MiniLM-L6-v2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need

from ..progress import bar
from ..stages import Stages, fingerprint, in_pieces

#: Number of words that TF-IDF counts, and of texts to which its decomposition is fitted.
MAX_WORDS, FIT_ON = 30_000, 20_000
#: Texts per saved piece, which is the most that an interruption loses.
PIECE = 4096


def encode_texts(
    texts: Sequence[str], spec: str, stages: Stages, *, width: int = 384, seed: int = 0, batch: int = 64
) -> tuple[np.ndarray, str]:
    """One row per text, NaN if there is no text or nothing in it that the encoder knows.

    Args:
        texts: n texts, "" for items without one.
        spec: ``tfidf`` or ``sentence-transformers:<name or folder>``.
        stages: where finished pieces are kept, so that the sentence encoder can resume after an interruption.
        width: width of ``tfidf``; smaller if there are fewer texts or words.
        seed: seed of the decomposition of ``tfidf``.
        batch: texts per step of the sentence encoder.

    Returns:
        (n, d) float32, and a line for the card.

    Raises:
        UserError: the encoder is unknown, its package or model is missing, or there is no text at all.
    """
    kind, _, model = spec.partition(":")
    rows = np.array([n for n, text in enumerate(texts) if text], dtype=np.int64)
    if not len(rows):
        raise UserError("no item has a text, so there is nothing to encode: choose --text-encoder none")
    given = [texts[row] for row in rows]
    if spec == "tfidf":
        vectors, made_by = tfidf(given, width, seed)
    elif kind == "sentence-transformers" and model:
        vectors, made_by = _sentences(given, model, stages, batch)
    else:
        raise UserError(f"unknown text encoder {spec!r}: choose tfidf or sentence-transformers:<name or folder>")
    array = np.full((len(texts), vectors.shape[1]), np.nan, dtype=np.float32)
    array[rows] = vectors
    return array, made_by


def tfidf(texts: Sequence[str], width: int, seed: int) -> tuple[np.ndarray, str]:
    """Unit rows (n, at most ``width``) float32; NaN rows for texts without a known word.

    The :data:`MAX_WORDS` most frequent words are counted, and the decomposition is fitted to at most :data:`FIT_ON`
    random texts, so that its time and memory do not grow with the catalogue.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    vectorizer = TfidfVectorizer(sublinear_tf=True, strip_accents="unicode", max_features=MAX_WORDS, dtype=np.float32)
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError:  # sklearn's "empty vocabulary"
        raise UserError("the texts of the items hold no words, so TF-IDF has nothing to count") from None
    sample = weights
    if len(texts) > FIT_ON:
        sample = weights[np.sort(np.random.default_rng(seed).choice(len(texts), FIT_ON, replace=False))]
    width = min(width, *sample.shape)
    if weights.shape[1] > 1:
        svd = TruncatedSVD(width, algorithm="randomized", n_iter=4, random_state=seed)
        # with one thread, sums are taken in the same order and give the same bytes on any number of cores; on a busy
        # machine it was also five times as fast as two threads that wait for each other
        with threadpool_limits(1, "blas"):
            reduced = svd.fit(sample).transform(weights)
    else:
        reduced = weights.toarray()  # one word: nothing to reduce
    # rows of weights have norm 1; all that the reduction leaves of a text may be rounding errors
    norm = np.linalg.norm(reduced, axis=1, keepdims=True)
    unit = np.where(norm > 1e-4, reduced / np.maximum(norm, 1e-4), np.nan)
    return unit.astype(np.float32), f"tfidf (svd {unit.shape[1]}, seed {seed})"


def _sentences(texts: Sequence[str], name: str, stages: Stages, batch: int) -> tuple[np.ndarray, str]:
    module = need("sentence_transformers", "features")
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = module.SentenceTransformer(name, device=device)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the sentence encoder {name} could not be loaded ({reason[:200]}): give the name of a published "
            "model, with access to it, or a local folder"
        ) from None

    label = Path(name).name
    folder = stages.open_folder("text", fingerprint("sentences", name, list(texts)))
    pieces = []
    with bar(f"texts through {label}", len(texts), "text") as shown:

        def encode(start: int, stop: int) -> np.ndarray:
            rows = model.encode(
                list(texts[start:stop]), batch_size=batch, show_progress_bar=False, convert_to_numpy=True
            )
            return np.asarray(rows, dtype=np.float32)

        for start, rows in in_pieces(folder, len(texts), PIECE, encode):
            pieces.append(rows)
            shown.update(start + len(rows) - shown.n)
    return np.concatenate(pieces), f"sentence-transformers:{label}"
