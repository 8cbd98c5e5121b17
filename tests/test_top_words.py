"""The most probable words, in blocks and threads, against the whole softmax in double precision."""

import numpy as np
import pytest

from raycap.decoding import Wanted
from raycap.threads import Threads
from raycap.top_words import TopWords, largest_of

NONE = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def slow(kernel, bias, hidden, wanted):
    """Tokens and log-probabilities of the whole vocabulary, best first."""
    logits = hidden.astype(np.float64) @ kernel + bias
    peaks = logits.max(axis=1, keepdims=True)
    log_probs = logits - peaks - np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True))
    log_probs[:, list(wanted.never)] = -np.inf
    log_probs[wanted.banned] = -np.inf
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, : wanted.limit]
    return order, np.take_along_axis(log_probs, order, axis=1)


def layer(rng, vocab_size, units=8, scale=1.0):
    return (scale * rng.normal(size=(units, vocab_size))).astype(np.float32), rng.normal(size=vocab_size).astype(
        np.float32
    )


@pytest.mark.parametrize("vocab_size", [1, 2, 5, 511, 512, 513, 1500])
@pytest.mark.parametrize("num_rows", [1, 31, 65, 1100])
@pytest.mark.parametrize("count", [1, 2, 16, 17, None])
def test_they_are_those_of_the_whole_softmax(vocab_size, num_rows, count):
    rng = np.random.default_rng([vocab_size, num_rows])
    kernel, bias = layer(rng, vocab_size)
    hidden = rng.normal(size=(num_rows, 8)).astype(np.float32)
    wanted = Wanted(count, (), NONE)
    found = TopWords(kernel, bias, threads=Threads(2))(hidden, wanted)
    tokens, log_probs = slow(kernel, bias, hidden, wanted)
    assert found.tokens.shape == tokens.shape
    assert found.tokens.dtype == np.int32
    np.testing.assert_allclose(found.log_probs, log_probs, rtol=1e-5, atol=1e-5)
    assert (found.tokens == tokens).mean() > 0.999  # but where rounding decides


def test_what_may_not_come_is_last_and_impossible():
    rng = np.random.default_rng(1)
    kernel, bias = layer(rng, 1200)
    hidden = rng.normal(size=(700, 8)).astype(np.float32)
    best = TopWords(kernel, bias, threads=Threads(2))(hidden, Wanted(2, (), NONE)).tokens
    # of every other row the two best, in an order that is not the rows'
    rows = rng.permutation(np.repeat(np.arange(0, 700, 2), 2))
    tokens = np.where(rng.random(len(rows)) < 0.5, best[rows, 0], best[rows, 1]).astype(np.int64)
    wanted = Wanted(3, (7, 600), (rows, tokens))
    found = TopWords(kernel, bias, threads=Threads(2))(hidden, wanted)
    expected, log_probs = slow(kernel, bias, hidden, wanted)
    np.testing.assert_array_equal(found.tokens, expected)
    np.testing.assert_allclose(found.log_probs, log_probs, rtol=1e-5, atol=1e-5)
    everything = TopWords(kernel, bias, threads=Threads(2))(hidden, wanted._replace(limit=None))
    assert (np.isneginf(everything.log_probs).sum(axis=1)[1::2] == 2).all()


@pytest.mark.parametrize("scale", [30.0, 1000.0])
def test_large_logits_do_not_overflow(scale):
    rng = np.random.default_rng(2)
    kernel, bias = layer(rng, 1600, scale=scale)
    hidden = rng.normal(size=(40, 8)).astype(np.float32)
    wanted = Wanted(4, (), NONE)
    found = TopWords(kernel, bias, threads=Threads(1))(hidden, wanted)
    tokens, log_probs = slow(kernel, bias, hidden, wanted)
    np.testing.assert_array_equal(found.tokens[:, 0], tokens[:, 0])
    held = np.where(log_probs < np.log(1e-36), -np.inf, log_probs)
    np.testing.assert_allclose(
        np.where(log_probs < np.log(1e-36), -np.inf, found.log_probs), held, rtol=1e-4, atol=1e-2
    )


def test_what_may_not_come_stays_away_from_large_logits():
    rng = np.random.default_rng(3)
    kernel, bias = layer(rng, 1100, scale=1.0)
    hidden = rng.normal(size=(40, 8)).astype(np.float32)
    bias[5], hidden[::3] = 200.0, 60 * hidden[::3]  # forbidden, and more probable than all others together
    wanted = Wanted(2, (6,), (np.repeat(np.arange(1, 40), 2), np.tile([5, 9], 39)))
    found = TopWords(kernel, bias - 150, threads=Threads(1))(hidden, wanted)
    tokens, log_probs = slow(kernel, bias - 150, hidden, wanted)
    held = log_probs > np.log(1e-36)
    np.testing.assert_array_equal(found.tokens[held], tokens[held])
    np.testing.assert_allclose(found.log_probs[held], log_probs[held], rtol=1e-4, atol=1e-2)
    assert not np.isin(found.tokens[1:][np.isfinite(found.log_probs[1:])], [5, 6, 9]).any()


@pytest.mark.parametrize("low", [-200.0, -1e4])
def test_logits_far_below_nothing_do_not_vanish(low):
    kernel, bias = np.zeros((2, 600), np.float32), np.full(600, low, np.float32)
    bias[7] = low + 1
    found = TopWords(kernel, bias, threads=Threads(1))(np.zeros((3, 2), np.float32), Wanted(1, (), NONE))
    assert found.tokens.tolist() == [[7]] * 3
    np.testing.assert_allclose(found.log_probs, 1 - np.log(599 + np.e), rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_ties_go_to_the_first_column(count):
    values = np.zeros((3, 30), np.float32)
    columns, largest = largest_of(values, count)
    np.testing.assert_array_equal(columns, [range(count)] * 3)
    assert (largest == 0).all()


@pytest.mark.parametrize("count", [2, 16, 17, 29, 30, None])
@pytest.mark.parametrize("num_values", [2, 5, 1000])
def test_the_largest_are_those_of_a_stable_sort(count, num_values):
    """Of so few different values, ties cross every edge."""
    values = np.random.default_rng([num_values, count or 0]).integers(num_values, size=(40, 30)).astype(np.float32)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :count]
    columns, largest = largest_of(values.copy(), count)
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(largest, np.take_along_axis(values, expected, axis=1))
