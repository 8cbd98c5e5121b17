"""Several decoders that choose each word together, against the mean of what each says."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_forcing import batch, keras_loss
from test_model import OPTIONS, TOKENIZER, bundle, features_for, small_model
from test_steps import ALL, in_order_of_tokens

from raycap.captioner import Captioner
from raycap.config import DecodingConfig
from raycap.decoders import decoder_of, ensemble
from raycap.dev_loss import DevLoss
from raycap.model import Bundle
from raycap.sequences import PackedBatch

KINDS = [[OPTIONS[0], OPTIONS[1]], [OPTIONS[4], OPTIONS[4], OPTIONS[4]]]


def models_of(kinds: list) -> list:
    return [small_model(config, seed=seed) for seed, config in enumerate(kinds)]


@pytest.mark.parametrize("kinds", KINDS)
def test_its_logits_are_the_mean(kinds: list) -> None:
    models = models_of(kinds)
    features = features_for(kinds[0], 4, seed=1)
    tokens = np.random.default_rng(1).integers(1, TOKENIZER.vocab_size, (4, 5)).astype(np.int32)
    expected = np.mean([model([features, tokens]) for model in models], axis=0)
    np.testing.assert_allclose(ensemble.combine(models)([features, tokens]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kinds", KINDS)
def test_a_word_at_a_time_it_is_the_same_model(kinds: list) -> None:
    model = ensemble.combine(models_of(kinds))
    features = features_for(kinds[0], 6, seed=1)
    tokens = np.random.default_rng(2).integers(1, TOKENIZER.vocab_size, (6, 5)).astype(np.int32)
    rows = np.array([5, 0, 0, 3, 2, 1])
    features_then, tokens_then = features[rows], np.concatenate([tokens[rows, :2], tokens[:, 2:]], axis=1)
    step, state = decoder_of(model).steps(model).start(features)
    for place in range(tokens.shape[1]):
        if place == 2:  # hypotheses are dropped, doubled and reordered
            state = tuple(array[rows] for array in state)
        found, state = step(tokens[:, place], state, ALL)
    logits = model([features_then, tokens_then]).numpy()[:, -1]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(in_order_of_tokens(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kinds", KINDS)
def test_its_dev_loss_is_that_of_the_model(kinds: list) -> None:
    model = ensemble.combine(models_of(kinds))
    shape = features_for(kinds[0], 1, seed=0).shape[1:]
    features, photos, tokens, targets = batch([3, 6, 1, 4], shape)
    kernel, bias = map(tf.constant, ensemble.vocabulary_weights(ensemble.members(model)))
    loss = DevLoss(decoder_of(model).forcing(model), lambda: (kernel, bias), shape)
    found = loss([PackedBatch(features, photos, tokens, targets, num_targets=14)] * 2)
    assert found.total == pytest.approx(2 * float(keras_loss(model, features, photos, tokens, targets)), rel=1e-5)
    assert found.mean == found.total / 28


def test_saved_and_loaded_its_captions_are_the_same(tmp_path: Path) -> None:
    one = bundle(OPTIONS[4])
    whole = Bundle(ensemble.combine(models_of([OPTIONS[4]] * 2)), one.tokenizer, one.card)
    whole.save(str(tmp_path))
    features, ids = features_for(OPTIONS[4], 5, seed=3), list("abcde")
    decoding = DecodingConfig(beam_width=3, num_captions=3)
    found, again = (
        Captioner(each).caption_features(features, decoding, image_ids=ids)
        for each in (whole, Bundle.load(str(tmp_path)))
    )
    assert [[each.caption for each in captions] for captions in found] == [
        [each.caption for each in captions] for captions in again
    ]


def test_of_equal_members_it_is_each_of_them() -> None:
    one, *same = (bundle(OPTIONS[0]) for _ in range(3))
    both = Bundle(ensemble.combine([each.model for each in same]), one.tokenizer, one.card)
    features, decoding = features_for(OPTIONS[0], 5, seed=4), DecodingConfig(beam_width=3)
    found, expected = (
        Captioner(each).caption_features(features, decoding, image_ids=list("abcde")) for each in (both, one)
    )
    for [mine], [theirs] in zip(found, expected, strict=True):
        assert mine.caption == theirs.caption
        assert mine.log_prob == pytest.approx(theirs.log_prob, rel=1e-4)
