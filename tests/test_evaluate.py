"""The evaluate stage on a real Ray."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu

from raycap import meteor
from raycap.captioner import Captioner
from raycap.config import DecodingConfig, EvaluateConfig, ExtractConfig
from raycap.errors import ConflictError, EncoderMismatchError, FormatError, InputError
from raycap.features import FeatureSet
from raycap.metrics import METRICS, PROTOCOLS, score_all
from raycap.prepared import Prepared
from raycap.schema import HYPOTHESES
from raycap.scores import EvaluateResult
from raycap.stages.evaluate import evaluate
from raycap.stages.extract import extract
from raycap.storage import read_json


def config(model: Path, prepared: Path, features: Path, out: Path, **options: object) -> EvaluateConfig:
    where = {"model": str(model), "prepared": str(prepared), "features": str(features), "out": str(out)}
    return EvaluateConfig(**where, **({"meteor_timeout_s": 0.0} | options))  # METEOR's start takes 10 s


@pytest.fixture(scope="module")
def result(model: Path, prepared: Path, features: Path, tmp_path_factory: pytest.TempPathFactory) -> EvaluateResult:
    out = tmp_path_factory.mktemp("scores") / "scores"
    result = evaluate(config(model, prepared, features, out))
    assert evaluate(config(model, prepared, features, out)) == result, "run again it only reads"
    assert EvaluateResult(**read_json(str(out / "scores.json"))) == result
    rows = pd.read_parquet(out / "hypotheses.parquet")
    assert list(rows.columns) == HYPOTHESES.names
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


def test_every_metric_of_everyone_and_what_is_missing_is_named(result: EvaluateResult) -> None:
    whose = ["model", "human ceiling", "constant caption", "shuffled photos"]
    assert [name for name in result.scores if name != "rows"] == whose
    for name in whose:
        for protocol in PROTOCOLS:
            assert list(result.scores[name][protocol]) == [each for each in METRICS if each != "meteor"]
    assert result.gaps == {"meteor": "left out, as --meteor-timeout-s is 0"}


def test_the_ceiling_is_people_against_people(result: EvaluateResult) -> None:
    first, second = zip(*result.scores["rows"].references, strict=True)
    turns = [score_all(said, [[each] for each in wanted]) for said, wanted in ((first, second), (second, first))]
    for protocol, scores in result.scores["human ceiling"].items():
        for name, score in scores.items():
            assert score == pytest.approx(np.mean([each[protocol][name] for each in turns]))


def test_intervals_hold_the_scores(result: EvaluateResult) -> None:
    for protocol in PROTOCOLS:
        assert result.intervals[protocol].keys() == result.scores["model"][protocol].keys()
        for name, (low, high) in result.intervals[protocol].items():
            assert low <= result.scores["model"][protocol][name] <= high


def test_each_photos_scores(result: EvaluateResult, photo_folder: Path) -> None:
    rows = result.scores["rows"]
    for name in ("rouge_l", "cider_d"):
        assert rows[name].mean() == pytest.approx(result.scores["model"]["standard"][name], abs=1e-6)
    assert rows.bleu_4.between(0, 1).all()
    assert rows.meteor.isna().all()
    assert (rows.num_tokens == [len(said.split()) for said in rows.hypothesis]).all()
    assert list(rows.uri) == [str(photo_folder / name) for name in rows.image_id]


def test_diversity_is_beside_that_of_people(result: EvaluateResult) -> None:
    model, people = result.diversity["model"], result.diversity["references"]
    assert model["num_captions"] == people["num_captions"] == 8
    assert people["mean_length"] == 6  # the first of each photo: a red square on the left
    assert people["seen_in_training"] == 1
    assert 0 < model["distinct_captions"] <= 8
    assert 0 < model["vocabulary_share"] <= 1


@pytest.fixture
def finished(result: EvaluateResult, features: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished output; captioning would fail."""
    shutil.copytree(next(Path(features).parents[1].glob("scores*/scores")), tmp_path / "finished")
    monkeypatch.setattr("raycap.stages.evaluate.run_blocks", None)
    return tmp_path / "finished"


def plain(result: EvaluateResult) -> EvaluateResult:
    return dataclasses.replace(result, scores={name: each for name, each in result.scores.items() if name != "rows"})


def test_what_an_older_raycap_wrote_is_scored_anew(
    finished: Path, result: EvaluateResult, model: Path, prepared: Path, features: Path
) -> None:
    scores = read_json(str(finished / "scores.json"))
    for name in ("gaps", "intervals", "diversity", "comparison"):
        del scores[name]
    bleu_alone = {"standard": {f"bleu_{order}": 0.5 for order in range(1, 5)}}
    (finished / "scores.json").write_text(json.dumps(scores | {"scores": {"model": bleu_alone}}))
    old = pq.read_table(finished / "hypotheses.parquet").select(["image_id", "hypothesis", "log_prob", "references"])
    pq.write_table(old, finished / "hypotheses.parquet")
    assert EvaluateResult(**read_json(str(finished / "scores.json"))).intervals == {}
    assert evaluate(config(model, prepared, features, finished)) == plain(result)
    rows = pd.read_parquet(finished / "hypotheses.parquet")
    expected = result.scores["rows"].assign(num_tokens=None).astype(rows.dtypes)
    pd.testing.assert_frame_equal(rows, expected)


