"""Training beyond the tutorial's: decoders with attention, chosen by their captions, then raised in CIDEr-D."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import write_shard

from raycap.captioner import Captioner
from raycap.config import DecodingConfig, ModelConfig, TrainConfig
from raycap.errors import InputError, StaleError
from raycap.features import FeatureSet
from raycap.metrics import score_all
from raycap.model import Bundle
from raycap.prepared import Prepared
from raycap.stages.train import train
from raycap.storage import read_json


@pytest.fixture(scope="module")
def regions(features: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' features, of 48 numbers, as 16 regions of 3."""
    folder = tmp_path_factory.mktemp("regions")
    whole = FeatureSet.open(str(features))
    for name, shard in zip(whole.shards, whole.iter_shards(), strict=True):
        write_shard(folder, name, shard.image_ids, shard.features.reshape(-1, 16, 3), card=whole.card)
    return folder


MODELS = {
    "attention": ModelConfig(decoder="attention", units=16, embedding_dim=8, num_heads=2, dropout=0.0),
    "transformer": ModelConfig(decoder="transformer", units=16, embedding_dim=16, num_heads=2, dropout=0.0),
}


def small(prepared: Path, regions: Path, out: Path, **options: Any) -> TrainConfig:
    config = TrainConfig(
        prepared=str(prepared),
        features=str(regions),
        out=str(out),
        model=MODELS["attention"],
        epochs=14,
        patience=14,
        global_batch_size=8,
        learning_rate=2e-2,
        schedule="cosine",
        warmup_steps=5,
        weight_average=0.9,
        label_smoothing=0.1,
        select_by="cider_d",
        cider_epochs=2,
    )
    return replace(config, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "select_by"), [("attention", "cider_d"), ("transformer", "bleu_4")])
def test_the_epoch_whose_captions_are_best_is_kept(
    ray_cluster: None, prepared: Path, regions: Path, tmp_path: Path, decoder: str, select_by: str
) -> None:
    result = train(small(prepared, regions, tmp_path / "model", model=MODELS[decoder], select_by=select_by))
    assert [entry["objective"] for entry in result.history] == ["likelihood"] * 14 + ["cider_d"] * 2
    assert result.history == read_json(str(tmp_path / "model/history.json"))["history"]
    best = max(result.history, key=lambda entry: entry[select_by])
    assert result.best_epoch == best["epoch"]
    assert best["cider_d"] > 0.1
    assert all(np.isfinite(entry["train_cider_d"]) for entry in result.history[14:])
    # what the bundle says is worth what the history says
    captioner = Captioner(Bundle.load(str(tmp_path / "model")))
    references = Prepared.open(str(prepared)).references("dev")
    said: dict[str, str] = {}
    for shard in FeatureSet.open(str(regions)).iter_shards(wanted=references.keys()):
        found = captioner.caption_features(shard.features, DecodingConfig(beam_width=1), image_ids=shard.image_ids)
        said |= {name: caption.caption for name, [caption] in zip(shard.image_ids, found, strict=True)}
    scores = score_all([said[name] for name in said], [references[name] for name in said])["standard"]
    assert scores["cider_d"] == pytest.approx(best["cider_d"], abs=1e-6)
    assert scores["bleu_4"] == pytest.approx(best["bleu_4"], abs=1e-6)


def test_members_are_trained_apart_and_bundled_together(
    ray_cluster: None, prepared: Path, regions: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 2, "cider_epochs": 0, "select_by": "dev_loss", "keep_neighbors": True}
    options["fit_matching"] = True
    config = small(prepared, regions, tmp_path / "both", num_members=2, **options)
    result = train(config)
    parts = [read_json(str(tmp_path / f"both/members/{number}/history.json")) for number in (1, 2)]
    assert [(entry["member"], entry["epoch"]) for entry in result.history] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    losses = [entry["dev_loss"] for entry in result.history]
    assert losses == [entry["dev_loss"] for part in parts for entry in part["history"]]
    assert losses[0] != losses[2]  # another seed
    assert result.best_epoch == 1 + int(np.argmin(losses))
    # of equally weighed logits the loss is no worse than the members' mean
    assert result.best_dev_loss < np.mean([part["best_dev_loss"] for part in parts])
    assert (tmp_path / "both/model.svg").exists()
    bundle = Bundle.load(str(tmp_path / "both"))
    assert bundle.card.metrics["dev_loss"] == result.best_dev_loss
    member = Bundle.load(str(tmp_path / "both/members/2"))
    assert (member.card.training["seed"], member.card.training["num_members"]) == (1, 1)
    # the photos that all were trained on are kept once
    assert member.neighbors is None
    assert bundle.neighbors is not None
    assert set(bundle.neighbors.image_ids) == Prepared.open(str(prepared)).image_ids("train")
    shard = next(FeatureSet.open(str(regions)).iter_shards())
    assert member.matching is None
    assert bundle.matching is not None
    near = DecodingConfig(consensus=0.3, num_neighbors=3, matching=0.5)
    assert all(Captioner(bundle).caption_features(shard.features, near, image_ids=shard.image_ids))
    # what is there is not done again
    (tmp_path / "both/bundle/card.json").unlink()
    record = read_json(str(tmp_path / "both/run.json"))
    (tmp_path / "both/run.json").write_text(json.dumps(record | {"result": None}))
    assert train(config).history == result.history
    # further views of the photos make another model
    whole = FeatureSet.open(str(regions))
    for name, shard in zip(whole.shards, whole.iter_shards(), strict=True):
        write_shard(tmp_path / "views", name, shard.image_ids, shard.features, views=[shard.features], card=whole.card)
    with pytest.raises(StaleError, match="num_views was 1, now 2"):
        train(replace(config, features=str(tmp_path / "views")))


@pytest.mark.slow
def test_two_workers_equal_one(ray_cluster: None, prepared: Path, regions: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cider_epochs": 1, "global_batch_size": 7}
    one = train(small(prepared, regions, tmp_path / "one", **options))
    two = train(small(prepared, regions, tmp_path / "two", **options, num_workers=2, open_ports=True))
    assert one.best_epoch == two.best_epoch
    for mine, theirs in zip(one.history, two.history, strict=True):
        for name in ("train_loss", "dev_loss", "cider_d", "train_cider_d"):
            assert mine.get(name, 0.0) == pytest.approx(theirs.get(name, 0.0), rel=1e-2, abs=1e-3), name
    assert one.history[-1]["train_cider_d"] > 0.1


def test_what_cannot_be_trained_is_said_before_anything_is_started(
    prepared: Path, features: Path, regions: Path, tmp_path: Path
) -> None:
    for model in MODELS.values():
        with pytest.raises(InputError, match=r"regions of a photo, and .* holds one feature each.* --spatial"):
            train(small(prepared, features, tmp_path / "out", model=model))
        with pytest.raises(InputError, match="--units is 16, which 3 heads cannot share"):
            replace(model, num_heads=3)
    for name in ("num_heads", "num_layers"):
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is 0; give 1 or more"):
            ModelConfig(**{name: 0})
    with pytest.raises(InputError, match="--embedding-dim is 8 and --units 16"):
        ModelConfig(decoder="transformer", units=16, embedding_dim=8)
    with pytest.raises(InputError, match="--select-by cider_d"):
        small(prepared, regions, tmp_path / "out", select_by="dev_loss")
    assert not (tmp_path / "out").exists()
