"""Texts to vectors.

``tfidf`` needs no download: TF-IDF of words, reduced by a truncated singular value decomposition (LSA).
``sentence-transformers:NAME`` runs a sentence encoder, by the name of a published model or from a local
folder; ``sentence-transformers:all-MiniLM-L6-v2`` is what the papers use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_mambarec_common.errors import UserError
from recbole_mambarec_common.extras import need

from ..progress import bar
from ..stages import Stages, fingerprint, in_pieces

#: Words that TF-IDF counts, and texts that its decomposition looks at.
MAX_WORDS, FIT_ON = 30_000, 20_000
#: Texts per saved piece: what an interruption may cost.
PIECE = 4096


def encode_texts(
    texts: Sequence[str], spec: str, stages: Stages, *, width: int = 384, seed: int = 0, batch: int = 64
) -> tuple[np.ndarray, str]:
    """One row per text, NaN where there is no text (or nothing in it that the encoder knows).

    Args:
        texts: n texts, "" where there is none.
        spec: ``tfidf`` or ``sentence-transformers:<name or folder>``.
        stages: where finished pieces are kept; the sentence encoder goes on where it was interrupted.
        width: of ``tfidf``; less when there are fewer texts or words.
        seed: of ``tfidf``'s decomposition.
        batch: texts per step of the sentence encoder.

    Returns:
        (n, d) float32, and a line for the card.

    Raises:
        UserError: unknown encoder, missing package or model, or not a single text.
    """
    kind, _, model = spec.partition(":")
    rows = np.array([n for n, text in enumerate(texts) if text], dtype=np.int64)
    if not len(rows):
        raise UserError("no item has a text, so there is nothing to encode; choose --text-encoder none")
    given = [texts[row] for row in rows]
    if spec == "tfidf":
        vectors, made_by = tfidf(given, width, seed)
    elif kind == "sentence-transformers" and model:
        vectors, made_by = _sentences(given, model, stages, batch)
    else:
        raise UserError(f"unknown text encoder {spec!r}; there are tfidf and sentence-transformers:<name or folder>")
    array = np.full((len(texts), vectors.shape[1]), np.nan, dtype=np.float32)
    array[rows] = vectors
    return array, made_by


def tfidf(texts: Sequence[str], width: int, seed: int) -> tuple[np.ndarray, str]:
    """Unit rows (n, at most ``width``) float32; NaN rows for texts without a known word.

    The most frequent :data:`MAX_WORDS` words count, and the decomposition is that of at most :data:`FIT_ON`
    texts drawn at random, so that its time and memory do not grow with the catalogue.
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
        # one thread: sums in the same order, so the same bytes, however many cores there are; and on a busy
        # machine it was five times as fast as two threads that wait for each other
        with threadpool_limits(1, "blas"):
            reduced = svd.fit(sample).transform(weights)
    else:
        reduced = weights.toarray()  # one word: nothing to reduce
    # the rows of weights have norm 1; what is left of a text after the reduction may be rounding errors only
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
