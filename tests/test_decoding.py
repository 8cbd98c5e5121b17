import itertools
import math
from functools import cache

import numpy as np
import pytest

from raycap.decoding import Continuations, Hypothesis, sample, search

PAD, START, END, A, B, C = range(6)
VOCAB_SIZE = 6


def listed(log_probs, wanted):
    """The continuations that a search wants, out of the log-probabilities of the whole vocabulary."""
    log_probs = log_probs.copy()
    log_probs[:, list(wanted.never)] = -np.inf
    log_probs[wanted.banned] = -np.inf
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, : wanted.limit]
    return Continuations(order.astype(np.int32), np.take_along_axis(log_probs, order, axis=1))


class Scripted:
    """A step function over a table of next-token probabilities by photo and prefix; its state is the prefix itself.

    It checks that what it is given is a prefix that search may have built, and notes how many rows came.
    """

    def __init__(self, probabilities, *, vocab_size=VOCAB_SIZE):
        self.probabilities = probabilities  # (photo, prefix) -> {token: probability}
        self.vocab_size = vocab_size
        self.rows = []
        self.newest = []

    def __call__(self, tokens, state, wanted):
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
        return listed(log_probs, wanted), (photos, prefixes)

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


def repeats(said, size):
    """Whether some `size` words in a row come twice."""
    runs = [said[n : n + size] for n in range(len(said) - size + 1)]
    return size > 0 and len(set(runs)) < len(runs)


def enumerate_all(step, photo, *, max_length, length_penalty=0.0, min_words=1, no_repeat_ngram=0, words=(A, B, C)):
    """Every hypothesis there is, best first."""
    found = []
    for count in range(max_length):
        for said in itertools.product(words, repeat=count):
            if repeats(said, no_repeat_ngram):
                continue
            stuck = all(repeats((*said, word), no_repeat_ngram) for word in words)
            if (min_words <= count or stuck) and count <= max_length - 2:
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
    handed_out = []

    def step(tokens, state, wanted):
        found = listed(log_probs, wanted)
        handed_out.append((found, Continuations(*map(np.copy, found))))
        return found, state

    search(step, (np.zeros((1, 2)),), start_id=START, end_id=END, max_length=4, forbidden=(PAD,))
    assert len(handed_out) > 1
    for found, before in handed_out:
        np.testing.assert_array_equal(found.log_probs, before.log_probs)
        np.testing.assert_array_equal(found.tokens, before.tokens)


def test_a_search_adds_up_in_double_precision():
    def step(tokens, state, wanted):
        row = np.full((len(tokens), 4), -np.inf, np.float32)
        row[:, 3] = -0.1
        return listed(row, wanted), state

    found = search(step, (np.zeros((1, 1)),), start_id=START, end_id=END, max_length=1001, forbidden=(PAD,))[0][0]
    assert len(found.tokens) == 1000
    assert found.log_prob == pytest.approx(1000 * float(np.float32(-0.1)), rel=1e-12)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("min_words", [0, 1, 5])
@pytest.mark.parametrize("no_repeat_ngram", [1, 2, 3])
def test_no_repeated_ngram_equals_brute_force(no_repeat_ngram, min_words, length_penalty):
    step = noise(seed=8)
    options = {"max_length": 6, "min_words": min_words, "length_penalty": length_penalty}
    options |= {"no_repeat_ngram": no_repeat_ngram}
    for photo, hypotheses in enumerate(run(step, num_photos=2, beam_width=400, **options)):
        expected = enumerate_all(step, photo, **options)
        assert [each.tokens for each in hypotheses] == [each.tokens for each in expected]
        assert [each.finished for each in hypotheses] == [each.finished for each in expected]
        assert [each.log_prob for each in hypotheses] == pytest.approx([each.log_prob for each in expected])


@pytest.mark.parametrize("beam_width", [1, 2, 4])
@pytest.mark.parametrize("no_repeat_ngram", [1, 2, 3])
def test_with_no_repeated_ngram_a_beam_stays_sorted_and_sums_its_own_tokens(no_repeat_ngram, beam_width):
    step = noise(seed=9)
    options = {"beam_width": beam_width, "no_repeat_ngram": no_repeat_ngram, "max_length": 12}
    for photo, hypotheses in enumerate(run(step, num_photos=6, **options)):
        assert len(hypotheses) == beam_width
        scores = [each.log_prob for each in hypotheses]
        assert scores == sorted(scores, reverse=True)
        for each in hypotheses:
            assert not repeats(each.tokens, no_repeat_ngram)
            said = (*each.tokens, END) if each.finished else each.tokens
            assert each.log_prob == pytest.approx(step.total(photo, said), abs=1e-5)


