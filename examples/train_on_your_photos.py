"""Train a captioner on your photos, and see what it says of photos that it was not trained on.

    python examples/train_on_your_photos.py captions.csv photos/ work/mine

captions.csv has the columns image (a path inside photos/) and caption; docs/training.md has the other formats. What is
done already is not done again, so run this as often as you like.
"""

import sys

import raycap


def main(captions: str, photos: str, out: str, encoder: str = "vgg16") -> None:
    """Run every stage under `out`."""
    prepared, features, model, scores = (f"{out}/{name}" for name in ("prepared", "features", "model", "scores"))

    # captions.csv and photos/ to a manifest, clean captions and a vocabulary; 1 photo in 10 for dev, and for test
    found = raycap.prepare(
        raycap.PrepareConfig(captions=(captions,), photos=photos, out=prepared, keep_one_letter_words=True)
    )
    print(f"{sum(found.num_photos.values())} photos; what does not fit: {found.num_problems or 'nothing'}")

    # each photo to a row of numbers: once, however often you train
    raycap.extract(raycap.ExtractConfig(manifest=f"{prepared}/photos.parquet", out=features, encoder=encoder))

    trained = raycap.train(
        raycap.TrainConfig(
            prepared=prepared,
            features=features,
            out=model,
            model=raycap.ModelConfig(normalization="standardize"),
        )
    )
    print(f"best after epoch {trained.best_epoch}, dev loss {trained.best_dev_loss:.3f}")

    scored = raycap.evaluate(raycap.EvaluateConfig(model=model, prepared=prepared, features=features, out=scores))
    for whose, by_protocol in scored.scores.items():
        print(f"BLEU-4 {by_protocol['standard']['bleu_4']:.3f}  {whose}")

    for row in raycap.read_hypotheses(scores).slice(0, 5).to_pylist():
        print(f"{row['image_id']}: {row['hypothesis']} (a person: {row['references'][0]})")


if __name__ == "__main__":
    main(*sys.argv[1:])
