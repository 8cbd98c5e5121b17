from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from builders import write_shard

from raycap.datasets import read_captions
from raycap.features import FeatureSet
from raycap.schema import PAD_ID
from raycap.sequences import Photo, encode_captions, pack, packed_batches, prefix_pairs, stream_photos
from raycap.text import Tokenizer

FLICKR8K = Path(__file__).parents[2] / "shared" / "data" / "flickr8k"


def photo(name, *sequences, dim=3):
    """A photo whose feature is unlike any other's."""
    feature = np.random.default_rng(list(name.encode())).normal(size=dim).astype(np.float32)
    return Photo(name, feature, [list(sequence) for sequence in sequences])


def many_photos(count, seed=0):
    """Photos with 1 to 5 captions of 2 to 9 tokens."""
    rng = np.random.default_rng(seed)
    return [
        photo(f"{n}.jpg", *([1, *rng.integers(3, 20, rng.integers(0, 8)), 2] for _ in range(rng.integers(1, 6))))
        for n in range(count)
    ]


def captions_in(batch):
    """A batch's rows without padding, as a multiset: feature, tokens, targets."""
    rows = []
    for feature, tokens, targets in zip(batch.features[batch.photos], batch.tokens, batch.targets, strict=True):
        length = np.count_nonzero(tokens != PAD_ID)
        assert not tokens[length:].any()  # padded on the right
        assert not targets[length:].any()
        if targets.any():
            rows.append((tuple(feature), tuple(tokens[:length]), tuple(targets[:length])))
    return Counter(rows)


def test_encode_captions():
    tokenizer = Tokenizer.fit(["dog runs", "dog sleeps"])
    assert tokenizer.words == ("startseq", "dog", "endseq", "runs", "sleeps")
    captions = pa.table(
        {
            "image_id": ["b", "a", "b", "c", "d", "e"],
            "split": ["train", "train", "train", "dev", None, "train"],
            "clean_caption": ["dog runs", "dog", "zebra sleeps", "dog", "dog", ""],
        }
    )
    assert encode_captions(captions, tokenizer, "train") == {
        "b": [[1, 2, 4, 3], [1, 5, 3]],  # the zebra is unknown
        "a": [[1, 2, 3]],
        "e": [[1, 3]],
    }
    assert encode_captions(captions, tokenizer, "dev") == {"c": [[1, 2, 3]]}
    assert encode_captions(captions, tokenizer, "test") == {}


def test_prefix_pairs_by_hand():
    example = photo("a", [1, 4, 5, 2], [1, 6, 2])
    pairs = prefix_pairs(example, max_length=5, vocab_size=7)
    assert pairs.prefixes.tolist() == [
        [1, 0, 0, 0, 0],
        [1, 4, 0, 0, 0],
        [1, 4, 5, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 6, 0, 0, 0],
    ]
    assert pairs.targets.argmax(axis=1).tolist() == [4, 5, 2, 6, 2]
    assert pairs.targets.sum(axis=1).tolist() == [1.0] * 5
    assert pairs.targets.shape == (5, 7)
    np.testing.assert_array_equal(pairs.features, np.tile(example.feature, (5, 1)))
    assert [array.dtype for array in pairs] == [np.float32, np.int32, np.float32]


def test_prefix_pairs_of_a_caption_longer_than_training_knew_keep_the_last_words():
    pairs = prefix_pairs(photo("a", [1, 4, 5, 6, 2]), max_length=3, vocab_size=7)  # as the tutorial's padding does
    assert pairs.prefixes.tolist() == [[1, 0, 0], [1, 4, 0], [1, 4, 5], [4, 5, 6]]
    assert pairs.targets.argmax(axis=1).tolist() == [4, 5, 6, 2]


def test_pack_by_hand():
    first, second = photo("a", [1, 4, 5, 2], [1, 6, 2]), photo("b", [1, 2])
    batch = pack([first, second])
    assert batch.tokens.tolist() == [[1, 4, 5], [1, 6, 0], [1, 0, 0]]
    assert batch.targets.tolist() == [[4, 5, 2], [6, 2, 0], [2, 0, 0]]
    np.testing.assert_array_equal(batch.features[batch.photos], [first.feature, first.feature, second.feature])
    assert batch.num_targets == 6
    assert pack([first, second], num_targets=60).num_targets == 60
    assert [array.dtype for array in batch[:3]] == [np.float32, np.int32, np.int32]


