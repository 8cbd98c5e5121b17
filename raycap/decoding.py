"""Greedy search, beam search and sampling over a step function; knows no framework and no model."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

State = tuple[NDArray[Any], ...]
"""What a step function remembers: arrays with a row for each hypothesis."""


class Wanted(NamedTuple):
    """Which continuations of each hypothesis a search asks for.

    Attributes:
        limit: the most probable ones, this many; None for the whole vocabulary.
        never: tokens that may not come, whatever the hypothesis.
        banned: `(pairs,)` rows and `(pairs,)` tokens that may not come next in that row.
    """

    limit: int | None
    never: tuple[int, ...]
    banned: tuple[NDArray[np.int64], NDArray[np.int64]]


class Continuations(NamedTuple):
    """The most probable next tokens of each hypothesis, best first, ties by token.

    Attributes:
        tokens: `(rows, count)` int32.
        log_probs: `(rows, count)` float32, natural, of the model's whole distribution; minus infinity for a token that
            may not come.
    """

    tokens: NDArray[np.int32]
    log_probs: NDArray[np.float32]


class StepFunction(Protocol):
    """A language model a token at a time."""

    def __call__(self, tokens: NDArray[np.int32], state: State, wanted: Wanted) -> tuple[Continuations, State]:
        """Return the continuations wanted of each hypothesis, and the new state.

        Args:
            tokens: `(rows,)`, the newest token of each hypothesis.
            state: after the tokens before it.
            wanted: how many, and which not.
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

    @classmethod
    def start(cls, state: State, width: int, start_id: int) -> Self:
        """Return `width` hypotheses a photo that hold the start token alone."""
        num_photos = len(state[0]) // width
        return cls(
            photos=np.arange(num_photos),
            tokens=np.full((num_photos, width, 1), start_id, np.int32),
            log_probs=np.zeros((num_photos, width)),
            lengths=np.zeros((num_photos, width), np.int64),
            finished=np.zeros((num_photos, width), bool),
            state=state,
        )


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
    no_repeat_ngram: int = 0,
    once: Collection[int] = (),
    not_last: Collection[int] = (),
    not_last_two: tuple[Collection[int], Collection[int]] = ((), ()),
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
        no_repeat_ngram: no sequence of this many words comes twice in a hypothesis; 0 allows any.
        once: tokens of which none comes twice in a hypothesis.
        not_last: tokens after which the end token may not come.
        not_last_two: nor may it come after one of the first of these, followed by one of the second.
        forbidden: more tokens never to generate (padding).

    Returns:
        A list a photo, of `beam_width` hypotheses; fewer where there are not so many.

    Reference:
        Wu et al. 2016, arXiv:1609.08144, section 7 (length normalisation; ours is the plain power).
    """
    rules = _Rules(
        end_id, (start_id, *forbidden), min_words, no_repeat_ngram, tuple(once), tuple(not_last), not_last_two
    )

    def advance(beam: _Beam, found: Continuations) -> _Beam:
        return _advance(beam, found, end_id, beam_width, length_penalty)

    # no hypothesis can place more than `beam_width` among the best
    return _run(step, _Beam.start(state, 1, start_id), rules, max_length, beam_width, advance)


def sample(
    step: StepFunction,
    state: State,
    *,
    uniforms: NDArray[np.float64],
    start_id: int,
    end_id: int,
    max_length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_words: int = 1,
    no_repeat_ngram: int = 0,
    once: Collection[int] = (),
    not_last: Collection[int] = (),
    not_last_two: tuple[Collection[int], Collection[int]] = ((), ()),
    forbidden: Collection[int] = (),
) -> list[list[Hypothesis]]:
    """Return hypotheses of each photo drawn at random, the most probable first.

    What is drawn for a photo depends on its uniforms alone, not on the photos beside it. A hypothesis' `log_prob` is
    the model's own, whatever the temperature.

    Args:
        step: see `search`, like all that is not named here.
        state: likewise.
        uniforms: `(photos, samples, max_length)` in [0, 1), one for each token of each sample.
        start_id: likewise.
        end_id: likewise.
        max_length: likewise.
        temperature: log-probabilities are divided by it; below 1 the probable becomes more so.
        top_k: draw from this many most probable tokens; 0 from all.
        top_p: draw from the fewest most probable tokens that together have this probability.
        min_words: likewise.
        no_repeat_ngram: likewise.
        once: likewise.
        not_last: likewise.
        not_last_two: likewise.
        forbidden: likewise.

    Reference:
        Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (top-p, nucleus sampling).
    """
    rules = _Rules(
        end_id, (start_id, *forbidden), min_words, no_repeat_ngram, tuple(once), tuple(not_last), not_last_two
    )
    num_samples = uniforms.shape[1]

    def advance(beam: _Beam, found: Continuations) -> _Beam:
        chances = uniforms[beam.photos, :, beam.tokens.shape[2] - 1].reshape(-1)
        drawn = _draw(found.log_probs.astype(np.float64), chances, temperature, top_p)[:, np.newaxis]
        tokens = np.take_along_axis(found.tokens, drawn, axis=1).reshape(*beam.finished.shape, 1)
        gains = np.take_along_axis(found.log_probs, drawn, axis=1).reshape(beam.log_probs.shape)
        return replace(
            beam,
            tokens=np.concatenate([beam.tokens, tokens], axis=2),
            log_probs=beam.log_probs + gains,
            finished=beam.finished | (tokens[:, :, 0] == end_id),
        )

    repeated = tuple(np.repeat(array, num_samples, axis=0) for array in state)
    found = _run(step, _Beam.start(repeated, num_samples, start_id), rules, max_length, top_k or None, advance)
    return [sorted(each, key=lambda hypothesis: -hypothesis.log_prob) for each in found]


def _draw(
    log_probs: NDArray[np.float64], chances: NDArray[np.float64], temperature: float, top_p: float
) -> NDArray[np.int64]:
    """Return a column for each row of `log_probs`, largest first, by inverting its distribution at `chances`."""
    weights = np.exp((log_probs - log_probs[:, :1]) / temperature)
    weights /= weights.sum(axis=1, keepdims=True)
    before = np.cumsum(weights, axis=1) - weights
    weights[before >= top_p] = 0.0
    cumulative = np.cumsum(weights, axis=1)
    places = np.sum(cumulative <= chances[:, np.newaxis] * cumulative[:, -1:], axis=1)
    drawn: NDArray[np.int64] = np.minimum(
        places, np.sum(weights > 0, axis=1) - 1
    )  # where rounding went beyond the last
    return drawn


_NONE = np.zeros((2, 0), np.int64)


@dataclass(frozen=True)
class _Rules:
    """Which tokens may not come next."""

    end_id: int
    never: tuple[int, ...]
    min_words: int
    no_repeat_ngram: int
    once: tuple[int, ...]
    not_last: tuple[int, ...]
    not_last_two: tuple[Collection[int], Collection[int]]

    def wanted(self, tokens: NDArray[np.int32], count: int | None) -> Wanted:
        """Return what to ask for after `tokens`, `(rows, length)`, to have `count` continuations."""
        if count is not None and self._is_too_short(tokens):
            count += 1
        return Wanted(count, self.never, self._banned(tokens))

    def apply(self, found: Continuations, tokens: NDArray[np.int32], count: int | None) -> Continuations:
        """Return the `count` continuations after `tokens`, the end token not among them if it comes too early."""
        if not self._is_too_short(tokens):
            return found
        ends = found.tokens == self.end_id
        log_probs = np.where(ends, -np.inf, found.log_probs)
        stuck = np.all(np.isneginf(log_probs), axis=1)  # nothing else may come, so the end must
        log_probs[stuck] = found.log_probs[stuck]
        order = np.argsort(-log_probs, axis=1, kind="stable")[:, :count]
        return Continuations(np.take_along_axis(found.tokens, order, 1), np.take_along_axis(log_probs, order, 1))

    def _is_too_short(self, tokens: NDArray[np.int32]) -> bool:
        return len(tokens[0]) - 1 < self.min_words

    def _is_open(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return for each row whether it may not end yet, for what its last words are."""
        is_open = np.isin(tokens[:, -1], self.not_last)
        first, second = self.not_last_two
        if first and tokens.shape[1] > 1:
            is_open |= np.isin(tokens[:, -1], tuple(second)) & np.isin(tokens[:, -2], tuple(first))
        return is_open

    def _banned(self, tokens: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and tokens: what would repeat an n-gram or a token that may come once, and the end too early."""
        said = tokens[:, 1:]
        rows, places = np.nonzero(np.isin(said, self.once)) if self.once else _NONE
        open_rows = np.flatnonzero(self._is_open(tokens))
        banned = [(rows, said[rows, places]), (open_rows, np.full(len(open_rows), self.end_id))]
        size = self.no_repeat_ngram
        if 0 < size <= said.shape[1]:
            windows = np.lib.stride_tricks.sliding_window_view(said, size, axis=1)
            tail = tokens[:, tokens.shape[1] - size + 1 :]
            rows, places = np.nonzero(np.all(windows[:, :, :-1] == tail[:, np.newaxis], axis=2))
            banned.append((rows, windows[rows, places, -1]))
        all_rows, all_tokens = (np.concatenate(each).astype(np.int64) for each in zip(*banned, strict=True))
        return all_rows, all_tokens


def _run(
    step: StepFunction,
    beam: _Beam,
    rules: _Rules,
    max_length: int,
    count: int | None,
    advance: Callable[[_Beam, Continuations], _Beam],
) -> list[list[Hypothesis]]:
    """Advance a beam a token at a time until every hypothesis has ended, and return them."""
    results: list[list[Hypothesis]] = [[] for _ in range(len(beam.photos))]
    for _ in range(max_length - 1):
        if not len(beam.photos):
            break
        finished = beam.finished.reshape(-1)
        active = np.flatnonzero(~finished)
        tokens = beam.tokens.reshape(len(finished), -1)[active]
        state = tuple(array[active] for array in beam.state)
        found, state = step(tokens[:, -1], state, rules.wanted(tokens, count))
        found = rules.apply(found, tokens, count)
        # a row for every hypothesis again; one that has ended has no state, and any will do
        rows = np.maximum(np.cumsum(~finished) - 1, 0)
        beam.state = tuple(array[rows] for array in state)
        beam = advance(beam, _with_finished(found, active, len(finished), rules.end_id))
        beam = _release(beam, np.all(beam.finished, axis=1), results, rules.end_id)
    _release(beam, np.ones(len(beam.photos), bool), results, rules.end_id)
    return results


def _with_finished(found: Continuations, active: NDArray[np.int64], num_rows: int, end_id: int) -> Continuations:
    """Return continuations of all rows: one that has ended goes on as itself, once, and nothing else."""
    tokens = np.full((num_rows, found.tokens.shape[1]), end_id, np.int32)
    log_probs = np.full(tokens.shape, -np.inf, np.float32)
    log_probs[:, 0] = 0.0
    tokens[active], log_probs[active] = found
    return Continuations(tokens, log_probs)


def _advance(beam: _Beam, found: Continuations, end_id: int, beam_width: int, length_penalty: float) -> _Beam:
    """Return the beam a token later, of `beam_width` hypotheses a photo."""
    num_photos, width = beam.log_probs.shape
    reach = found.tokens.shape[1]
    gains = found.log_probs.reshape(num_photos, width, reach)
    totals = (beam.log_probs[:, :, np.newaxis] + gains).reshape(num_photos, -1)
    lengths = np.repeat(beam.lengths + ~beam.finished, reach, axis=1)
    scores = totals / np.maximum(lengths, 1) ** length_penalty
    best = np.argsort(-scores, axis=1, kind="stable")[:, :beam_width]

    parents = best // reach
    tokens = np.take_along_axis(found.tokens.reshape(num_photos, -1), best, axis=1)
    finished = np.take_along_axis(beam.finished, parents, axis=1) | (tokens == end_id)
    rows = (np.arange(num_photos)[:, np.newaxis] * width + parents).reshape(-1)
    history = np.take_along_axis(beam.tokens, parents[:, :, np.newaxis], axis=1)
    return _Beam(
        photos=beam.photos,
        tokens=np.concatenate([history, tokens[:, :, np.newaxis]], axis=2),
        log_probs=np.take_along_axis(totals, best, axis=1),
        lengths=np.take_along_axis(lengths, best, axis=1),
        finished=finished,
        state=tuple(array[rows] for array in beam.state),
    )


def _release(beam: _Beam, done: NDArray[np.bool_], results: list[list[Hypothesis]], end_id: int) -> _Beam:
    """Write the hypotheses of the photos that are `done` into `results`; return the beam of the others."""
    ended = zip(beam.photos[done], beam.tokens[done, :, 1:].tolist(), beam.log_probs[done].tolist(), strict=True)
    for photo, sequences, log_probs in ended:
        for tokens, log_prob in zip(sequences, log_probs, strict=True):
            finished = end_id in tokens
            words = tokens[: tokens.index(end_id)] if finished else tokens
            if math.isfinite(log_prob):
                results[photo].append(Hypothesis(tuple(words), log_prob, finished))
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
