import itertools
import math
from functools import cache

import numpy as np
import pytest

from raycap.decoding import Hypothesis, search

PAD, START, END, A, B, C = range(6)
VOCAB_SIZE = 6


class Scripted:
    """A step function over a table of next-token probabilities by photo and prefix; its state is the prefix itself.

    It checks that what it is given is a prefix that search may have built, and notes how many rows came.
    """

    def __init__(self, probabilities, *, vocab_size=VOCAB_SIZE):
        self.probabilities = probabilities  # (photo, prefix) -> {token: probability}
        self.vocab_size = vocab_size
        self.rows = []
        self.newest = []

    def __call__(self, tokens, state):
        photos, prefixes = state
        assert tokens.shape == (len(photos),) == (len(prefixes),)
        assert tokens.dtype == np.int32
        prefixes = np.concatenate([prefixes, tokens[:, np.newaxis]], axis=1)
        assert prefixes.shape[1] == len(self.rows) + 1
        assert (prefixes[:, 0] == START).all()
        self.rows.append(len(tokens))
        self.newest.append(tokens.tolist())
        log_probs = np.stack(
            [self.log_probs(int(p), tuple(map(int, row))) for p, row in zip(photos, prefixes, strict=True)]
        )
        return log_probs, (photos, prefixes)

    def log_probs(self, photo, prefix):
        row = np.full(self.vocab_size, -np.inf, np.float32)
        given = self.probabilities(photo, prefix) if END not in prefix else {END: 1.0}
        for token, probability in given.items():
            row[token] = math.log(probability)
        return row

    def total(self, photo, tokens):
        """The log-probability of a whole sequence, without its start."""
        sequence = (START, *tokens)
        return sum(float(self.log_probs(photo, sequence[:n])[sequence[n]]) for n in range(1, len(sequence)))


def table(probabilities):
    """The same script for every photo; `...` is any other prefix."""
    return Scripted(lambda _, prefix: probabilities.get(prefix[1:], probabilities.get(..., {END: 1.0})))


def noise(seed=0, vocab_size=VOCAB_SIZE):
    """Seeded random probabilities of every token, specials included, another for each photo and prefix."""

    @cache
    def probabilities(photo, prefix):
        logits = np.random.default_rng([seed, photo, *prefix]).normal(0, 1.5, vocab_size)
        return dict(enumerate(np.exp(logits) / np.exp(logits).sum()))

    return Scripted(probabilities, vocab_size=vocab_size)


def run(step, num_photos=1, **options):
    state = (np.arange(num_photos), np.zeros((num_photos, 0), np.int32))
    settings = {"start_id": START, "end_id": END, "max_length": 6, "forbidden": (PAD,)} | options
    return search(step, state, **settings)


def best(step, **options):
    return run(step, **options)[0][0]


def enumerate_all(step, photo, *, max_length, length_penalty=0.0, min_words=1, words=(A, B, C)):
    """Every hypothesis there is, best first."""
    found = []
    for count in range(max_length):
        for said in itertools.product(words, repeat=count):
            if min_words <= count <= max_length - 2:
                found.append(Hypothesis(said, step.total(photo, (*said, END)), True))
            if count == max_length - 1:
                found.append(Hypothesis(said, step.total(photo, said), False))
    return sorted(found, key=lambda each: -each.log_prob / (len(each.tokens) + each.finished) ** length_penalty)


# The likeliest first word leads to a worse sentence.
GARDEN_PATH = {
    (): {A: 0.6, B: 0.4},
    (A,): {C: 0.35, A: 0.33, END: 0.32},
    (B,): {C: 0.9, END: 0.1},
    (B, C): {END: 1.0},
    (A, C): {END: 0.5, C: 0.5},
    ...: {END: 1.0},
}


def test_greedy_takes_the_likeliest_word_each_time():
    found = best(table(GARDEN_PATH), beam_width=1)
    assert found.tokens == (A, C)
    assert found.finished
    assert found.log_prob == pytest.approx(math.log(0.6 * 0.35 * 0.5), abs=1e-6)


def test_beam_search_finds_what_greedy_misses():
    hypotheses = run(table(GARDEN_PATH), beam_width=2)[0]
    assert [each.tokens for each in hypotheses] == [(B, C), (A, C)]
    assert hypotheses[0].log_prob == pytest.approx(math.log(0.4 * 0.9), abs=1e-6)
    assert hypotheses[1].log_prob == pytest.approx(math.log(0.6 * 0.35 * 0.5), abs=1e-6)


def test_a_width_of_one_is_the_default_and_equals_greedy_by_hand():
    step = noise(seed=1)
    for photo, (found,) in enumerate(run(step, num_photos=5, max_length=8)):
        prefix, log_prob = (START,), 0.0
        while len(prefix) < 8 and prefix[-1] != END:
            log_probs = step.log_probs(photo, prefix)
            log_probs[[PAD, START]] = -np.inf
            if len(prefix) == 1:
                log_probs[END] = -np.inf
            log_prob += float(log_probs.max())
            prefix = (*prefix, int(log_probs.argmax()))
        finished = prefix[-1] == END
        assert found == (prefix[1:-1] if finished else prefix[1:], pytest.approx(log_prob), finished)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("min_words", [0, 1, 2])
