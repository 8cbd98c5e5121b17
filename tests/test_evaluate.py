"""The evaluate stage on a real Ray."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sacrebleu

from raycap.captioner import Captioner
from raycap.config import DecodingConfig, EvaluateConfig, ExtractConfig
from raycap.errors import ConflictError, EncoderMismatchError, InputError
from raycap.features import FeatureSet
from raycap.metrics import PROTOCOLS
from raycap.prepared import Prepared
from raycap.stages.evaluate import EvaluateResult, evaluate
from raycap.stages.extract import extract
from raycap.storage import read_json


def config(model: Path, prepared: Path, features: Path, out: Path, **options: object) -> EvaluateConfig:
    return EvaluateConfig(model=str(model), prepared=str(prepared), features=str(features), out=str(out), **options)


@pytest.fixture(scope="module")
def result(model: Path, prepared: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    out = tmp_path_factory.mktemp("scores") / "scores"
    result = evaluate(config(model, prepared, features, out))
    assert evaluate(config(model, prepared, features, out)) == result, "run again it only reads"
    assert EvaluateResult(**read_json(str(out / "scores.json"))) == result
    rows = pd.read_parquet(out / "hypotheses.parquet")
    assert list(rows.columns) == ["image_id", "hypothesis", "log_prob", "references"]
    result.scores["rows"] = rows  # type: ignore[assignment] - for the tests below
    return result


def test_every_photo_once_with_its_references(result: EvaluateResult, prepared: Path) -> None:
    rows = result.scores["rows"]
    references = Prepared.open(str(prepared)).references("test")
    assert list(rows.image_id) == sorted(references)
    for row in rows.itertuples():
        assert list(row.references) == references[row.image_id]
    assert (result.num_photos, result.num_missing, result.num_references) == (8, 0, 16)


def test_hypotheses_are_the_models(result: EvaluateResult, model: Path, features: Path) -> None:
    captioner = Captioner.load(str(model))
    found = dict(zip(result.scores["rows"].image_id, result.scores["rows"].itertuples(), strict=True))
    for shard in FeatureSet.open(str(features)).iter_shards(wanted=found.keys()):
        captions = captioner.caption_features(shard.features, DecodingConfig(), image_ids=shard.image_ids)
        for image_id, [best] in zip(shard.image_ids, captions, strict=True):
            assert found[image_id].hypothesis == best.caption
            assert found[image_id].log_prob == pytest.approx(best.log_prob, abs=1e-4)


def test_scores_agree_with_sacrebleu(result: EvaluateResult) -> None:
    rows = result.scores["rows"]
    for name in ("standard", "clean"):
        prepare = PROTOCOLS[name].prepare
        said = [" ".join(prepare(text)) for text in rows.hypothesis]
        wanted = [[" ".join(prepare(each[place])) for each in rows.references] for place in range(2)]
        for order in range(1, 5):
            metric = sacrebleu.BLEU(tokenize="none", smooth_method="none", max_ngram_order=order, force=True)
            expected = metric.corpus_score(said, wanted).score / 100
            assert result.scores["model"][name][f"bleu_{order}"] == pytest.approx(expected, abs=1e-6)


def test_the_model_beats_the_baselines(result: EvaluateResult) -> None:
    for protocol in PROTOCOLS:
        for order in range(1, 5):
            score = result.scores["model"][protocol][f"bleu_{order}"]
            for baseline in ("constant caption", "shuffled photos"):
                assert score > result.scores[baseline][protocol][f"bleu_{order}"]
    assert result.scores["model"]["standard"]["bleu_4"] > 0.6
    assert result.keeps_one_letter_words


def test_wrong_inputs(model: Path, prepared: Path, features: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="there is no model in"):
        evaluate(config(tmp_path, prepared, features, out))
    with pytest.raises(InputError, match="there are no features in"):
        evaluate(config(model, prepared, tmp_path, out))
    assert not out.exists()


def test_other_options_are_refused(result: EvaluateResult, model: Path, prepared: Path, features: Path) -> None:
    out = next(Path(features).parents[1].glob("scores*/scores"))
    with pytest.raises(ConflictError, match="decoding was"):
        evaluate(config(model, prepared, features, out, decoding=DecodingConfig(beam_width=1)))


def test_features_of_another_encoder_are_refused(
    ray_cluster: None, model: Path, prepared: Path, encoder_file: Path, tmp_path: Path
) -> None:
    options = {"manifest": str(prepared / "photos.parquet"), "encoder": str(encoder_file)}
    extract(ExtractConfig(out=str(tmp_path / "other"), exif_orientation=True, **options))
    with pytest.raises(EncoderMismatchError, match="exif_orientation"):
        evaluate(config(model, prepared, tmp_path / "other", tmp_path / "out"))


def test_features_are_not_touched(features: Path) -> None:
    for shard in FeatureSet.open(str(features)).iter_shards():
        assert np.isfinite(shard.features).all()
