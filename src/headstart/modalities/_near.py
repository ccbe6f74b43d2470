"""Near duplicates among thumbnails: the same picture saved again, resized or made a little brighter.

Two thumbnails are compared by the correlation of their fine structure (each pixel minus its 5 × 5
neighbourhood), which re-encoding, resizing and brightness hardly touch: on photographs, textures and X-rays
copies correlate above 0.98 and different pictures below 0.90; the two most alike of 5,000 handwritten digits
reach 0.96, where the copies of tiny pictures begin. Candidates come from hash bits in bands: two rows are
compared only where a whole band is equal, so nothing of size n × n is held.
"""

from __future__ import annotations

import numpy as np

from headstart.modalities._base import Array

Pair = tuple[int, int]

_ALIKE = 0.965  # correlation of fine structure, grey for candidates, colour to confirm
_WHOLE_ALIKE = 0.99  # correlation of the thumbnails themselves
_GAIN = 1.5  # contrast may differ by this factor
_LEVEL = 40.0  # … and the mean of a channel by this many grey levels
_FLAT = 1.0  # fine structure (grey levels, rms) below which only equality counts
_BANDS, _BAND_BITS = 24, 16
_NEIGHBOURS = 12  # of a crowded band, how many each row is compared with
_GREY = np.array([0.299, 0.587, 0.114], np.float32)
_CHUNK = 4096


def near_duplicates(plain: Array, side: int) -> list[Pair]:
    """Pairs (i < j) of rows of ``plain`` uint8 [n, side · side · 3] that show the same picture.

    Of a larger cluster enough pairs are given to connect it, not every pair.
    """
    first, pairs = _equal_rows(plain)
    if len(first) < 2:
        return pairs
    signature, contrast = _signatures(plain, first, side)
    lively = np.flatnonzero(contrast > _FLAT)
    if len(lively) < 2:
        return pairs
    candidates = first[lively[_candidates(signature[lively])]]
    for start in range(0, len(candidates), _CHUNK):
        part = candidates[start : start + _CHUNK]
        pairs += [(int(min(p)), int(max(p))) for p in part[_confirmed(plain, part, side)]]
    return sorted(set(pairs))


def _equal_rows(plain: Array) -> tuple[Array, list[Pair]]:
    """The first row of each distinct thumbnail, and (first, later) pairs of equal ones."""
    seen: dict[bytes, int] = {}
    pairs: list[Pair] = []
    for row, thumbnail in enumerate(plain):
        earlier = seen.setdefault(thumbnail.tobytes(), row)
        if earlier != row:
            pairs.append((earlier, row))
    return np.fromiter(seen.values(), np.int64, len(seen)), pairs


def _fine(pictures: Array) -> Array:
    """float32 [n, side, side, …] minus the mean of each 5 × 5 neighbourhood."""
    from scipy.ndimage import uniform_filter

    size = (0, 5, 5) + (0,) * (pictures.ndim - 3)
    fine: Array = pictures - uniform_filter(pictures, size=size, mode="nearest")
    return fine


def _signatures(plain: Array, rows: Array, side: int) -> tuple[Array, Array]:
    """Unit vectors float32 [n, side · side] of grey fine structure, and its rms in grey levels [n]."""
    signature = np.empty((len(rows), side * side), np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = plain[rows[start : start + _CHUNK]].reshape(-1, side, side, 3).astype(np.float32)
        signature[start : start + _CHUNK] = _fine(part @ _GREY).reshape(len(part), -1)
    norm = np.linalg.norm(signature, axis=1)
    signature /= np.maximum(norm, 1e-6)[:, None]
    return signature, norm / side


def _candidates(signature: Array) -> Array:
    """int [m, 2] pairs of rows of ``signature`` [n, d] that share a band of hash bits and are alike.

    The bits are signs of random projections. At the threshold 8 % of them differ, so that a whole band of 16
    is equal with probability 0.25, and one of 24 bands at least with 0.998.
    """
    planes = np.random.default_rng(0).standard_normal((signature.shape[1], _BANDS * _BAND_BITS), np.float32)
    bits = (signature @ planes > signature[:4000].mean(0) @ planes).reshape(len(signature), _BANDS, _BAND_BITS)
    keys = bits @ (1 << np.arange(_BAND_BITS))
    found = [np.empty((0, 2), np.int64)]
    for band in range(_BANDS):
        pairs = _sharing(keys[:, band], keys[:, band - 1])
        found.append(pairs[_similarity(signature, pairs) >= _ALIKE - 0.01])
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _similarity(signature: Array, pairs: Array) -> Array:
    parts = [pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK)]
    dots = [np.einsum("ij,ij->i", signature[p[:, 0]], signature[p[:, 1]]) for p in parts]
    return np.concatenate([np.empty(0, np.float32), *dots])


def _sharing(key: Array, minor: Array) -> Array:
    """int [m, 2] rows of equal ``key``, each with the few next to it by ``minor``: never n × n."""
    order = np.lexsort((minor, key))
    key = key[order]
    found = []
    for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
        equal = key[step:] == key[:-step]
        found.append(np.stack([order[:-step][equal], order[step:][equal]], axis=1))
    return np.concatenate(found)


def _confirmed(plain: Array, pairs: Array, side: int) -> Array:
    """bool [m]: which pairs of rows agree in colour, whole and fine, in contrast and in level."""
    one, two = (plain[pairs[:, i]].reshape(-1, side, side, 3).astype(np.float32) for i in (0, 1))
    level = np.abs(one.mean((1, 2)) - two.mean((1, 2))).max(1)
    whole, _ = _correlation(one - one.mean((1, 2, 3), keepdims=True), two - two.mean((1, 2, 3), keepdims=True))
    fine, gain = _correlation(_fine(one), _fine(two))
    same_contrast = (gain < _GAIN) & (gain > 1 / _GAIN)
    agree: Array = (fine >= _ALIKE) & (whole >= _WHOLE_ALIKE) & same_contrast & (level <= _LEVEL)
    return agree


def _correlation(one: Array, two: Array) -> tuple[Array, Array]:
    one, two = one.reshape(len(one), -1), two.reshape(len(two), -1)
    norms = [np.maximum(np.linalg.norm(v, axis=1), 1e-6) for v in (one, two)]
    return np.einsum("ij,ij->i", one, two) / (norms[0] * norms[1]), norms[0] / norms[1]