@pytest.mark.parametrize("max_length", [2, 3, 5])
def test_a_beam_wide_enough_equals_brute_force(max_length, min_words, length_penalty):
    step = noise(seed=2)
    options = {"max_length": max_length, "min_words": min_words, "length_penalty": length_penalty}
    everything = run(step, num_photos=3, beam_width=200, **options)
    for photo, hypotheses in enumerate(everything):
        expected = enumerate_all(step, photo, **options)
        assert [each.tokens for each in hypotheses] == [each.tokens for each in expected]
        assert [each.finished for each in hypotheses] == [each.finished for each in expected]
        assert [each.log_prob for each in hypotheses] == pytest.approx([each.log_prob for each in expected])


@pytest.mark.parametrize("beam_width", [1, 2, 3, 5, 10])
def test_a_narrower_beam_finds_at_most_as_much(beam_width):
    step = noise(seed=3)
    for photo, hypotheses in enumerate(run(step, num_photos=8, beam_width=beam_width)):
        everything = enumerate_all(step, photo, max_length=6)
        assert hypotheses[0].log_prob <= everything[0].log_prob + 1e-9
        known = {each.tokens: each for each in everything if each.finished}
        known |= {each.tokens: each for each in everything if not each.finished}
        assert {each.tokens for each in hypotheses} <= known.keys()


@pytest.mark.parametrize("beam_width", [1, 2, 4, 16])
def test_log_prob_is_the_sum_over_the_hypothesis_own_tokens(beam_width):
    """A state row that did not follow its hypothesis would give another prefix's probabilities."""
    step = noise(seed=4)
    for photo, hypotheses in enumerate(run(step, num_photos=6, beam_width=beam_width, max_length=7)):
        assert len(hypotheses) == beam_width
        for each in hypotheses:
            said = (*each.tokens, END) if each.finished else each.tokens
            assert each.log_prob == pytest.approx(step.total(photo, said), abs=1e-5)


def test_hypotheses_come_best_first_and_none_twice():
    for length_penalty in (0.0, 1.0):
        for hypotheses in run(noise(seed=5), num_photos=6, beam_width=8, length_penalty=length_penalty):
            scores = [each.log_prob / (len(each.tokens) + each.finished) ** length_penalty for each in hypotheses]
            assert scores == sorted(scores, reverse=True)
            assert len({(each.tokens, each.finished) for each in hypotheses}) == len(hypotheses) == 8


SHORT_OR_LONG = {
    (): {A: 0.6, B: 0.4},
    (A,): {END: 1.0},
    (B,): {C: 0.97, A: 0.03},
    (B, C): {A: 0.97, B: 0.03},
    (B, C, A): {END: 1.0},
    ...: {END: 1.0},
}


@pytest.mark.parametrize(
    ("length_penalty", "winner"),
    [(0.0, (A,)), (0.5, (A,)), (1.0, (B, C, A)), (2.0, (B, C, A))],
)
def test_length_penalty_changes_the_winner(length_penalty, winner):
    short, long = math.log(0.6), math.log(0.4 * 0.97 * 0.97)
    assert (short / 2**length_penalty > long / 4**length_penalty) is (winner == (A,))  # the end token counts
    found = best(table(SHORT_OR_LONG), beam_width=3, length_penalty=length_penalty)
    assert found.tokens == winner
    assert found.log_prob == pytest.approx(short if winner == (A,) else long, abs=1e-6)  # not divided by anything


@pytest.mark.parametrize("beam_width", [1, 3])
@pytest.mark.parametrize(
    ("max_length", "tokens", "finished"),
    [(1, (), False), (2, (A,), False), (4, (A, A, A), False), (5, (A, A, A, A), False), (6, (A, A, A, A), True)],
)
def test_max_length_counts_start_and_end(max_length, tokens, finished, beam_width):
    step = table({(A, A, A, A): {END: 1.0}, ...: {A: 1.0}})
    (found, *others) = run(step, max_length=max_length, beam_width=beam_width)[0]
    assert found == (tokens, pytest.approx(0.0), finished)
    assert others == []  # there is no other sequence, and none is made up


@pytest.mark.parametrize("beam_width", [1, 4])
@pytest.mark.parametrize("min_words", [0, 1, 2, 3])
def test_min_words(min_words, beam_width):
    step = table({...: {END: 0.9, A: 0.1}})
    assert best(step, min_words=min_words, beam_width=beam_width).tokens == (A,) * min_words


def test_a_caption_has_a_word_by_default():
    assert best(table({...: {END: 0.999, A: 0.001}})).tokens == (A,)


def test_min_words_beyond_max_length_never_ends():
    found = best(table({...: {END: 0.9, A: 0.1}}), min_words=9, max_length=4)
    assert (found.tokens, found.finished) == ((A, A, A), False)


