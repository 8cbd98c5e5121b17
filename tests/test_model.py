"""The decoders' models, and the bundle that they travel in, with TensorFlow in this process."""

from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from builders import CARD

from raycap.captioner import Captioner
from raycap.config import DecodingConfig, ModelConfig
from raycap.decoders import build_model, decoder_of
from raycap.decoding import Wanted
from raycap.errors import FormatError, InputError
from raycap.inspected_files import bundle_facts
from raycap.matching import Matching
from raycap.model import Bundle
from raycap.model_card import ModelCard
from raycap.neighbors import Neighbors, photo_vectors
from raycap.schema import PAD_ID
from raycap.text import Tokenizer

CAPTIONS = ["a red dog runs", "a blue cat sleeps on a mat", "two dogs and a cat"]
TOKENIZER = Tokenizer.fit(CAPTIONS, keep_one_letter_words=True)
OPTIONS = [
    ModelConfig(units=16, embedding_dim=8),
    ModelConfig(units=16, embedding_dim=8, merge="concat"),
    ModelConfig(units=16, embedding_dim=8, normalization="l2"),
    ModelConfig(units=16, embedding_dim=8, normalization="standardize", merge="concat"),
    ModelConfig(units=16, embedding_dim=8, decoder="attention", num_heads=2),
    ModelConfig(units=16, embedding_dim=8, decoder="attention", normalization="standardize"),
    ModelConfig(units=16, embedding_dim=16, decoder="transformer", num_heads=2),
    ModelConfig(units=9, embedding_dim=9, decoder="transformer", num_heads=1, num_layers=1, normalization="l2"),
]


