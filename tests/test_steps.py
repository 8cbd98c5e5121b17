"""Decoders a word at a time, on either device, against their models run whole."""

import numpy as np
import pytest
from test_model import OPTIONS, TOKENIZER, features_for, small_model

from raycap.config import ModelConfig
from raycap.decoders import decoder_of
from raycap.decoders.vocabulary import GpuTopWords
from raycap.decoding import Wanted
from raycap.threads import Threads

NONE = (np.zeros(0, np.int64), np.zeros(0, np.int64))
ALL = Wanted(None, (), NONE)


def in_order_of_tokens(found):
    return np.take_along_axis(found.log_probs, np.argsort(found.tokens, axis=1), axis=1)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("config", OPTIONS)
def test_step_function_equals_running_the_whole_prefix(config: ModelConfig, on_gpu: bool) -> None:
    model = small_model(config)
    rng = np.random.default_rng(1)
    features = features_for(config, 300, seed=1)
    tokens = rng.integers(1, TOKENIZER.vocab_size, (300, 6)).astype(np.int32)
    tokens[:150, :3] = tokens[0, :3]  # many photos, one prefix
    logits = model([features, tokens]).numpy()
    expected = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    steps = decoder_of(model).steps(model)
    if on_gpu:
        steps.top = GpuTopWords(*model.get_layer("next_word").get_weights())
    step, state = steps.start(features)
    for place in range(tokens.shape[1]):
        found, state = step(tokens[:, place], state, ALL)
        np.testing.assert_allclose(in_order_of_tokens(found), expected[:, place], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [OPTIONS[0], OPTIONS[4], OPTIONS[6]])
def test_hypotheses_may_be_dropped_doubled_and_reordered(config: ModelConfig) -> None:
    model = small_model(config)
    features = features_for(config, 3, seed=2)
    step, state = decoder_of(model).steps(model).start(features)
    _, state = step(np.array([1, 1, 1], np.int32), state, ALL)
    rows = np.array([2, 0, 0])
    _, state = step(np.array([3, 4, 5], np.int32), tuple(array[rows] for array in state), ALL)
    rows = np.array([1, 0])
    found, _ = step(np.array([6, 7], np.int32), tuple(array[rows] for array in state), ALL)
    logits = model([features[[0, 2]], np.array([[1, 4, 6], [1, 3, 7]], np.int32)]).numpy()[:, -1]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(in_order_of_tokens(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [OPTIONS[0], OPTIONS[4], OPTIONS[6]])
def test_two_searches_of_one_model_do_not_meet(config: ModelConfig) -> None:
    model = small_model(config)
    steps = decoder_of(model).steps(model)
    features = features_for(config, 2, seed=3)
    first, state = steps.start(features)
    alone, _ = first(np.array([1, 2], np.int32), state, ALL)
    again, state = steps.start(features)
    other, other_state = steps.start(features[::-1])
    other(np.array([5, 6], np.int32), other_state, ALL)
    found, _ = again(np.array([1, 2], np.int32), state, ALL)
    np.testing.assert_array_equal(found.log_probs, alone.log_probs)


@pytest.mark.parametrize("config", [OPTIONS[0], OPTIONS[4], OPTIONS[6]])
def test_of_several_views_the_mean_of_the_logits_decides(config: ModelConfig) -> None:
    model = small_model(config)
    views = [features_for(config, 4, seed=seed) for seed in (1, 2)]
    tokens = np.random.default_rng(3).integers(1, TOKENIZER.vocab_size, (4, 3)).astype(np.int32)
    step, state = decoder_of(model).steps(model).start(*views)
    for place in range(2):
        _, state = step(tokens[:, place], state, ALL)
    rows = np.array([3, 0, 0, 1])
    found, _ = step(tokens[:, 2], tuple(array[rows] for array in state), ALL)
    words = np.concatenate([tokens[rows, :2], tokens[:, 2:]], axis=1)
    logits = np.mean([model([view[rows], words]).numpy()[:, -1] for view in views], axis=0)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(in_order_of_tokens(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [OPTIONS[1], OPTIONS[5], OPTIONS[7]])
def test_weights_that_changed_are_taken_anew(config: ModelConfig) -> None:
    model, other = small_model(config), small_model(config, seed=1)
    features = features_for(config, 4, seed=5)
    steps = decoder_of(model).steps(model)
    model.set_weights(other.get_weights())
    steps.refresh()
    both = (steps.start(features), decoder_of(other).steps(other).start(features))
    (found, _), (wanted, _) = (step(np.full(4, 1, np.int32), state, ALL) for step, state in both)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)
    np.testing.assert_allclose(found.log_probs, wanted.log_probs, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 40, 2000, None])
def test_both_devices_find_the_same_words(count: int | None) -> None:
    from raycap.top_words import TopWords

    rng = np.random.default_rng(4)
    kernel = rng.normal(size=(16, 1300)).astype(np.float32)
    bias = rng.normal(size=1300).astype(np.float32)
    hidden = rng.normal(size=(90, 16)).astype(np.float32)
    wanted = Wanted(count, (0, 1299), (np.array([3, 3, 80]), np.array([600, 601, 5])))
    on_cpu = TopWords(kernel, bias, threads=Threads())(hidden, wanted)
    on_gpu = GpuTopWords(kernel, bias)(hidden, wanted)
    allowed = np.isfinite(on_cpu.log_probs)
    assert (np.isfinite(on_gpu.log_probs) == allowed).all()
    np.testing.assert_allclose(on_cpu.log_probs[allowed], on_gpu.log_probs[allowed], rtol=1e-4, atol=1e-5)
    assert (on_cpu.tokens == on_gpu.tokens)[allowed].mean() > 0.999  # but where rounding decides
