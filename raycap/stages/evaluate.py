"""The evaluate stage: caption a split from its features with a Ray Data job, and score it. Knows no pixels."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from raycap import meteor
from raycap.cluster import connect, place
from raycap.config import EvaluateConfig
from raycap.errors import InputError
from raycap.features import FeatureSet, feature_array
from raycap.locations import join, with_absolute
from raycap.model_card import find_bundle, read_card
from raycap.operators import CaptionFeatures
from raycap.parquet import write_table
from raycap.pipeline import ModelStep, Step, run_blocks
from raycap.prepared import Prepared
from raycap.progress import Progress
from raycap.runs import Run, short_hash
from raycap.schema import HYPOTHESES_FILE, SCORES_FILE, feature_columns
from raycap.scores import EvaluateResult, check_against, read_result, read_rows
from raycap.scoring import compare_rows, score_rows
from raycap.sole_writer import sole_writer
from raycap.storage import exists, write_json

# options that change neither captions nor what they score; what was prepared counts by its captions
_IGNORED = ("prepared", "workers", "against", "meteor_timeout_s")


@dataclass(frozen=True, kw_only=True)
class SelectFeatures:
    """Read the features of some photos.

    Reads `shard`, names of feature shards; leaves `image_id`, `feature` and further views of the wanted photos in them.

    Attributes:
        features: the feature set.
        wanted: the photos.
        num_views: of each.
    """

    features: FeatureSet
    wanted: frozenset[str]
    num_views: int = 1

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the features."""
        return pa.concat_tables(self._read(name) for name in table["shard"].to_pylist())

    def _read(self, name: str) -> pa.Table:
        columns: dict[str, pa.Array] = {}
        for view, column in enumerate(feature_columns(self.num_views)):
            image_ids, features = self.features.read_shard(name, wanted=self.wanted, view=view)
            columns |= {"image_id": pa.array(image_ids, pa.string()), column: feature_array(features, pa.float32())}
        return pa.table(columns)


def evaluate(config: EvaluateConfig) -> EvaluateResult:
    """Caption the photos of a split and score the captions against people's, beside people and two trivial baselines.

    Writes `scores.json`, `hypotheses.parquet` and `run.json` under `config.out`. Run again it only reads them, but
    scores anew, without captioning, where an older raycap or one without METEOR did, and compares with
    `config.against`.

    Raises:
        InputError: if the model, the split or its features are missing, or `config.against` holds nothing to compare.
        EncoderMismatchError: if the features are not of the encoder that the model was trained on.
        ConflictError: if the output was made with other options or another model.
    """
    config = with_absolute(config, "model", "prepared", "features", "out", "against")
    bundle = find_bundle(config.model)
    card = read_card(bundle)
    card.require_kept(config.decoding)
    prepared = Prepared.open(config.prepared)
    features = FeatureSet.open(config.features)
    card.encoder.require_same(features.card, mine=f"the model in {bundle}", others=f"the features in {config.features}")
    inputs = {
        "model_hash": short_hash(card.to_fields()),
        "features_hash": features.made_hash(),
        "captions_hash": prepared.captions_hash(config.split, "train"),  # train's for the constant caption
        "photos_hash": short_hash(sorted(prepared.image_ids(config.split).intersection(features.image_ids()))),
    }
    if config.against is not None:
        check_against(config.against, config.split)
    if features.num_views < config.decoding.num_views:
        raise InputError(
            f"--mirrored needs features of mirrored photos, which {config.features} has not; extract with "
            "--num-views 2, or leave it out"
        )
    references = prepared.references(config.split)
    with sole_writer(config.out):
        run = Run.open(config.out, "evaluate", config, ignore=_IGNORED, inputs=inputs)
        there = all(exists(join(config.out, name)) for name in (SCORES_FILE, HYPOTHESES_FILE))
        earlier = read_result(config.out) if run.result is not None and there else None
        if earlier is None:
            run.save()
            started = time.monotonic()
            rows = _caption(config, bundle, features, references)
            earlier = _score(run, config, prepared, rows, decode_s=time.monotonic() - started)
        elif _is_outdated(earlier, config):
            earlier = _score(run, config, prepared, read_rows(config.out), decode_s=earlier.decode_s)
        return earlier if config.against is None else _compare(config, config.against, earlier)


def _compare(config: EvaluateConfig, against: str, result: EvaluateResult) -> EvaluateResult:
    """Compare with the run that `config.against` names, and write what came of it."""
    comparison = compare_rows(config, read_rows(config.out), read_rows(against))
    result = replace(result, comparison=comparison)
    write_json(join(config.out, SCORES_FILE), asdict(result))
    return result


def _is_outdated(result: EvaluateResult, config: EvaluateConfig) -> bool:
    """Whether scores are an older raycap's, or lack METEOR which can be had now."""
    return not result.intervals or ("meteor" in result.gaps and config.meteor_timeout_s > 0 and meteor.gap() is None)


def _score(
    run: Run, config: EvaluateConfig, prepared: Prepared, rows: list[dict[str, Any]], *, decode_s: float
) -> EvaluateResult:
    """Score captions, and write what came of it."""
    result, table = score_rows(config, prepared, rows, decode_s=decode_s)
    write_table(join(config.out, HYPOTHESES_FILE), table)
    write_json(join(config.out, SCORES_FILE), asdict(result))
    run.save({"num_photos": result.num_photos, "scores": result.scores["model"]})
    return result


def _caption(
    config: EvaluateConfig, bundle: str, features: FeatureSet, references: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the photos that have a feature, by `image_id`, with what `scoring.score_rows` reads of each."""
    connect()
    placement = place(config.workers)
    options = {
        "bundle": bundle,
        "decoding": config.decoding,
        "batch_size": config.workers.batch_size,
        "num_threads": placement.num_threads,
    }
    steps: list[Step] = [
        SelectFeatures(features=features, wanted=frozenset(references), num_views=config.decoding.num_views),
        ModelStep(operator=CaptionFeatures, options=options, placement=placement),
    ]
    shards = [pa.table({"shard": [name]}) for name in features.shards]
    rows: list[dict[str, Any]] = []
    with Progress(f"caption {config.split}", len(references), unit="photos") as progress:
        for block in run_blocks(shards, steps):
            rows += block.select(["image_id", "caption", "log_prob", "num_tokens"]).to_pylist()
            progress.update(len(rows))
    if not rows:
        raise InputError(f"no {config.split} photo has a feature in {features.folder}; extract the same manifest")
    rows.sort(key=lambda row: row["image_id"])
    return [row | {"hypothesis": row["caption"], "references": references[row["image_id"]]} for row in rows]