def features_for(config: ModelConfig, count: int, *, seed: int) -> np.ndarray:
    shape = (5, 12) if config.needs_regions else (12,)
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def small_model(config: ModelConfig, *, seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    moments = (np.full(12, 0.5, np.float32), np.full(12, 4.0, np.float32))
    return build_model(
        config,
        vocab_size=TOKENIZER.vocab_size,
        feature_shape=features_for(config, 1, seed=0).shape[1:],
        moments=moments,
    )


def bundle(config: ModelConfig = OPTIONS[0]) -> Bundle:
    card = ModelCard(
        encoder=replace(CARD, dim=12, num_regions=5 if config.needs_regions else 1),
        max_length=TOKENIZER.max_length,
        vocab_size=TOKENIZER.vocab_size,
        training={},
        metrics={},
        versions={},
    )
    return Bundle(small_model(config), TOKENIZER, card)


def test_parameters_at_the_tutorials_sizes() -> None:
    model = build_model(ModelConfig(), vocab_size=7579, feature_shape=(4096,))
    assert model.count_params() == 5_527_963
    kinds = {layer.name: type(layer).__name__ for layer in model.layers}
    assert kinds["embedding"] == "Embedding"
    assert kinds["lstm"] == "LSTM"
    assert model.get_layer("embedding").mask_zero
    assert [model.get_layer(name).rate for name in ("photo_dropout", "word_dropout")] == [0.5, 0.5]


@pytest.mark.parametrize("config", OPTIONS)
def test_padding_on_the_right_changes_nothing(config: ModelConfig) -> None:
    model = small_model(config)
    features = features_for(config, 2, seed=0)
    tokens = np.random.default_rng(0).integers(1, TOKENIZER.vocab_size, (2, 4)).astype(np.int32)
    padded = np.pad(tokens, ((0, 0), (0, 3)))
    short, long = model([features, tokens]).numpy(), model([features, padded]).numpy()
    np.testing.assert_allclose(short, long[:, :4], rtol=1e-5, atol=1e-6)
    # with the padding masked, the last place answers for the whole prefix
    np.testing.assert_allclose(short[:, -1], long[:, -1], rtol=1e-5, atol=1e-6)


def test_normalization_is_in_the_model() -> None:
    features = np.random.default_rng(2).normal(size=(4, 12)).astype(np.float32)
    standardize = small_model(OPTIONS[3]).get_layer("normalization")
    np.testing.assert_allclose(standardize(features), (features - 0.5) / 2.0, rtol=1e-5)
    l2 = small_model(OPTIONS[2]).get_layer("normalization")
    np.testing.assert_allclose(np.linalg.norm(l2(features), axis=1), 1.0, rtol=1e-5)


def test_a_feature_that_is_constant_over_train_cannot_explode() -> None:
    moments = (np.zeros(12, np.float32), np.zeros(12, np.float32))
    model = build_model(OPTIONS[3], vocab_size=9, feature_shape=(12,), moments=moments)
    ones = np.ones((1, 12), np.float32)
    np.testing.assert_allclose(model.get_layer("normalization")(ones), ones)


def test_a_feature_that_hardly_varies_over_train_cannot_explode() -> None:
    variance = np.full(12, 4.0, np.float32)
    variance[0] = 1e-9
    model = build_model(OPTIONS[3], vocab_size=9, feature_shape=(12,), moments=(np.zeros(12, np.float32), variance))
    normalized = model.get_layer("normalization")(np.ones((1, 12), np.float32)).numpy()[0]
    np.testing.assert_allclose(normalized[1:], 0.5, rtol=1e-5)
    assert normalized[0] < 2.0


@pytest.mark.parametrize("config", OPTIONS)
def test_greedy_equals_the_slow_way(config: ModelConfig) -> None:
    captioner = Captioner(bundle(config))
    model = captioner.bundle.model
    features = features_for(config, 5, seed=3)
    found = captioner.caption_features(features, DecodingConfig(beam_width=1), image_ids=list("abcde"))
    for feature, [best] in zip(features, found, strict=True):
        words, total = [TOKENIZER.start_id], 0.0
        while len(words) < TOKENIZER.max_length:
            logits = model([feature[np.newaxis], np.array([words], np.int32)]).numpy()[0, -1].astype(np.float64)
            log_probs = logits - np.log(np.exp(logits).sum())
            log_probs[[PAD_ID, TOKENIZER.start_id]] = -np.inf
            if len(words) == 1:
                log_probs[TOKENIZER.end_id] = -np.inf
            words.append(int(log_probs.argmax()))
            total += log_probs.max()
            if words[-1] == TOKENIZER.end_id:
                break
        assert best.caption == TOKENIZER.decode(words)
        assert best.log_prob == pytest.approx(total, abs=1e-4)
        assert best.num_tokens == len(best.caption.split())


@pytest.mark.parametrize(
    "decoding",
    [
        DecodingConfig(beam_width=3),
        DecodingConfig(beam_width=4, num_captions=4, no_repeat_ngram=1, min_length=5),
        DecodingConfig(beam_width=6, num_captions=2, consensus=0.4, no_repeat_words=True, whole_sentences=True),
        DecodingConfig(sample=True, num_captions=3, temperature=1.5, top_k=5, top_p=0.9, sample_seed=3),
    ],
)
@pytest.mark.parametrize("config", [OPTIONS[0], OPTIONS[4], OPTIONS[6]])
def test_captions_do_not_depend_on_the_batch(config: ModelConfig, decoding: DecodingConfig) -> None:
    captioner = Captioner(bundle(config))
    features = features_for(config, 7, seed=4)
    together = captioner.caption_features(features, decoding, image_ids=list("abcdefg"))
    alone = [
        captioner.caption_features(feature[np.newaxis], decoding, image_ids=[name])[0]
        for feature, name in zip(features, "abcdefg", strict=True)
    ]
    assert [[each.caption for each in ranked] for ranked in together] == [
        [each.caption for each in ranked] for ranked in alone
    ]
    assert captioner.caption_features(features[:0], decoding, image_ids=[]) == []


@pytest.mark.parametrize("config", [OPTIONS[0], OPTIONS[4]])
def test_what_people_say_of_similar_photos_decides_among_the_beams_captions(
    tmp_path: Path, config: ModelConfig
) -> None:
    """Of the same beam: with neighbors, the caption that theirs are like."""
    plain = bundle(config)
    features = features_for(config, 3, seed=1)
    decoding = DecodingConfig(beam_width=8, num_captions=8, consensus=1.0, max_length=5)
    ids = ["new", "also new", "known"]  # a photo is not its own neighbor
    beams = Captioner(plain).caption_features(features, decoding, image_ids=ids)
    last = [each[-1].caption for each in beams]
    said = tuple((tokens(text),) for text in last)
    neighbors = Neighbors(("a", "b", "known"), photo_vectors([features]), said)
    whole = replace(plain, neighbors=neighbors, card=replace(plain.card, training={"keep_neighbors": True}))
    whole.save(str(tmp_path))
    assert bundle_facts(str(tmp_path), whole.card)["neighbors"] == "3 training photos"
    captioner = Captioner.load(tmp_path)
    found = captioner.caption_features(features, replace(decoding, num_neighbors=1), image_ids=ids)
    assert [each[0].caption for each in found[:2]] == last[:2]
    assert all(sorted(each) == sorted(others) for each, others in zip(found, beams, strict=True))
    assert captioner.caption_features(features, decoding, image_ids=ids) == beams, "only where asked for"
    with pytest.raises(InputError, match=r"--num-neighbors needs the photos .* train with --keep-neighbors"):
        Captioner(plain).caption_features(features, replace(decoding, num_neighbors=1), image_ids=ids)
    (tmp_path / "neighbors.parquet").unlink()
    with pytest.raises(FormatError, match=r"neighbors.parquet cannot be read"):
        Bundle.load(str(tmp_path))


def test_in_the_consensus_a_caption_that_matches_the_photo_comes_first(tmp_path: Path) -> None:
    config = OPTIONS[4]
    plain = bundle(config)
    features, mirrored = (features_for(config, 4, seed=seed) for seed in (1, 2))
    decoding = DecodingConfig(beam_width=8, num_captions=8, consensus=1.0, max_length=5, mirrored=True)
    known = Neighbors(tuple("abcd"), photo_vectors([features]), tuple((tokens(text),) for text in (*CAPTIONS, "a mat")))
    matching = Matching.fit(known, vocab_size=TOKENIZER.vocab_size)
    whole = replace(plain, matching=matching, card=replace(plain.card, training={"fit_matching": True}))
    whole.save(str(tmp_path))
    assert bundle_facts(str(tmp_path), whole.card)["matching"] == "of captions and photos"
    captioner = Captioner.load(tmp_path)
    arguments = {"image_ids": list("abcd"), "mirrored": mirrored}
    usual = captioner.caption_features(features, decoding, **arguments)
    assert usual == Captioner(plain).caption_features(features, decoding, **arguments), "only where asked for"
    found = captioner.caption_features(features, replace(decoding, matching=1e6), **arguments)
    scores = matching.scores(
        photo_vectors([features, mirrored]), [[tokens(each.caption) for each in beam] for beam in found]
    )
    assert all(np.all(np.diff(each) <= 1e-6) for each in scores), "by how well they match alone"
    assert found != usual
    assert [sorted(each) for each in found] == [sorted(each) for each in usual]
    with pytest.raises(InputError, match=r"--matching needs what tells .* train with --fit-matching"):
        Captioner(plain).caption_features(features, replace(decoding, matching=0.5), **arguments)
    (tmp_path / "matching.npz").unlink()
    with pytest.raises(FormatError, match=r"matching.npz cannot be read"):
        Bundle.load(str(tmp_path))


def tokens(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text.split())[1:-1])


