"""The per-photo sequence generator: photos with features and captions, streamed, in prefix form and in packed form.

Knows neither Ray nor TensorFlow.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raycap.features import FeatureSet, FeatureShard
from raycap.schema import PAD_ID
from raycap.text import Tokenizer


class Photo(NamedTuple):
    """One photo as training sees it.

    Attributes:
        image_id: its id.
        feature: `(dim,)` or `(num_regions, dim)` float32.
        sequences: its captions as token ids, start and end included.
    """

    image_id: str
    feature: NDArray[np.float32]
    sequences: Sequence[Sequence[int]]


class PrefixPairs(NamedTuple):
    """The tutorial's arrays for one photo: a row for each (prefix, next word) pair of its captions.

    Attributes:
        features: `(pairs, dim)` float32, the photo's feature repeated.
        prefixes: `(pairs, max_length)` int32, padded on the right.
        targets: `(pairs, vocab_size)` float32, one-hot.
    """

    features: NDArray[np.float32]
    prefixes: NDArray[np.int32]
    targets: NDArray[np.float32]


class PackedBatch(NamedTuple):
    """One worker's part of a global batch, a row a caption: one pass of the LSTM predicts every next word.

    Attributes:
        features: `(photos, dim)` or `(photos, num_regions, dim)` float32.
        photos: `(captions,)` int32, the row in `features` of each caption's photo.
        tokens: `(captions, length)` int32, all tokens but the last, padded on the right.
        targets: `(captions, length)` int32, all tokens but the first; `PAD_ID` where there is nothing to predict.
        num_targets: words to predict in the global batch, over all workers.
    """

    features: NDArray[np.float32]
    photos: NDArray[np.int32]
    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    num_targets: int


def encode_captions(captions: pa.Table, tokenizer: Tokenizer, split: str) -> dict[str, list[list[int]]]:
    """Return the captions of each photo of a split as token ids, start and end included.

    Args:
        captions: `image_id`, `split`, `clean_caption`.
        tokenizer: the vocabulary; words that it does not have are dropped.
        split: `train`, `dev` or `test`.
    """
    rows = captions.filter(pc.equal(captions["split"], split))
    sequences: dict[str, list[list[int]]] = {}
    for image_id, caption in zip(rows["image_id"].to_pylist(), rows["clean_caption"].to_pylist(), strict=True):
        sequences.setdefault(image_id, []).append(tokenizer.encode(caption.split()))
    return sequences


def prefix_pairs(photo: Photo, *, max_length: int, vocab_size: int) -> PrefixPairs:
    """Return the (prefix, next word) pairs of one photo, as the tutorial's generator yields them.

    Unlike the tutorial, prefixes are padded on the right, which masks the same words and runs on a GPU too.
    Like it, of a prefix longer than `max_length` (dev captions may be) they keep the last words.
    """
    pairs = [(sequence[:end], sequence[end]) for sequence in photo.sequences for end in range(1, len(sequence))]
    prefixes = np.full((len(pairs), max_length), PAD_ID, np.int32)
    targets = np.zeros((len(pairs), vocab_size), np.float32)
    for row, (prefix, target) in enumerate(pairs):
        kept = prefix[-max_length:]
        prefixes[row, : len(kept)] = kept
        targets[row, target] = 1.0
    return PrefixPairs(np.repeat(photo.feature[np.newaxis], len(pairs), axis=0), prefixes, targets)


def pack(photos: Sequence[Photo], *, num_targets: int | None = None) -> PackedBatch:
    """Return the captions of some photos, at least one, as one batch.

    Args:
        photos: one worker's photos.
        num_targets: words to predict over all workers; by default, those of `photos`.
    """
    tokens, targets = pad_sequences(list(chain.from_iterable(photo.sequences for photo in photos)))
    captions_per_photo = [len(photo.sequences) for photo in photos]
    return PackedBatch(
        features=np.stack([photo.feature for photo in photos]),
        photos=np.repeat(np.arange(len(photos), dtype=np.int32), captions_per_photo),
        tokens=tokens,
        targets=targets,
        num_targets=_num_targets(photos) if num_targets is None else num_targets,
    )


def pad_sequences(sequences: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the tokens and the targets of some captions, at least one, as in a `PackedBatch`."""
    length = max(len(sequence) for sequence in sequences) - 1
    tokens = np.full((len(sequences), length), PAD_ID, np.int32)
    targets = np.full((len(sequences), length), PAD_ID, np.int32)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence) - 1] = sequence[:-1]
        targets[row, : len(sequence) - 1] = sequence[1:]
    return tokens, targets


def packed_batches(
    photos: Iterable[Photo], *, global_batch_size: int, rank: int = 0, num_workers: int = 1
) -> Iterator[PackedBatch]:
    """Cut a stream of photos into global batches and yield one worker's part of each.

    Every worker reads the same stream, so a global batch holds the same photos however many workers share it, and all
    workers run the same number of steps. A worker left without a photo by a short last batch gets the batch's first
    photo with nothing to predict.

    Args:
        photos: the stream, the same on every worker.
        global_batch_size: photos a global batch.
        rank: of this worker.
        num_workers: workers in all.
    """
    for batch in batched_photos(photos, global_batch_size):
        num_targets = _num_targets(batch)
        mine = batch[rank::num_workers]
        if mine:
            yield pack(mine, num_targets=num_targets)
        else:
            idle = pack(batch[:1], num_targets=num_targets)
            yield idle._replace(targets=np.full_like(idle.targets, PAD_ID))


def stream_photos(
    feature_set: FeatureSet,
    sequences: Mapping[str, Sequence[Sequence[int]]],
    *,
    window: int,
    rng: np.random.Generator | None = None,
) -> Iterator[Photo]:
    """Yield every photo that has both a feature and captions, once, holding about `window` of them in memory.

    Where photos have several views, each shard is read in one, which `rng` draws; without it in the first.

    Args:
        feature_set: read a shard at a time.
        sequences: the captions of each photo of a split, as token ids.
        window: photos held and shuffled together.
        rng: shuffles the order of the shards, and the photos of a window, and draws views; None keeps the order of the
            files.
    """
    names = list(feature_set.shards)
    if rng is not None:
        rng.shuffle(names)
    held: list[FeatureShard] = []
    for name in names:
        view = int(rng.integers(feature_set.num_views)) if rng is not None and feature_set.num_views > 1 else 0
        held.append(feature_set.read_shard(name, wanted=sequences.keys(), view=view))
        if sum(len(shard.image_ids) for shard in held) >= window:
            yield from _release(held, sequences, rng)
            held = []
    yield from _release(held, sequences, rng)


def _release(
    shards: Sequence[FeatureShard],
    sequences: Mapping[str, Sequence[Sequence[int]]],
    rng: np.random.Generator | None,
) -> Iterator[Photo]:
    rows = [(shard, row) for shard in shards for row in range(len(shard.image_ids))]
    order = np.arange(len(rows)) if rng is None else rng.permutation(len(rows))
    for index in order:
        shard, row = rows[index]
        image_id = shard.image_ids[row]
        yield Photo(image_id, shard.features[row], sequences[image_id])


def batched_photos(photos: Iterable[Photo], size: int) -> Iterator[tuple[Photo, ...]]:
    """Yield tuples of `size` photos, the last perhaps shorter."""
    stream = iter(photos)
    while batch := tuple(islice(stream, size)):
        yield batch


def _num_targets(photos: Iterable[Photo]) -> int:
    return sum(len(sequence) - 1 for photo in photos for sequence in photo.sequences)
