"""Training steps: raycap's against the tutorial's generator with `fit`, and `fit` on the packed form.

    python benchmarks/train.py [--full]

The merge model at the tutorial's sizes (7,579 words, 4,096 features), Adam, dropout; random features and captions with
Flickr8k's five captions a photo and 10.2 words to predict each. The tutorial's way takes a photo a step: a row for each
prefix, its next word one-hot. The others take 16 photos a step, or 64. All in one process with all cores, photos in
memory.
The limit is the time of a large float32 matrix product with as many operations: two for each weight that a word passes
(LSTM, merging layer, vocabulary), forward and twice backward, and the photo's layer forward and once backward for each
caption. Beside it what TensorFlow makes of the layer over the vocabulary alone, three quarters of these operations: its
three products, exponentials and their sums, and nothing else. Prints one table.
"""

import argparse
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from machine import median_s, peak_gflops, print_table

VOCAB_SIZE, DIM, UNITS = 7_579, 4_096, 256


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true", help="320 photos a repetition instead of 64")
    count = 320 if parser.parse_args().full else 64
    from raycap.devices import configure

    configure(os.cpu_count())
    photos = make_photos(count)
    rows: list[tuple[Any, ...]] = []
    tutorial_s = 0.0
    for name, way, some, photos_a_step in (
        ("tutorial's generator, fit, 1 photo a step", tutorial, photos[: count // 8], 1),
        ("packed form, fit, 16 photos a step", packed_fit, photos, 16),
        ("raycap, 16 photos a step", raycap, photos, 16),
        ("packed form, fit, 64 photos a step", packed_fit, photos, 64),
        ("raycap, 64 photos a step", raycap, photos, 64),
    ):
        captions = sum(len(photo.sequences) for photo in some)
        took_s = median_s(way(some, photos_a_step)) / captions
        tutorial_s = tutorial_s or took_s
        share = flop(some) / captions / (peak_gflops() * 1e9) / took_s
        rows.append((name, 1 / took_s, tutorial_s / took_s, share))
    for photos_a_step in (16, 64):
        words = num_words(photos[:photos_a_step])
        share = 6.0 * words * UNITS * VOCAB_SIZE / (peak_gflops() * 1e9) / vocabulary_alone_s(words)
        rows.append((f"bare arithmetic over the vocabulary, {words:,} words", "", "", share))
    mflop = flop(photos) / sum(len(photo.sequences) for photo in photos) / 1e6
    print_table(
        f"one epoch over {count} photos; {mflop:.0f} MFLOP a caption in the packed form",
        ("what", "captions/s", "x tutorial", "of the limit"),
        rows,
    )


def make_photos(count: int) -> list[Any]:
    from raycap.sequences import Photo

    rng = np.random.default_rng(0)
    lengths = np.clip(np.round(rng.normal(9.2, 3.0, (count, 5))), 2, 32).astype(int)
    return [
        Photo(
            str(number),
            np.maximum(rng.normal(size=DIM), 0).astype(np.float32),
            [[1, *rng.integers(3, VOCAB_SIZE, length).tolist(), 2] for length in lengths[number]],
        )
        for number in range(count)
    ]


def num_words(photos: list[Any]) -> int:
    return sum(len(sequence) - 1 for photo in photos for sequence in photo.sequences)


def vocabulary_alone_s(words: int) -> float:
    """Return the time of the products of a step with the vocabulary, exponentials and sums."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    hidden = tf.constant(rng.normal(size=(words, UNITS)).astype(np.float32))
    kernel = tf.constant(rng.normal(0, 0.05, (UNITS, VOCAB_SIZE)).astype(np.float32))

    def step() -> Any:
        weights = tf.exp(tf.matmul(hidden, kernel))
        back = tf.matmul(weights, kernel, transpose_b=True), tf.matmul(hidden, weights, transpose_a=True)
        return tf.reduce_sum(weights, axis=1), *back

    compiled = tf.function(step)
    return median_s(lambda: [each.numpy() for each in compiled()], 15)


def flop(photos: list[Any]) -> float:
    words = num_words(photos)
    captions = sum(len(photo.sequences) for photo in photos)
    a_word = 2 * UNITS * 4 * UNITS + UNITS * UNITS + UNITS * VOCAB_SIZE
    return 6.0 * words * a_word + 4.0 * captions * DIM * UNITS


def raycap(photos: list[Any], photos_a_step: int) -> Any:
    from raycap.config import TrainConfig
    from raycap.fitting import Fitter
    from raycap.sequences import packed_batches

    config = TrainConfig(prepared="", features="", out="", global_batch_size=photos_a_step)
    fitter = Fitter(config, vocab_size=VOCAB_SIZE, feature_shape=(DIM,))
    return lambda: fitter.train_epoch(1, packed_batches(photos, global_batch_size=photos_a_step))


def packed_fit(photos: list[Any], photos_a_step: int) -> Any:
    import keras

    from raycap.config import ModelConfig
    from raycap.decoders import build_model
    from raycap.schema import PAD_ID
    from raycap.sequences import packed_batches

    model = build_model(ModelConfig(), vocab_size=VOCAB_SIZE, feature_shape=(DIM,))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PAD_ID)
    model.compile(optimizer="adam", loss=loss)

    def batches() -> Iterator[Any]:
        while True:
            for batch in packed_batches(photos, global_batch_size=photos_a_step):
                yield (batch.features[batch.photos], batch.tokens), batch.targets

    steps = -(-len(photos) // photos_a_step)
    return lambda: model.fit(batches(), steps_per_epoch=steps, verbose=0)


def tutorial(photos: list[Any], _photos_a_step: int) -> Any:
    """The tutorial's model and generator, in our own words."""
    import keras

    from raycap.sequences import prefix_pairs

    layers = keras.layers
    feature, prefix = keras.Input((DIM,)), keras.Input((34,))
    seen = layers.Dense(UNITS, activation="relu")(layers.Dropout(0.5)(feature))
    words = layers.Embedding(VOCAB_SIZE, UNITS, mask_zero=True)(prefix)
    said = layers.LSTM(UNITS)(layers.Dropout(0.5)(words))
    merged = layers.Dense(UNITS, activation="relu")(layers.add([seen, said]))
    model = keras.Model([feature, prefix], layers.Dense(VOCAB_SIZE, activation="softmax")(merged))
    model.compile(optimizer="adam", loss="categorical_crossentropy")

    def pairs() -> Iterator[Any]:
        while True:
            for photo in photos:
                each = prefix_pairs(photo, max_length=34, vocab_size=VOCAB_SIZE)
                yield (each.features, each.prefixes), each.targets

    return lambda: model.fit(pairs(), steps_per_epoch=len(photos), verbose=0)


if __name__ == "__main__":
    main()
