"""The evaluate stage: caption a split from its features with a Ray Data job, and score it. Knows no pixels."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from raycap.cluster import connect, place
from raycap.config import EvaluateConfig
from raycap.errors import InputError
from raycap.features import FeatureSet, feature_array
from raycap.locations import join, with_absolute
from raycap.metrics import PROTOCOLS, constant_caption, score_all, shuffled
from raycap.model_card import find_bundle, read_card
from raycap.operators import CaptionFeatures
from raycap.pipeline import ModelStep, Step, run_blocks
from raycap.prepared import Prepared
from raycap.progress import Progress
from raycap.runs import Run, short_hash
from raycap.schema import HYPOTHESES
from raycap.sole_writer import sole_writer
from raycap.storage import read_json, write_json, write_table

SCORES_FILE = "scores.json"
HYPOTHESES_FILE = "hypotheses.parquet"

Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class EvaluateResult:
    """Scores of a split, under every protocol.

    Attributes:
        split: what was scored.
        num_photos: photos scored.
        num_missing: photos of the split left out for want of a feature.
        num_references: human captions in all.
        scores: of the model and of each baseline: by protocol, `bleu_1` to `bleu_4`.
        signatures: how each protocol computes.
        constant_caption: what the baseline of that name says of every photo.
        keeps_one_letter_words: whether the model can say "a", without which `standard` scores are low.
        decode_s: seconds spent on captioning.
    """

    split: str
    num_photos: int
    num_missing: int
    num_references: int
    scores: dict[str, Scores]
    signatures: dict[str, str]
    constant_caption: str
    keeps_one_letter_words: bool
    decode_s: float


@dataclass(frozen=True, kw_only=True)
class SelectFeatures:
    """Read the features of some photos.

    Reads `shard`, names of feature shards; leaves `image_id` and `feature` of the wanted photos in them.

    Attributes:
        features: the feature set.
        wanted: the photos.
    """

    features: FeatureSet
    wanted: frozenset[str]

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the features."""
        shards = [self.features.read_shard(name, wanted=self.wanted) for name in table["shard"].to_pylist()]
        columns = [
            pa.table(
                {
                    "image_id": pa.array(shard.image_ids, pa.string()),
                    "feature": feature_array(shard.features, pa.float32()),
                }
            )
            for shard in shards
        ]
        return pa.concat_tables(columns)


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Caption the photos of a split and score the captions against people's, beside two trivial baselines.

    Writes `scores.json`, `hypotheses.parquet` and `run.json` under `config.out`; run again it only reads them.

    Raises:
        InputError: if the model, the split or its features are missing.
        EncoderMismatchError: if the features are not of the encoder that the model was trained on.
        ConflictError: if the output was made with other options or another model.
    """
    config = with_absolute(config, "model", "prepared", "features", "out")
    bundle = find_bundle(config.model)
    card = read_card(bundle)
    prepared = Prepared.open(config.prepared)
    features = FeatureSet.open(config.features)
    card.encoder.require_same(features.card, mine=f"the model in {bundle}", others=f"the features in {config.features}")
    inputs = {
        "model_hash": short_hash(asdict(card)),
        "captions_hash": prepared.captions_hash(config.split, "train"),  # train's for the constant caption
        "photos_hash": short_hash(sorted(prepared.image_ids(config.split).intersection(features.image_ids()))),
    }
    run = Run.open(config.out, "evaluate", config, ignore=("workers",), inputs=inputs)
    if run.result is not None:
        return EvaluateResult(**read_json(join(config.out, SCORES_FILE)))
    references = prepared.references(config.split)
    with sole_writer(config.out):
        run.save()
        started = time.monotonic()
        hypotheses = _caption(config, bundle, features, references)
        decode_s = time.monotonic() - started
        rows = [each | {"references": references[each["image_id"]]} for each in hypotheses]
        write_table(join(config.out, HYPOTHESES_FILE), pa.Table.from_pylist(rows, HYPOTHESES))
        result = _score(config, prepared, references, rows, decode_s)
        write_json(join(config.out, SCORES_FILE), asdict(result))
        run.save({"num_photos": result.num_photos, "scores": result.scores["model"]})
        return result


def _caption(
    config: EvaluateConfig, bundle: str, features: FeatureSet, references: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return `image_id`, `hypothesis` and `log_prob` of every photo that has a feature, by `image_id`."""
    connect()
    placement = place(config.workers)
    options = {
        "bundle": bundle,
        "decoding": config.decoding,
        "batch_size": config.workers.batch_size,
        "num_threads": placement.num_threads,
    }
    steps: list[Step] = [
        SelectFeatures(features=features, wanted=frozenset(references)),
        ModelStep(operator=CaptionFeatures, options=options, placement=placement),
    ]
    shards = [pa.table({"shard": [name]}) for name in features.shards]
    rows: list[dict[str, Any]] = []
    with Progress(f"caption {config.split}", len(references), unit="photos") as progress:
        for block in run_blocks(shards, steps):
            rows += block.select(["image_id", "caption", "log_prob"]).to_pylist()
            progress.update(len(rows))
    if not rows:
        raise InputError(f"no {config.split} photo has a feature in {features.folder}; extract the same manifest")
    rows.sort(key=lambda row: row["image_id"])
    return [{"image_id": r["image_id"], "hypothesis": r["caption"], "log_prob": r["log_prob"]} for r in rows]


def _score(
    config: EvaluateConfig,
    prepared: Prepared,
    references: Mapping[str, Sequence[str]],
    rows: Sequence[Mapping[str, Any]],
    decode_s: float,
) -> EvaluateResult:
    hypotheses = [row["hypothesis"] for row in rows]
    wanted = [row["references"] for row in rows]
    constant = constant_caption(list(prepared.references("train").values()))
    return EvaluateResult(
        split=config.split,
        num_photos=len(rows),
        num_missing=len(references) - len(rows),
        num_references=sum(len(each) for each in wanted),
        scores={
            "model": score_all(hypotheses, wanted),
            "constant caption": score_all([constant] * len(rows), wanted),
            "shuffled photos": score_all(shuffled(hypotheses, seed=config.seed), wanted),
        },
        signatures={name: protocol.signature for name, protocol in PROTOCOLS.items()},
        constant_caption=constant,
        keeps_one_letter_words=prepared.tokenizer.keep_one_letter_words,
        decode_s=decode_s,
    )