def after(probabilities):
    """A script that goes by the newest token alone."""
    return Scripted(lambda _, prefix: probabilities[prefix[-1]])


SAME_WORD = {newest: {A: 0.5, B: 0.3, C: 0.15, END: 0.05} for newest in (START, A, B, C)}
TWO_WORDS = {START: {A: 0.9, B: 0.1}, A: {B: 0.9, END: 0.1}, B: {A: 0.9, END: 0.1}}


@pytest.mark.parametrize(
    ("probabilities", "no_repeat_ngram", "tokens"),
    [
        (SAME_WORD, 0, (A,) * 11),
        (SAME_WORD, 1, (A, B, C)),
        (SAME_WORD, 2, (A, A, B, A, C, A)),
        (SAME_WORD, 3, (A, A, A, B, A, A, C, A, A)),
        (TWO_WORDS, 0, (A, B, A, B, A, B, A, B, A, B, A)),
        (TWO_WORDS, 1, (A, B)),
        (TWO_WORDS, 2, (A, B, A)),
        (TWO_WORDS, 3, (A, B, A, B)),
        (TWO_WORDS, 11, (A, B, A, B, A, B, A, B, A, B, A)),
    ],
)
def test_a_loop_is_broken(probabilities, no_repeat_ngram, tokens):
    found = best(after(probabilities), no_repeat_ngram=no_repeat_ngram, max_length=12)
    assert found.tokens == tokens
    assert found.finished is (len(tokens) < 11)


@pytest.mark.parametrize("beam_width", [1, 3])
@pytest.mark.parametrize("min_words", [1, 2, 9])
def test_where_nothing_else_may_come_the_end_does_even_before_min_words(min_words, beam_width):
    options = {"beam_width": beam_width, "min_words": min_words, "no_repeat_ngram": 1}
    step = table({...: {A: 0.9, END: 0.1}})
    assert run(step, **options)[0] == [((A,), pytest.approx(math.log(0.9 * 0.1), abs=1e-6), True)]
    step = table({...: {A: 0.9, END: 0.1 - 1e-9, B: 1e-9}})
    rare = ((A, B), pytest.approx(math.log(0.9 * 1e-9 * 0.1), abs=1e-6), True)
    assert (rare in run(step, **options)[0]) is (min_words > 1 or beam_width > 1)  # it may come, however rare


@pytest.mark.parametrize("beam_width", [1, 2, 5])
def test_where_nothing_repeats_the_rule_changes_nothing(beam_width):
    free = run(noise(seed=10), num_photos=6, beam_width=beam_width)
    assert run(noise(seed=10), num_photos=6, beam_width=beam_width, no_repeat_ngram=6) == free
    for size in (1, 2, 3):
        assert run(table(GARDEN_PATH), beam_width=2, no_repeat_ngram=size) == run(table(GARDEN_PATH), beam_width=2)


JUST_BELOW_1 = np.nextafter(1.0, 0.0)


def uniforms(num_photos, num_samples, max_length=6, *, seed=0):
    return np.random.default_rng(seed).random((num_photos, num_samples, max_length))


def draw(step, chances, **options):
    state = (np.arange(len(chances)), np.zeros((len(chances), 0), np.int32))
    settings = {"start_id": START, "end_id": END, "max_length": chances.shape[2], "forbidden": (PAD,)} | options
    return sample(step, state, uniforms=chances, **settings)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {A: 0.2, B: 0.5, C: 0.3}),
        ({"temperature": 0.5}, {A: 0.04 / 0.38, B: 0.25 / 0.38, C: 0.09 / 0.38}),
        ({"temperature": 2.0}, {A: 0.2**0.5 / 1.7020, B: 0.5**0.5 / 1.7020, C: 0.3**0.5 / 1.7020}),
        ({"temperature": 1e9}, {A: 1 / 3, B: 1 / 3, C: 1 / 3}),
        ({"top_k": 1}, {B: 1.0}),
        ({"top_k": 2}, {B: 5 / 8, C: 3 / 8}),
        ({"top_k": 3}, {A: 0.2, B: 0.5, C: 0.3}),
        ({"top_k": 99}, {A: 0.2, B: 0.5, C: 0.3}),
        ({"top_p": 1e-9}, {B: 1.0}),
        ({"top_p": 0.49}, {B: 1.0}),  # the first alone has more
        ({"top_p": 0.51}, {B: 5 / 8, C: 3 / 8}),
        ({"top_p": 0.79}, {B: 5 / 8, C: 3 / 8}),
        ({"top_p": 0.81}, {A: 0.2, B: 0.5, C: 0.3}),
        ({"top_k": 2, "top_p": 0.6}, {B: 1.0}),  # top_p is of what top_k leaves
        ({"temperature": 0.5, "top_p": 0.6}, {B: 1.0}),  # and of what the temperature makes
        ({"temperature": 0.5, "top_k": 2}, {B: 25 / 34, C: 9 / 34}),
    ],
)
def test_a_word_comes_as_often_as_its_probability_says(options, expected):
    """With even chances, a word whose share is p comes for p of them, but for one at either edge of its share."""
    count = 1000
    chances = np.tile((np.arange(count) + 0.5)[np.newaxis, :, np.newaxis] / count, (1, 1, 2))
    step = table({(): {A: 0.2, B: 0.5, C: 0.3}})
    found = [each.tokens for each in draw(step, chances, **options)[0]]
    assert set(found) == {(word,) for word in expected}
    for word, probability in expected.items():
        assert found.count((word,)) == pytest.approx(probability * count, abs=1)


