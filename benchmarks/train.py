"""Training steps: raycap's against the tutorial's generator with `fit`, and `fit` on the packed form.

    python benchmarks/train.py [--full]

The merge model at the tutorial's sizes (7,579 words, 4,096 features), Adam, dropout; random features and captions with
Flickr8k's five captions a photo and 10.2 words to predict each. The tutorial's way takes a photo a step: a row for each
prefix, its next word one-hot. The others take 16 photos a step, or 64. All in one process with all cores, photos in
memory.
The limit is the time of a large float32 matrix product with as many operations: two for each weight that a word passes
(LSTM, merging layer, vocabulary), forward and twice backward, and the photo's layer forward and once backward for each
caption. Beside it what TensorFlow makes of a step that does only what it cannot do without: these products at their own
shapes, the LSTM's one after another, the exponentials of the vocabulary, Adam. Prints one table.
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
        some = photos[:photos_a_step]
        share = flop(some) / (peak_gflops() * 1e9) / median_s(bare(some), 15)
        rows.append((f"what a step cannot do without, {photos_a_step} photos", "", "", share))
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


def bare(photos: list[Any]) -> Any:
    """Return a step's matrix products, forward and backward, with the exponentials and Adam, and nothing else."""
    import keras
    import tensorflow as tf

    lengths = sorted((len(sequence) - 1 for photo in photos for sequence in photo.sequences), reverse=True)
    counts = [sum(length > place for length in lengths) for place in range(lengths[0])]
    rng = np.random.default_rng(0)

    def array(*shape: int) -> Any:
        return tf.constant(rng.normal(0, 0.05, shape).astype(np.float32))

    features, words = array(len(lengths), DIM), array(sum(lengths), UNITS)
    shapes = ((DIM, UNITS), (UNITS, 4 * UNITS), (UNITS, 4 * UNITS), (UNITS, UNITS), (UNITS, VOCAB_SIZE))
    kernels = [tf.Variable(array(*shape)) for shape in shapes]
    embedding = tf.Variable(array(VOCAB_SIZE, UNITS))
    optimizer = keras.optimizers.Adam()
    optimizer.build([*kernels, embedding])
    apply = tf.function(lambda gradients: optimizer.apply(gradients, [*kernels, embedding]), jit_compile=True)

    def back(inputs: Any, kernel: Any, upstream: Any) -> tuple[Any, Any]:
        return tf.matmul(inputs, upstream, transpose_a=True), tf.matmul(upstream, kernel, transpose_b=True)

    def products() -> Any:
        photo, enter, recur, merge, vocabulary = (tf.convert_to_tensor(each) for each in kernels)
        seen = tf.matmul(features, photo)
        gates = tf.matmul(words, enter)
        state = seen
        for count in counts:
            state = tf.matmul(state[:count, :UNITS], recur)
        merged = tf.matmul(words, merge)
        weights = tf.exp(tf.matmul(merged, vocabulary))
        to_vocabulary, to_merged = back(merged, vocabulary, weights)
        to_merge, to_words = back(words, merge, to_merged)
        sums = gates[: counts[-1]]
        for count in reversed(counts):
            sums = tf.concat([tf.matmul(sums, recur, transpose_b=True)] * 4, axis=1)
            sums = tf.pad(sums, [[0, count - sums.shape[0]], [0, 0]]) if count > sums.shape[0] else sums
        to_recur = tf.matmul(words, gates, transpose_a=True)
        to_enter, to_embedded = back(words, enter, gates)
        to_photo = tf.matmul(features, seen, transpose_a=True)
        apply([to_photo, to_enter, to_recur, to_merge, to_vocabulary, tf.convert_to_tensor(embedding)])
        return tf.reduce_sum(state) + tf.reduce_sum(sums) + tf.reduce_sum(to_words) + tf.reduce_sum(to_embedded)

    compiled = tf.function(products)
    return lambda: compiled().numpy()


def flop(photos: list[Any]) -> float:
    words = sum(len(sequence) - 1 for photo in photos for sequence in photo.sequences)
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
