"""Find the photos that look most like one of yours, by the features that extract wrote: numpy, and no model.

    python examples/use_features_elsewhere.py work/features beach/dog.jpg

The features are plain Parquet, `image_id` and a fixed-size list of numbers, so any other tool would do.
"""

import sys

import numpy as np

import raycap


def main(features: str, image_id: str, count: int | str = 5) -> None:
    """Print the `count` photos whose features point most nearly where those of `image_id` do."""
    table = raycap.read_features(features)
    image_ids = table["image_id"].to_pylist()
    column = table["feature"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)  # (photos, dim)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    similarity = vectors @ vectors[image_ids.index(image_id)]
    nearest = [row for row in np.argsort(-similarity) if image_ids[row] != image_id]
    for row in nearest[: int(count)]:
        print(f"{similarity[row]:.3f}  {image_ids[row]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