def test_a_sequence_comes_as_often_as_its_probability_says():
    """Each count is binomial; seven standard deviations are beyond what a change of numpy's generator could do."""
    script = {(): {A: 0.5, B: 0.3, C: 0.2}, (A,): {END: 0.6, B: 0.4}, (B,): {A: 0.1, C: 0.2, END: 0.7}}
    step, count = table(script), 10_000
    found = [each.tokens for each in draw(step, uniforms(1, count))[0]]
    expected = {(A,): 0.3, (A, B): 0.2, (B,): 0.21, (B, A): 0.03, (B, C): 0.06, (C,): 0.2}
    assert set(found) == expected.keys()
    for tokens, p in expected.items():
        assert found.count(tokens) == pytest.approx(p * count, abs=7 * math.sqrt(count * p * (1 - p)))


@pytest.mark.parametrize(
    "options", [{"temperature": 1e-6}, {"temperature": 1e-300}, {"top_k": 1}, {"top_k": 1, "temperature": 9.0}]
)
def test_sampling_that_leaves_one_choice_is_greedy(options):
    greedy = run(noise(seed=11), num_photos=6, max_length=8)
    for num_samples in (1, 4):
        drawn = draw(noise(seed=11), uniforms(6, num_samples, 8), **options)
        assert drawn == [[hypothesis] * num_samples for (hypothesis,) in greedy]


def test_with_ties_top_k_takes_the_lower_token():
    step = table({(): dict.fromkeys((C, B, A), 1 / 3)})
    assert {each.tokens for each in draw(step, uniforms(1, 50), top_k=2)[0]} == {(A,), (B,)}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("top_k", "top_p"), [(1, 1.0), (3, 1.0), (0, 0.3), (0, 0.9), (5, 0.7)])
def test_nothing_is_drawn_from_beyond_top_k_and_top_p(top_k, top_p, temperature):
    step = noise(seed=12, vocab_size=12)
    chances = uniforms(3, 30)
    chances[:, 0], chances[:, 1] = 0.0, JUST_BELOW_1
    drawn = draw(step, chances, top_k=top_k, top_p=top_p, temperature=temperature)
    for photo, hypotheses in enumerate(drawn):
        for each in hypotheses:
            said = (START, *each.tokens, END) if each.finished else (START, *each.tokens)
            for n in range(1, len(said)):
                never = {PAD, START} | ({END} if n == 1 else set())
                row = step.log_probs(photo, said[:n]).astype(float)
                words = sorted(set(range(12)) - never, key=lambda token: -row[token])[: top_k or None]
                weights = [math.exp(row[token] / temperature) for token in words]
                before = sum(weights[: words.index(said[n])])
                assert before < top_p * sum(weights) + 1e-9


@pytest.mark.parametrize("options", [{}, {"temperature": 1.5, "top_k": 4}, {"top_p": 0.8, "no_repeat_ngram": 1}])
def test_what_is_drawn_for_a_photo_depends_on_its_uniforms_alone(options):
    chances = uniforms(7, 3, 8)
    together = draw(noise(seed=13), chances, **options)
    assert (
        len({len(each.tokens) for hypotheses in together for each in hypotheses}) > 2
    )  # they leave at different times
    others = np.random.default_rng(1).random(chances.shape)
    for photo in range(7):
        state = (np.array([photo]), np.zeros((1, 0), np.int32))
        settings = {"start_id": START, "end_id": END, "max_length": 8, "forbidden": (PAD,)} | options
        alone = sample(noise(seed=13), state, uniforms=chances[photo : photo + 1], **settings)
        assert alone == [together[photo]]
        others[photo] = chances[photo]
        assert draw(noise(seed=13), others, **options)[photo] == together[photo]
    assert draw(noise(seed=13), 1 - chances, **options) != together