@pytest.mark.parametrize("name", ["scores.json", "hypotheses.parquet"])
def test_what_was_deleted_is_made_again(
    name: str, result: EvaluateResult, model: Path, prepared: Path, features: Path, tmp_path: Path
) -> None:
    shutil.copytree(next(Path(features).parents[1].glob("scores*/scores")), tmp_path / "scores")
    (tmp_path / "scores" / name).unlink()
    again = evaluate(config(model, prepared, features, tmp_path / "scores"))
    assert again.scores["model"] == plain(result).scores["model"]
    assert (tmp_path / "scores" / name).exists()


def test_against_itself(finished: Path, result: EvaluateResult, model: Path, prepared: Path, features: Path) -> None:
    """The captions are there: nothing is captioned, and nothing refused."""
    other = str(next(Path(features).parents[1].glob("scores*/scores")))
    found = evaluate(config(model, prepared, features, finished, against=other))
    assert found.comparison is not None
    assert (found.comparison["against"], found.comparison["num_photos"]) == (other, 8)
    for protocol in PROTOCOLS:
        for each in found.comparison["differences"][protocol].values():
            assert each == {"difference": 0, "low": 0, "high": 0, "p": 1}
    assert dataclasses.replace(found, comparison=None) == plain(result)
    assert evaluate(config(model, prepared, features, finished)) == found, "the comparison is kept"


def test_against_a_run_that_says_something_else_of_some_photos(
    finished: Path, model: Path, prepared: Path, features: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "worse")
    rows = pq.read_table(tmp_path / "worse/hypotheses.parquet").slice(2)
    wrong = pa.array(["no such thing"] * len(rows), pa.string())
    pq.write_table(rows.set_column(2, HYPOTHESES.field("hypothesis"), wrong), tmp_path / "worse/hypotheses.parquet")
    found = evaluate(config(model, prepared, features, finished, against=str(tmp_path / "worse"))).comparison
    assert found is not None
    assert found["num_photos"] == 6
    assert found["gaps"] == {"meteor": "left out, as --meteor-timeout-s is 0"}
    assert found["differences"]["standard"]["rouge_l"]["low"] > 0
    assert found["differences"]["standard"]["rouge_l"]["p"] < 0.01


def test_what_cannot_be_compared_with(
    finished: Path, model: Path, prepared: Path, features: Path, tmp_path: Path
) -> None:
    def against(other: Path) -> None:
        evaluate(config(model, prepared, features, finished, against=str(other)))

    for other in (tmp_path / "nothing", features, prepared):
        with pytest.raises(InputError, match="holds no finished evaluation"):
            against(other)
    for name in ("dev", "others"):
        shutil.copytree(finished, tmp_path / name)
    scores = read_json(str(finished / "scores.json"))
    (tmp_path / "dev/scores.json").write_text(json.dumps(scores | {"split": "dev"}))
    with pytest.raises(InputError, match="holds scores of dev, not test"):
        against(tmp_path / "dev")
    rows = pq.read_table(finished / "hypotheses.parquet")
    others = pa.array([f"other {n}" for n in range(len(rows))], pa.string())
    pq.write_table(rows.set_column(0, HYPOTHESES.field("image_id"), others), tmp_path / "others/hypotheses.parquet")
    with pytest.raises(InputError, match="captions of none of the photos"):
        against(tmp_path / "others")
    (finished / "scores.json").write_text("[]")
    with pytest.raises(FormatError, match="damaged"):
        evaluate(config(model, prepared, features, finished))


@pytest.mark.slow
@pytest.mark.skipif(meteor.gap() is not None, reason=meteor.gap() or "")
def test_meteor_is_filled_in_once_it_can_be_had(finished: Path, model: Path, prepared: Path, features: Path) -> None:
    found = evaluate(config(model, prepared, features, finished, meteor_timeout_s=300.0))
    assert found.gaps == {}
    for whose in found.scores.values():
        assert all(0 < scores["meteor"] <= 1 for scores in whose.values())
    low, high = found.intervals["standard"]["meteor"]
    assert low <= found.scores["model"]["standard"]["meteor"] <= high
    assert pd.read_parquet(finished / "hypotheses.parquet").meteor.between(0, 1).all()
    assert evaluate(config(model, prepared, features, finished)) == found, "kept, where METEOR is left out"


def test_wrong_inputs(model: Path, prepared: Path, features: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="there is no model in"):
        evaluate(config(tmp_path, prepared, features, out))
    mirrored = DecodingConfig(mirrored=True)
    with pytest.raises(InputError, match=r"mirrored photos, which .* has not; extract with --num-views 2"):
        evaluate(config(model, prepared, features, tmp_path / "x", decoding=mirrored))
    near = DecodingConfig(consensus=0.3, num_neighbors=5)
    with pytest.raises(InputError, match=r"--num-neighbors needs the photos .*train with --keep-neighbors"):
        evaluate(config(model, prepared, features, out, decoding=near))
    with pytest.raises(InputError, match=r"--num-neighbors is for choosing by consensus; give --consensus too"):
        DecodingConfig(num_neighbors=5)
    matched = DecodingConfig(consensus=0.3, matching=0.5)
    with pytest.raises(InputError, match=r"--matching needs what tells how well .*train with --fit-matching"):
        evaluate(config(model, prepared, features, out, decoding=matched))
    with pytest.raises(InputError, match=r"--matching is for choosing by consensus; give --consensus too"):
        DecodingConfig(matching=0.5)
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
