"""The merge model a word at a time, on either device, against the model run whole."""

import numpy as np
import pytest
from test_model import OPTIONS, TOKENIZER, small_model

from raycap.config import ModelConfig
from raycap.decoding import Wanted
from raycap.next_word import GpuTopWords, NextWord
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
    features = rng.normal(size=(300, 12)).astype(np.float32)
    tokens = rng.integers(1, TOKENIZER.vocab_size, (300, 6)).astype(np.int32)
    tokens[:150, :3] = tokens[0, :3]  # many photos, one prefix
    logits = model([features, tokens]).numpy()
    expected = logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))
    next_word = NextWord(model)
    if on_gpu:
        next_word.top = GpuTopWords(*model.get_layer("next_word").get_weights())
    step, state = next_word.start(features)
    for place in range(tokens.shape[1]):
        found, state = step(tokens[:, place], state, ALL)
        np.testing.assert_allclose(in_order_of_tokens(found), expected[:, place], rtol=1e-4, atol=1e-5)


def test_hypotheses_may_be_dropped_doubled_and_reordered() -> None:
    model = small_model(OPTIONS[0])
    features = np.random.default_rng(2).normal(size=(3, 12)).astype(np.float32)
    step, state = NextWord(model).start(features)
    _, state = step(np.array([1, 1, 1], np.int32), state, ALL)
    rows = np.array([2, 0, 0])
    _, state = step(np.array([3, 4, 5], np.int32), tuple(array[rows] for array in state), ALL)
    rows = np.array([1, 0])
    found, _ = step(np.array([6, 7], np.int32), tuple(array[rows] for array in state), ALL)
    logits = model([features[[0, 2]], np.array([[1, 4, 6], [1, 3, 7]], np.int32)]).numpy()[:, -1]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(in_order_of_tokens(found), expected, rtol=1e-4, atol=1e-5)


def test_two_searches_of_one_model_do_not_meet() -> None:
    next_word = NextWord(small_model(OPTIONS[0]))
    features = np.random.default_rng(3).normal(size=(2, 12)).astype(np.float32)
    first, state = next_word.start(features)
    alone, _ = first(np.array([1, 2], np.int32), state, ALL)
    again, state = next_word.start(features)
    other, other_state = next_word.start(features[::-1])
    other(np.array([5, 6], np.int32), other_state, ALL)
    found, _ = again(np.array([1, 2], np.int32), state, ALL)
    np.testing.assert_array_equal(found.log_probs, alone.log_probs)


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
