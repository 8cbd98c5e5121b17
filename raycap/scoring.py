"""From captions to all that evaluate says of them: scores, intervals, diversity, comparisons. Knows no captioner."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raycap.baselines import constant_caption, human_rounds, shuffled
from raycap.bootstrap import compare, intervals
from raycap.config import EvaluateConfig
from raycap.diversity import diversity
from raycap.errors import InputError
from raycap.metrics import PROTOCOLS, Corpus, Statistics, as_numbers, measure
from raycap.prepared import Prepared
from raycap.schema import END_TOKEN, HYPOTHESES, START_TOKEN
from raycap.scores import EvaluateResult, Scores

Rows = Sequence[Mapping[str, Any]]

_MODEL, _CEILING, _CONSTANT, _SHUFFLED = "model", "human ceiling", "constant caption", "shuffled photos"


def score_rows(
    config: EvaluateConfig, prepared: Prepared, rows: Rows, *, decode_s: float
) -> tuple[EvaluateResult, pa.Table]:
    """Score the captions of a split.

    Args:
        config: split, seed, and how long METEOR may take.
        prepared: what training captions, vocabulary and locations of the photos are taken from.
        rows: `image_id`, `hypothesis`, `log_prob`, `num_tokens` and `references`; one photo or more.
        decode_s: seconds that captioning took.

    Returns:
        The scores, and the rows as a table with the scores of each photo; `schema.HYPOTHESES`.
    """
    hypotheses, references = [row["hypothesis"] for row in rows], [row["references"] for row in rows]
    training = list(prepared.references("train").values())
    constant = constant_caption(training)
    corpora = list(_corpora(hypotheses, references, constant, config.seed))
    measured, gap = measure([corpus for _, corpus in corpora], meteor_timeout_s=config.meteor_timeout_s)
    by_whose: dict[str, dict[str, list[Statistics]]] = {}
    for (whose, _), statistics in zip(corpora, measured, strict=True):
        by_whose.setdefault(whose, {}).setdefault(statistics.protocol.name, []).append(statistics)
    model = {protocol: statistics for protocol, [statistics] in by_whose[_MODEL].items()}
    ceiling_gap = {} if _CEILING in by_whose else {_CEILING: "no photo has two references"}
    result = EvaluateResult(
        split=config.split,
        num_photos=len(rows),
        num_missing=len(prepared.references(config.split)) - len(rows),
        num_references=sum(len(each) for each in references),
        scores={whose: _mean_scores(by_protocol) for whose, by_protocol in by_whose.items()},
        signatures={name: protocol.signature for name, protocol in PROTOCOLS.items()},
        constant_caption=constant,
        keeps_one_letter_words=prepared.tokenizer.keep_one_letter_words,
        decode_s=decode_s,
        gaps=({"meteor": gap} if gap else {}) | ceiling_gap,
        intervals={name: intervals(statistics, seed=config.seed) for name, statistics in model.items()},
        diversity=_diversity(hypotheses, references, training, prepared),
    )
    return result, _table(rows, model["standard"], prepared)


def compare_rows(config: EvaluateConfig, mine: Rows, other: Rows) -> dict[str, Any]:
    """Compare two runs by their captions of the photos that both have; see `EvaluateResult.comparison`.

    Raises:
        InputError: if they have none in common.
    """
    theirs = {row["image_id"]: row["hypothesis"] for row in other}
    common = [row for row in mine if row["image_id"] in theirs]
    if not common:
        raise InputError(f"{config.against} has captions of none of the photos in {config.out}")
    references = [row["references"] for row in common]
    pairs = ([row["hypothesis"] for row in common], [theirs[row["image_id"]] for row in common])
    corpora = [Corpus.prepare(said, references, protocol) for protocol in PROTOCOLS.values() for said in pairs]
    measured, gap = measure(corpora, meteor_timeout_s=config.meteor_timeout_s)
    differences = {
        one.protocol.name: {
            name: dataclasses.asdict(each) for name, each in compare(one, another, seed=config.seed).items()
        }
        for one, another in zip(measured[::2], measured[1::2], strict=True)
    }
    return {
        "against": config.against,
        "num_photos": len(common),
        "differences": differences,
        "gaps": {"meteor": gap} if gap else {},
    }


def _corpora(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], constant: str, seed: int
) -> Iterator[tuple[str, Corpus]]:
    """Yield everything that is scored, and whose captions it holds; a human ceiling is of several rounds."""
    for protocol in PROTOCOLS.values():
        model = Corpus.prepare(hypotheses, references, protocol)
        yield _MODEL, model
        yield from ((_CEILING, each) for each in human_rounds(model))
        yield _CONSTANT, dataclasses.replace(model, hypotheses=[protocol.prepare(constant)] * len(hypotheses))
        yield _SHUFFLED, dataclasses.replace(model, hypotheses=shuffled(model.hypotheses, seed=seed))


def _mean_scores(by_protocol: Mapping[str, Sequence[Statistics]]) -> Scores:
    scores = {protocol: [as_numbers(each.scores()) for each in rounds] for protocol, rounds in by_protocol.items()}
    return {
        protocol: {name: float(np.mean([each[name] for each in rounds])) for name in rounds[0]}
        for protocol, rounds in scores.items()
    }


def _diversity(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    training: Sequence[Sequence[str]],
    prepared: Prepared,
) -> dict[str, dict[str, float]]:
    """Diversity of the captions, and of as many of people's: the first of each photo."""
    words, tokenizer = PROTOCOLS["standard"].prepare, prepared.tokenizer
    as_written = {" ".join(words(caption)) for captions in training for caption in captions}
    # a model has seen them as it was given them: cleaned, without words that are not in its vocabulary
    cleaned = (tokenizer.clean(caption) for captions in training for caption in captions)
    as_learnt = {tokenizer.decode(tokenizer.encode(each)) for each in cleaned}
    vocabulary = set(tokenizer.words) - {START_TOKEN, END_TOKEN}
    captions = {_MODEL: (hypotheses, as_learnt), "references": ([each[0] for each in references], as_written)}
    return {
        whose: diversity([words(each) for each in said], training=seen, vocabulary=vocabulary)
        for whose, (said, seen) in captions.items()
    }


def _table(rows: Rows, statistics: Statistics, prepared: Prepared) -> pa.Table:
    uris = dict(zip(prepared.photos["image_id"].to_pylist(), prepared.photos["uri"].to_pylist(), strict=True))
    columns = {name: [row[name] for row in rows] for name in ("image_id", "hypothesis", "log_prob", "references")}
    columns["uri"] = [uris.get(row["image_id"]) for row in rows]
    columns["num_tokens"] = [row["num_tokens"] for row in rows]
    scores = {name: values.tolist() for name, values in statistics.photo_scores().items()}
    absent = {name: [None] * len(rows) for name in HYPOTHESES.names if name not in columns.keys() | scores.keys()}
    return pa.table(columns | scores | absent, HYPOTHESES)