def test_packed_and_prefix_form_predict_the_same_words():
    for example in many_photos(20):
        pairs = prefix_pairs(example, max_length=10, vocab_size=20)
        batch = pack([example])
        packed = [
            (tuple(tokens[: end + 1]), target)
            for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True)
            for end, target in enumerate(targets)
            if target != PAD_ID
        ]
        words = [tuple(row[row != PAD_ID].tolist()) for row in pairs.prefixes]
        assert packed == list(zip(words, pairs.targets.argmax(axis=1).tolist(), strict=True))
        assert batch.num_targets == len(packed)


@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
@pytest.mark.parametrize("num_photos", [0, 1, 2, 5, 8, 9, 23])
def test_workers_share_each_global_batch(num_workers, num_photos):
    photos = many_photos(num_photos)
    whole = list(packed_batches(photos, global_batch_size=8))
    parts = [
        list(packed_batches(iter(photos), global_batch_size=8, rank=rank, num_workers=num_workers))
        for rank in range(num_workers)
    ]
    assert [len(part) for part in parts] == [len(whole)] * num_workers  # equal step counts
    for step, batch in enumerate(whole):
        mine = [part[step] for part in parts]
        assert sum((captions_in(each) for each in mine), Counter()) == captions_in(batch)
        assert sum(np.count_nonzero(each.targets) for each in mine) == batch.num_targets
        assert {each.num_targets for each in mine} == {batch.num_targets}  # global, on every worker
        assert all(len(each.tokens) for each in mine)  # nobody gets an empty array


def test_one_worker_sees_every_caption_once():
    photos = many_photos(23)
    batches = list(packed_batches(photos, global_batch_size=8))
    assert len(batches) == 3
    expected = Counter(
        (tuple(each.feature), tuple(sequence[:-1]), tuple(sequence[1:]))
        for each in photos
        for sequence in each.sequences
    )
    assert sum((captions_in(batch) for batch in batches), Counter()) == expected


def test_an_idle_worker_gets_a_batch_with_nothing_to_predict():
    photos = [photo("a", [1, 4, 2]), photo("b", [1, 5, 6, 2]), photo("c", [1, 2])]
    batches = [
        list(packed_batches(photos, global_batch_size=2, rank=rank, num_workers=2))[1] for rank in range(2)
    ]  # the second batch holds c alone
    assert batches[0].targets.tolist() == [[2]]
    assert batches[1].targets.tolist() == [[PAD_ID]]
    assert batches[1].tokens.tolist() == [[1]]
    assert batches[1].features.shape == (1, 3)
    assert batches[0].num_targets == batches[1].num_targets == 1


@dataclass(frozen=True)
class WatchedSet(FeatureSet):
    """A feature set that notes the size of each shard as it is read."""

    read: list = field(default_factory=list)

    def read_shard(self, name, **options):
        shard = super().read_shard(name, **options)
        self.read.append(len(shard.image_ids))
        return shard


NUM_PHOTOS, SHARD_SIZE = 60, 7


@pytest.fixture
def features(tmp_path):
    """60 photos in shards of 7; the feature of photo n is n."""
    for start in range(0, NUM_PHOTOS, SHARD_SIZE):
        numbers = range(start, min(start + SHARD_SIZE, NUM_PHOTOS))
        write_shard(tmp_path, f"part-{start:03}.parquet", [f"{n}.jpg" for n in numbers], [[n, n] for n in numbers])
    opened = FeatureSet.open(str(tmp_path))
    return WatchedSet(opened.folder, opened.shards, opened.card)


SEQUENCES = {f"{n}.jpg": [[1, n + 3, 2]] for n in range(NUM_PHOTOS)}


def numbers(photos):
    return [int(each.feature[0]) for each in photos]


@pytest.mark.parametrize("window", [1, 7, 20, 60, 1000])
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_photo_comes_once_with_its_own_captions(window, shuffle, features):
    rng = np.random.default_rng(0) if shuffle else None
    photos = list(stream_photos(features, SEQUENCES, window=window, rng=rng))
    assert sorted(numbers(photos)) == list(range(NUM_PHOTOS))
    for each in photos:
        n = int(each.feature[0])
        assert each.image_id == f"{n}.jpg"
        assert each.sequences == SEQUENCES[each.image_id]