def test_a_sample_has_uniforms_of_its_own():
    chances = uniforms(2, 5)
    step = noise(seed=14)
    whole = draw(step, chances)
    apart = [draw(noise(seed=14), chances[:, n : n + 1]) for n in range(5)]
    for photo in range(2):
        assert sorted(whole[photo]) == sorted(each[photo][0] for each in apart)
        assert len(set(whole[photo])) > 1


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.3}, {"temperature": 3.0}, {"top_k": 2}, {"top_p": 0.5}, {"temperature": 2.0, "top_k": 3}],
)
def test_samples_come_best_first_with_the_models_own_log_prob(options):
    step = noise(seed=15)
    for photo, hypotheses in enumerate(draw(step, uniforms(4, 12, 7), **options)):
        assert len(hypotheses) == 12
        scores = [each.log_prob for each in hypotheses]
        assert scores == sorted(scores, reverse=True)
        for each in hypotheses:
            said = (*each.tokens, END) if each.finished else each.tokens
            assert each.log_prob == pytest.approx(step.total(photo, said), abs=1e-5)


@pytest.mark.parametrize("min_words", [0, 1, 2, 3])
def test_samples_have_min_words(min_words):
    found = draw(table({...: {END: 0.7, A: 0.2, B: 0.1}}), uniforms(1, 200, 9), min_words=min_words)[0]
    assert min(len(each.tokens) for each in found) == min_words
    assert max(len(each.tokens) for each in found) > min_words


@pytest.mark.parametrize(
    ("max_length", "tokens", "finished"),
    [(1, (), False), (2, (A,), False), (5, (A, A, A, A), False), (6, (A, A, A, A), True), (9, (A, A, A, A), True)],
)
def test_samples_have_max_length(max_length, tokens, finished):
    step = table({(A, A, A, A): {END: 1.0}, ...: {A: 1.0}})
    found = draw(step, uniforms(2, 3, max_length))
    assert found == [[(tokens, pytest.approx(0.0), finished)] * 3] * 2


@pytest.mark.parametrize("no_repeat_ngram", [1, 2, 3])
def test_samples_repeat_no_ngram(no_repeat_ngram):
    free, bound = (
        draw(after(SAME_WORD), uniforms(3, 40, 9), min_words=8, no_repeat_ngram=size) for size in (0, no_repeat_ngram)
    )
    assert any(repeats(each.tokens, no_repeat_ngram) for hypotheses in free for each in hypotheses)
    assert not any(repeats(each.tokens, no_repeat_ngram) for hypotheses in bound for each in hypotheses)


def test_a_sample_that_may_say_nothing_else_ends_before_min_words():
    found = draw(table({...: {A: 0.9, END: 0.1}}), uniforms(1, 4), min_words=9, no_repeat_ngram=1)[0]
    assert found == [((A,), pytest.approx(math.log(0.9 * 0.1), abs=1e-6), True)] * 4


@pytest.mark.parametrize("forbidden", [(PAD,), (PAD, B), (PAD, A, C)])
def test_forbidden_tokens_and_the_start_token_are_never_drawn(forbidden):
    step = table({...: {PAD: 0.3, START: 0.3, B: 0.2, A: 0.1, C: 0.05, END: 0.05}})
    found = draw(step, uniforms(1, 200), forbidden=forbidden)[0]
    assert {token for each in found for token in each.tokens} == {A, B, C} - set(forbidden)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.1}, {"temperature": 50.0}, {"top_p": 0.999}, {"top_k": 7}])