@pytest.mark.parametrize("beam_width", [1, 2, 5])
@pytest.mark.parametrize("forbidden", [(PAD,), (PAD, B), (PAD, A, C)])
def test_forbidden_tokens_and_the_start_token_never_come(forbidden, beam_width):
    step = table({...: {PAD: 0.3, START: 0.3, B: 0.2, A: 0.1, C: 0.05, END: 0.05}})
    hypotheses = run(step, forbidden=forbidden, beam_width=beam_width)[0]
    assert hypotheses
    for each in hypotheses:
        assert not {START, *forbidden} & set(each.tokens)


def test_photos_that_are_done_leave_the_batch_and_results_keep_their_order():
    lengths = [3, 1, 4, 1, 2]

    def probabilities(photo, prefix):
        return {END: 1.0} if len(prefix) > lengths[photo] else {A + photo % 3: 1.0}

    step = Scripted(probabilities)
    found = [hypotheses[0] for hypotheses in run(step, num_photos=5)]
    assert [each.tokens for each in found] == [(A + photo % 3,) * length for photo, length in enumerate(lengths)]
    assert all(each.finished for each in found)
    assert step.rows == [5, 5, 3, 2, 1]


def test_with_a_beam_a_photo_leaves_when_all_its_hypotheses_have_ended():
    def probabilities(photo, prefix):
        if photo == 1:
            return {A: 0.5, B: 0.3, C: 0.2} if len(prefix) == 1 else {END: 1.0}
        return {A: 0.5, B: 0.25, C: 0.15, END: 0.1} if len(prefix) < 4 else {END: 1.0}

    step = Scripted(probabilities)
    results = run(step, num_photos=3, beam_width=2)
    assert step.rows == [3, 6, 4, 4]
    assert [each.tokens for each in results[1]] == [(A,), (B,)]
    assert results[0] == results[2]
    assert results[0][0].tokens == (A, A, A)


@pytest.mark.parametrize("beam_width", [1, 3])
def test_a_photos_result_does_not_depend_on_its_neighbours(beam_width):
    step = noise(seed=6)
    together = run(step, num_photos=7, beam_width=beam_width)
    for photo in range(7):
        state = (np.array([photo]), np.zeros((1, 0), np.int32))
        alone = search(
            noise(seed=6),
            state,
            start_id=START,
            end_id=END,
            max_length=6,
            beam_width=beam_width,
            forbidden=(PAD,),
        )
        assert alone == [together[photo]]


def test_no_photos():
    assert run(noise(), num_photos=0) == []


@pytest.mark.parametrize("beam_width", [1, 2, 3, 5])
@pytest.mark.parametrize("vocab_size", [6, 40, 1000])
def test_ties_go_to_the_lower_token(beam_width, vocab_size):
    def probabilities(_, prefix):
        return dict.fromkeys(range(vocab_size), 1 / vocab_size)

    expected = None
    for num_photos in (1, 3):
        results = run(Scripted(probabilities, vocab_size=vocab_size), num_photos=num_photos, beam_width=beam_width)
        expected = expected or results[0]
        assert results == [expected] * num_photos
    first = run(Scripted(probabilities, vocab_size=vocab_size), beam_width=beam_width, max_length=2)[0]
    assert [each.tokens for each in first] == [(token,) for token in range(A, min(A + beam_width, vocab_size))]


def test_a_tie_at_the_edge_of_the_beam_goes_to_the_lower_token():
    def probabilities(_, prefix):
        return {token: 0.3 if token == 700 else 0.1 if token in (50, 400, 900) else 1e-4 for token in range(1000)}

    first = run(Scripted(probabilities, vocab_size=1000), beam_width=3, max_length=2)[0]
    assert [each.tokens for each in first] == [(700,), (50,), (400,)]


def test_a_beam_wider_than_the_vocabulary():
    hypotheses = run(noise(seed=7), beam_width=50, max_length=3)[0]
    assert len(hypotheses) == 3 + 9  # a word and an end, or two words


def test_the_step_function_may_keep_and_reuse_its_arrays():
    log_probs = np.log(np.array([[0.1, 0.1, 0.2, 0.3, 0.2, 0.1]], np.float32))
    before = log_probs.copy()

    def step(tokens, state):
        return log_probs, state

    search(step, (np.zeros((1, 2)),), start_id=START, end_id=END, max_length=4, forbidden=(PAD,))
    np.testing.assert_array_equal(log_probs, before)


def test_a_search_adds_up_in_double_precision():
    def step(tokens, state):
        row = np.full((len(tokens), 4), -np.inf, np.float32)
        row[:, 3] = -0.1
        return row, state

    found = search(step, (np.zeros((1, 1)),), start_id=START, end_id=END, max_length=1001, forbidden=(PAD,))[0][0]
    assert len(found.tokens) == 1000
    assert found.log_prob == pytest.approx(1000 * float(np.float32(-0.1)), rel=1e-12)