def test_without_a_generator_the_order_is_that_of_the_files(features):
    for window in (1, 10, 1000):
        assert numbers(stream_photos(features, SEQUENCES, window=window)) == list(range(NUM_PHOTOS))


@pytest.mark.parametrize("window", [1, 10, 30])
def test_no_more_than_a_window_and_a_shard_is_held(window, features):
    for given, _ in enumerate(stream_photos(features, SEQUENCES, window=window, rng=np.random.default_rng(0))):
        assert sum(features.read) - given < window + SHARD_SIZE


def test_photos_without_captions_are_skipped_and_do_not_fill_the_window(features):
    wanted = {name: SEQUENCES[name] for name in list(SEQUENCES)[::5]} | {"elsewhere.jpg": [[1, 2]]}
    photos = list(stream_photos(features, wanted, window=4, rng=np.random.default_rng(0)))
    assert sorted(numbers(photos)) == list(range(0, NUM_PHOTOS, 5))
    assert sum(features.read) == len(photos)


def test_the_order_depends_on_the_generator_alone(features):
    def order(*seed, window=20):
        return numbers(stream_photos(features, SEQUENCES, window=window, rng=np.random.default_rng(seed)))

    orders = [order(seed, epoch) for seed in range(2) for epoch in range(3)]
    assert len({tuple(each) for each in orders}) == 6
    assert order(0, 1) == orders[1]
    for each in orders:
        first = {n // SHARD_SIZE for n in each[:21]}
        assert first != {0, 1, 2}, "shards come in a new order"
        assert each[:21] != sorted(each[:21]), "photos come in a new order"


def test_a_window_over_everything_mixes_everything(features):
    shuffled = numbers(stream_photos(features, SEQUENCES, window=1000, rng=np.random.default_rng(5)))
    assert len({n // SHARD_SIZE for n in shuffled[:SHARD_SIZE]}) > 3


def test_flickr8ks_first_photo_in_the_prefix_form():
    text = FLICKR8K / "text"
    if not (text / "Flickr8k.token.txt").is_file():
        pytest.skip(f"measures the tutorial's numbers on Flickr8k's captions, which are not in {text}")
    found = read_captions([str(text)])
    training = [caption for image_id, caption in found.captions if found.splits[image_id] == "train"]
    tokenizer = Tokenizer.fit(training)
    first = next(image_id for image_id, _ in found.captions if image_id.startswith("1000268201_693b08cb0e"))
    sequences = [
        tokenizer.encode(tokenizer.clean(caption)) for image_id, caption in found.captions if image_id == first
    ]
    feature = np.random.default_rng(0).random(4096, np.float32)
    pairs = prefix_pairs(
        Photo(first, feature, sequences), max_length=tokenizer.max_length, vocab_size=tokenizer.vocab_size
    )
    assert [array.shape for array in pairs] == [(47, 4096), (47, 34), (47, 7579)]


def test_each_shard_is_read_in_a_view_that_the_generator_draws(tmp_path):
    for start in range(0, NUM_PHOTOS, SHARD_SIZE):
        photos = np.arange(start, min(start + SHARD_SIZE, NUM_PHOTOS))
        views = [[[n + 100 * view] * 2 for n in photos] for view in range(3)]
        names = [f"{n}.jpg" for n in photos]
        write_shard(tmp_path, f"part-{start:03}.parquet", names, views[0], views=views[1:])
    opened = FeatureSet.open(str(tmp_path))
    assert numbers(stream_photos(opened, SEQUENCES, window=20)) == list(range(NUM_PHOTOS))
    drawn = set()
    for epoch in range(20):
        photos = list(stream_photos(opened, SEQUENCES, window=20, rng=np.random.default_rng(epoch)))
        assert [f"{number % 100}.jpg" for number in numbers(photos)] == [each.image_id for each in photos]
        views = {number % 100: number // 100 for number in numbers(photos)}
        assert set(views) == set(range(NUM_PHOTOS))
        shards = [{views[n] for n in views if n // SHARD_SIZE == shard} for shard in range(9)]
        assert all(len(each) == 1 for each in shards)
        drawn.add(tuple(map(min, shards)))
    assert len(drawn) == 20
    assert {view for each in drawn for view in each} == {0, 1, 2}