@pytest.mark.parametrize("chance", [0.0, 5e-324, 0.5, 1 - 1e-12, JUST_BELOW_1])
def test_no_chance_draws_an_impossible_token(chance, options):
    rng = np.random.default_rng(16)
    logits = rng.normal(0, 3, (300, 50))
    impossible = rng.random(logits.shape) < rng.random((300, 1)) * 0.97
    impossible[:, A] = False
    log_probs = np.where(impossible, -np.inf, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    def step(tokens, state, wanted):
        return listed(log_probs.astype(np.float32), wanted), state

    found = draw(step, np.full((300, 1, 2), chance), **options)
    drawn = [hypotheses[0].tokens[0] for hypotheses in found]  # what is impossible would not be handed back
    assert not impossible[np.arange(300), drawn].any()
    assert not {PAD, START, END} & set(drawn)
    if chance == 0.0:
        allowed = np.where(np.isin(np.arange(50), [PAD, START, END]), -np.inf, log_probs)
        assert drawn == allowed.argmax(axis=1).tolist()


@pytest.mark.parametrize(
    ("chance", "word"), [(0.0, A), (0.25, A), (np.nextafter(0.5, 0.0), A), (0.5, B), (0.75, B), (JUST_BELOW_1, B)]
)
def test_a_share_holds_its_lower_edge_and_not_its_upper(chance, word):
    step = table({(): {A: 0.5, B: 0.5}})
    assert draw(step, np.full((1, 1, 3), chance))[0][0].tokens == (word,)


@pytest.mark.parametrize("no_repeat_ngram", [0, 1])
def test_what_the_model_says_after_the_end_is_not_heard(no_repeat_ngram):
    log_probs = np.log(np.array([0.1, 0.1, 0.2, 0.3, 0.2, 0.1], np.float32))

    def step(tokens, state, wanted):
        return listed(np.tile(log_probs, (len(tokens), 1)), wanted), state

    for hypotheses in draw(step, uniforms(4, 6, 12), no_repeat_ngram=no_repeat_ngram):
        for each in hypotheses:
            said = (*each.tokens, END) if each.finished else each.tokens
            assert each.finished or len(said) == 11
            assert each.log_prob == pytest.approx(log_probs[list(said)].sum(), abs=1e-5)


def test_samples_of_no_photos():
    assert draw(noise(), uniforms(0, 3)) == []


def test_samples_leave_when_all_of_a_photo_have_ended():
    def probabilities(photo, prefix):
        return {END: 1.0} if len(prefix) > (3, 1, 2)[photo] else {A: 0.5, B: 0.5}

    step = Scripted(probabilities)
    found = draw(step, uniforms(3, 2))
    assert step.rows == [6, 6, 4, 2]
    assert [[len(each.tokens) for each in hypotheses] for hypotheses in found] == [[3, 3], [1, 1], [2, 2]]


@pytest.mark.parametrize(
    ("once", "no_repeat_ngram", "tokens"),
    [
        ((A,), 0, (A, *(B,) * 10)),
        ((A, B), 0, (A, B, *(C,) * 9)),
        ((A, B, C), 0, (A, B, C)),
        ((B,), 2, (A, A, B, A, C, A)),
        ((A,), 2, (A, B, B, C, B)),
    ],
)
def test_a_word_that_may_come_once(once, no_repeat_ngram, tokens):
    step = after(SAME_WORD)
    assert best(step, once=once, no_repeat_ngram=no_repeat_ngram, max_length=12).tokens == tokens


@pytest.mark.parametrize("beam_width", [1, 3])
def test_words_that_may_all_come_once_are_ngrams_of_one_word(beam_width):
    options = {"num_photos": 6, "beam_width": beam_width, "max_length": 12}
    assert run(noise(seed=11), once=(A, B, C), **options) == run(noise(seed=11), no_repeat_ngram=1, **options)


@pytest.mark.parametrize(("not_last", "tokens"), [((), (A,)), ((A,), (A, B)), ((A, B), (A, B, C))])
def test_a_sentence_does_not_end_in_some_words(not_last, tokens):
    chain = {START: {A: 1.0}, A: {END: 0.9, B: 0.1}, B: {END: 0.9, C: 0.1}, C: {END: 0.9, A: 0.1}}
    found = best(after(chain), not_last=not_last, max_length=12)
    assert found.tokens == tokens
    assert found.finished
    assert found.log_prob == pytest.approx(math.log(0.1 ** (len(tokens) - 1) * 0.9), abs=1e-5)


@pytest.mark.parametrize(
    ("pairs", "tokens"),
    [(((), ()), (A, B)), (((A,), (B,)), (A, B, C)), (((B,), (B,)), (A, B)), (((C,), (B,)), (A, B))],
)
def test_a_sentence_does_not_end_in_some_pairs_of_words(pairs, tokens):
    chain = {START: {A: 1.0}, A: {END: 0.2, B: 0.8}, B: {END: 0.9, C: 0.1}, C: {END: 0.9, A: 0.1}}
    found = best(after(chain), not_last_two=pairs, max_length=12)
    assert found.tokens == tokens
    assert found.finished


def test_where_no_word_may_be_last_it_goes_on_to_the_greatest_length():
    chain = {START: {A: 1.0}, A: {END: 0.9, B: 0.1}, B: {END: 0.9, A: 0.1}}
    found = best(after(chain), not_last=(A, B), max_length=6)
    assert found.tokens == (A, B, A, B, A)
    assert not found.finished