@pytest.mark.parametrize("config", OPTIONS)
def test_bundle_round_trip(tmp_path: Path, config: ModelConfig) -> None:
    written = bundle(config)
    written.save(str(tmp_path / "model/bundle"))
    assert sorted(path.name for path in (tmp_path / "model/bundle").iterdir()) == [
        "card.json",
        "model.keras",
        "tokenizer.json",
    ]
    features = features_for(config, 3, seed=5)
    for location in (tmp_path / "model", tmp_path / "model/bundle"):
        read = Bundle.load(str(location))
        assert (read.tokenizer, read.card) == (written.tokenizer, written.card)
        before, after = (
            Captioner(each).caption_features(features, DecodingConfig(), image_ids=list("abc"))
            for each in (written, read)
        )
        assert before == after


def test_no_bundle_and_damaged_bundles(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no model in"):
        Bundle.load(str(tmp_path))
    bundle().save(str(tmp_path))
    (tmp_path / "model.keras").write_bytes(b"PK half a file")
    with pytest.raises(FormatError, match=r"model.keras cannot be loaded"):
        Bundle.load(str(tmp_path))
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(FormatError, match=r"card.json is damaged"):
        Bundle.load(str(tmp_path))


def test_the_merge_model_takes_the_mean_of_regions() -> None:
    regions = features_for(OPTIONS[4], 3, seed=6)
    tokens = np.random.default_rng(6).integers(1, TOKENIZER.vocab_size, (3, 4)).astype(np.int32)
    of_regions = build_model(OPTIONS[1], vocab_size=TOKENIZER.vocab_size, feature_shape=(5, 12))
    whole = build_model(OPTIONS[1], vocab_size=TOKENIZER.vocab_size, feature_shape=(12,))
    whole.set_weights(of_regions.get_weights())
    np.testing.assert_allclose(of_regions([regions, tokens]), whole([regions.mean(axis=1), tokens]), atol=1e-6)
    steps, state = decoder_of(of_regions).steps(of_regions).start(regions)
    found, _ = steps(
        np.full(3, TOKENIZER.start_id, np.int32), state, Wanted(1, (), (np.zeros(0, int), np.zeros(0, int)))
    )
    assert found.tokens.shape == (3, 1)


@pytest.mark.parametrize("config", [each for each in OPTIONS if each.needs_regions])
def test_no_two_layers_start_with_the_same_kernel_nor_with_one_too_small(config: ModelConfig) -> None:
    model = small_model(replace(config, units=64, embedding_dim=64))
    kernels = [layer.kernel.numpy() for layer in model.layers if type(layer).__name__ == "EinsumDense"]
    assert len({kernel.tobytes() for kernel in kernels}) == len(kernels)
    for kernel in kernels:
        assert kernel.std() == pytest.approx((2 / (64 + 64)) ** 0.5, rel=0.1)  # Glorot's
