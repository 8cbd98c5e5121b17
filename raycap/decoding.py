"""Greedy and beam search over a step function; knows no framework and no model."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

State = tuple[NDArray[Any], ...]
"""What a step function remembers: arrays with a row for each hypothesis."""


class StepFunction(Protocol):
    """A language model a token at a time."""

    def __call__(self, tokens: NDArray[np.int32], state: State) -> tuple[NDArray[np.float32], State]:
        """Return the natural log-probabilities of the next token, `(rows, vocab_size)`, and the new state.

        Args:
            tokens: `(rows,)`, the newest token of each hypothesis.
            state: after the tokens before it.
        """


class Hypothesis(NamedTuple):
    """One decoded sequence.

    Attributes:
        tokens: its ids, without start and end.
        log_prob: sum of the natural logs of its tokens' probabilities, the end token's included.
        finished: whether it reached the end token, rather than the greatest length.
    """

    tokens: tuple[int, ...]
    log_prob: float
    finished: bool


@dataclass
class _Beam:
    """All hypotheses of all photos still searched, `(photos, width)` unless said otherwise."""

    photos: NDArray[np.int64]  # (photos,) which photo each row of the rest is
    tokens: NDArray[np.int32]  # (photos, width, length)
    log_probs: NDArray[np.float64]
    lengths: NDArray[np.int64]
    finished: NDArray[np.bool_]
    state: State  # (photos * width, ...)


def search(
    step: StepFunction,
    state: State,
    *,
    start_id: int,
    end_id: int,
    max_length: int,
    beam_width: int = 1,
    length_penalty: float = 0.0,
    min_words: int = 1,
    forbidden: Collection[int] = (),
) -> list[list[Hypothesis]]:
    """Return the best hypotheses of each photo, best first.

    At each word the `beam_width` best hypotheses of a photo are kept, of those that have ended and the continuations
    of those that have not, ranked by `log_prob / length ** length_penalty`, where length counts the end token. With a
    width of 1 this is greedy search. Photos whose hypotheses have all ended leave the batch.

    Args:
        step: gives next-token log-probabilities.
        state: before the first token, a row a photo.
        start_id: the token that opens every sequence; never generated.
        end_id: the token that closes a sequence.
        max_length: tokens of a sequence at most, start and end included.
        beam_width: hypotheses kept a photo.
        length_penalty: 0 ranks by log-probability alone.
        min_words: words before the end token may come.
        forbidden: more tokens never to generate (padding).

    Returns:
        A list a photo, of `beam_width` hypotheses.

    Reference:
        Wu et al. 2016, arXiv:1609.08144, section 7 (length normalisation; ours is the plain power).
    """
    never = [start_id, *forbidden]
    num_photos = len(state[0])
    results: list[list[Hypothesis]] = [[] for _ in range(num_photos)]
    beam = _Beam(
        photos=np.arange(num_photos),
        tokens=np.full((num_photos, 1, 1), start_id, np.int32),
        log_probs=np.zeros((num_photos, 1)),
        lengths=np.zeros((num_photos, 1), np.int64),
        finished=np.zeros((num_photos, 1), bool),
        state=state,
    )
    for num_words in range(max_length - 1):
        if not len(beam.photos):
            break
        predicted, beam.state = step(beam.tokens[:, :, -1].reshape(-1), beam.state)
        log_probs = predicted.astype(np.float64)
        log_probs[:, never] = -np.inf
        if num_words < min_words:
            log_probs[:, end_id] = -np.inf
        beam = _advance(beam, log_probs, end_id, beam_width, length_penalty)
        beam = _release(beam, np.all(beam.finished, axis=1), results, end_id)
    _release(beam, np.ones(len(beam.photos), bool), results, end_id)
    return results


def _advance(beam: _Beam, log_probs: NDArray[np.float64], end_id: int, beam_width: int, length_penalty: float) -> _Beam:
    """Return the beam a token later, of `beam_width` hypotheses a photo."""
    num_photos, width = beam.log_probs.shape
    reach = min(beam_width, log_probs.shape[1])  # no hypothesis can place more than this among the best
    choices = _largest(log_probs, reach)
    gains = np.take_along_axis(log_probs, choices, axis=1).reshape(num_photos, width, reach)
    choices = choices.reshape(num_photos, width, reach)
    # a hypothesis that has ended goes on as itself, once, and nothing else
    gains[beam.finished] = -np.inf
    gains[beam.finished, 0] = 0.0
    choices[beam.finished] = end_id

    totals = (beam.log_probs[:, :, np.newaxis] + gains).reshape(num_photos, -1)
    lengths = np.repeat(beam.lengths + ~beam.finished, reach, axis=1)
    scores = totals / np.maximum(lengths, 1) ** length_penalty
    best = np.argsort(-scores, axis=1, kind="stable")[:, :beam_width]

    parents = best // reach
    tokens = np.take_along_axis(choices.reshape(num_photos, -1), best, axis=1)
    finished = np.take_along_axis(beam.finished, parents, axis=1) | (tokens == end_id)
    rows = (np.arange(num_photos)[:, np.newaxis] * width + parents).reshape(-1)
    history = np.take_along_axis(beam.tokens, parents[:, :, np.newaxis], axis=1)
    return _Beam(
        photos=beam.photos,
        tokens=np.concatenate([history, tokens[:, :, np.newaxis].astype(np.int32)], axis=2),
        log_probs=np.take_along_axis(totals, best, axis=1),
        lengths=np.take_along_axis(lengths, best, axis=1),
        finished=finished,
        state=tuple(array[rows] for array in beam.state),
    )


def _largest(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Return the columns of the `count` largest values of each row, largest first, ties by column."""
    if count == 1:
        first: NDArray[np.int64] = np.argmax(values, axis=1, keepdims=True)
        return first
    # argpartition would choose among ties at the edge as it likes, and otherwise on another machine
    edge = np.partition(values, -count, axis=1)[:, -count, np.newaxis]
    rows, columns = np.nonzero(values >= edge)
    columns = columns[np.lexsort((columns, -values[rows, columns], rows))]
    starts = np.searchsorted(rows, np.arange(len(values)))
    largest: NDArray[np.int64] = columns[starts[:, np.newaxis] + np.arange(count)]
    return largest


def _release(beam: _Beam, done: NDArray[np.bool_], results: list[list[Hypothesis]], end_id: int) -> _Beam:
    """Write the hypotheses of the photos that are `done` into `results`; return the beam of the others."""
    for row in np.flatnonzero(done):
        for rank in range(beam.tokens.shape[1]):
            tokens = tuple(int(token) for token in beam.tokens[row, rank, 1:])
            words = tokens[: tokens.index(end_id)] if end_id in tokens else tokens
            hypothesis = Hypothesis(words, float(beam.log_probs[row, rank]), bool(beam.finished[row, rank]))
            if np.isfinite(hypothesis.log_prob):
                results[beam.photos[row]].append(hypothesis)
    if not done.any():
        return beam
    keep = ~done
    width = beam.tokens.shape[1]
    rows = (np.flatnonzero(keep)[:, np.newaxis] * width + np.arange(width)).reshape(-1)
    return _Beam(
        photos=beam.photos[keep],
        tokens=beam.tokens[keep],
        log_probs=beam.log_probs[keep],
        lengths=beam.lengths[keep],
        finished=beam.finished[keep],
        state=tuple(array[rows] for array in beam.state),
    )
