"""Captions from features: raycap's greedy and beam search against the tutorial's one word at a time.

    python benchmarks/decode.py [--full] [--model TRAIN_OUT --features FEATURES_OUT] [WORK_FOLDER]

Without a model, one of random weights at the tutorial's sizes (7,579 words, 4,096 features), whose captions all take 11
words and hardly share a prefix. The tutorial's way is `predict` on one photo and the padded prefix, for each word. The
limit is the time of a large float32 matrix product with as many floating-point operations as must be done: two for each
weight of the layer over the vocabulary for each word of each hypothesis, of the LSTM and its part of the merging layer
for each distinct prefix, of the photo's layers for each photo. One row is a product of the shape of the layer over the
vocabulary and nothing else: what it lacks of the limit no decoder has. The one after it adds the exponentials that a
log-probability needs, their sums and the largest, in blocks that fit a core's cache, and nothing else. Prints one
table.
"""

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from machine import median_s, peak_gflops, print_table
from workload import make_bundle

REPETITIONS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", nargs="?", default="work/benchmarks", type=Path)
    parser.add_argument("--full", action="store_true", help="1,000 photos instead of 200")
    parser.add_argument("--model", help="train's output")
    parser.add_argument("--features", help="extract's output, of the same encoder")
    options = parser.parse_args()
    from raycap.captioner import Captioner
    from raycap.config import DecodingConfig
    from raycap.devices import configure

    configure(os.cpu_count())
    count = 1000 if options.full else 200
    bundle = options.model or str(make_bundle(options.work / "vgg16-bundle", "vgg16"))
    captioner: Any = Captioner.load(bundle)
    dim = captioner.bundle.card.encoder.dim
    features = read_features(options.features, count) if options.features else random_features(count, dim)
    max_length = None if options.model else 12
    ids = [str(number) for number in range(len(features))]
    rows: list[tuple[Any, ...]] = []
    few = 10 if options.full else 4
    tutorial_s = median_s(lambda: [tutorial(captioner, each, max_length) for each in features[:few]], 3) / few
    rows.append(("tutorial's way, greedy", 1 / tutorial_s, 1.0, "", "", ""))
    greedy_s = 0.0
    for width in (1, 3, 5):
        decoding = DecodingConfig(beam_width=width, max_length=max_length)

        def run(decoding: Any = decoding) -> None:
            captioner.caption_features(features, decoding, image_ids=ids)

        flop = count_flop(captioner, run) / len(features)
        took_s = median_s(run, REPETITIONS) / len(features)
        limit_s = flop / (peak_gflops() * 1e9)
        greedy_s = greedy_s or took_s
        name = "raycap, greedy" if width == 1 else f"raycap, beam {width}"
        rows.append((name, 1 / took_s, tutorial_s / took_s, took_s / greedy_s, flop / 1e6, limit_s / took_s))
    units, vocab_size = captioner._steps.words_part.shape[0], captioner.bundle.tokenizer.vocab_size
    alone = peak_gflops(len(features), units, vocab_size) / peak_gflops()
    rows.append((f"a product of {len(features):,} x {units} x {vocab_size:,} alone", "", "", "", "", alone))
    flop = 2 * len(features) * units * vocab_size
    chosen = flop / (peak_gflops() * 1e9) / choose_alone_s(len(features), units, vocab_size)
    rows.append(("with exponentials, sums and the largest", "", "", "", "", chosen))
    columns = ("what", "captions/s", "x tutorial", "cost in greedy", "MFLOP a caption", "of the limit")
    print_table(
        f"{len(features):,} photos, {dim:,} features, {captioner.bundle.tokenizer.vocab_size:,} words", columns, rows
    )


def choose_alone_s(count: int, units: int, vocab_size: int) -> float:
    """Return the time of the bare arithmetic of one word for each of `count` hypotheses."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(count, units)).astype(np.float32)
    blocks = np.array_split(rng.normal(0, 0.05, (units, vocab_size)).astype(np.float32), -(-vocab_size // 768), axis=1)
    blocks = [np.ascontiguousarray(block) for block in blocks]

    def choose(block: Any) -> Any:
        weights = hidden @ block
        np.exp(weights, out=weights)
        return weights.argmax(axis=1), weights @ np.ones(weights.shape[1], np.float32)

    with ThreadPoolExecutor(os.cpu_count()) as threads, threadpool_limits(1, "blas"):
        return median_s(lambda: list(threads.map(choose, blocks)), 3 * REPETITIONS)


def random_features(count: int, dim: int) -> Any:
    return np.maximum(np.random.default_rng(0).normal(size=(count, dim)), 0).astype(np.float32)


def read_features(location: str, count: int) -> Any:
    from raycap.features import FeatureSet

    found = FeatureSet.open(location)
    wanted = set(sorted(found.image_ids())[:count])
    return np.concatenate([found.read_shard(name, wanted=wanted).features for name in found.shards])


def tutorial(captioner: Any, feature: Any, max_length: int | None) -> list[int]:
    """One photo, one word at a time, in our own words."""
    bundle = captioner.bundle
    tokenizer = bundle.tokenizer
    longest = max_length or tokenizer.max_length
    words = [tokenizer.start_id]
    while len(words) < longest:
        prefix = np.zeros((1, tokenizer.max_length), np.int32)
        prefix[0, : len(words)] = words
        scores = bundle.model.predict([feature[np.newaxis], prefix], verbose=0)[0, len(words) - 1]
        words.append(int(scores.argmax()))
        if words[-1] == tokenizer.end_id:
            break
    return words


def count_flop(captioner: Any, run: Any) -> float:
    """Return the operations that a run cannot do without, by watching its searches."""
    steps = captioner._steps
    units, vocab_size = steps.words_part.shape[0], len(steps.inputs)
    dim = captioner.bundle.card.encoder.dim
    flop = 0.0
    begin = steps.begin

    def watched(features: Any) -> Any:
        nonlocal flop
        flop += len(features) * 2 * (dim * units + units * units)
        advance, state = begin(features)

        def count(tokens: Any, state: Any) -> Any:
            nonlocal flop
            seen, state = advance(tokens, state)
            prefixes = len(np.unique(state[1]))
            flop += len(tokens) * 2 * units * vocab_size + prefixes * 2 * (units * 4 * units + units * units)
            return seen, state

        return count, state

    steps.begin = watched
    try:
        run()
    finally:
        steps.begin = begin
    return flop


if __name__ == "__main__":
    main()
