"""Caption a folder of any number of photos, then look at the captions that the model is least sure of.

    python examples/caption_a_folder.py work/model holiday/ work/captions

Stop it when you like: run again, it does what is left.
"""

import sys

import raycap


def main(model: str, photos: str, out: str) -> None:
    """Caption the photos in `photos`, a folder, list, glob or URI, and write Parquet under `out`."""
    result = raycap.caption(raycap.CaptionConfig(photos=(photos,), model=model, out=out))
    print(f"{result.num_captions} captions of {result.num_photos} photos")

    for failure in raycap.read_failures(out).to_pylist():
        print(f"no caption of {failure['uri']}: {failure['error_message']}")

    # log_prob is the sum over the words: divided by their number, long captions are not at a disadvantage
    captions = raycap.read_captions(out, columns=["image_id", "caption", "log_prob", "num_tokens"]).to_pylist()
    captions.sort(key=lambda row: row["log_prob"] / max(1, row["num_tokens"]))
    print("least sure of:")
    for row in captions[:10]:
        print(f"  {row['image_id']}: {row['caption']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
