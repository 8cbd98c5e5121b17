"""The built-in dataset."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycap.errors import InputError
from raycap.scenes import COLOURS, PHOTO_PX, SHAPES, Scene, describe, draw, make_scenes, write_dataset
from raycap.text import standard_words

SIZES = {"num_train": 320, "num_dev": 40, "num_test": 60}


@pytest.fixture(scope="module")
def scenes() -> list[tuple[str, Scene]]:
    return make_scenes(seed=0, **SIZES)


def test_same_seed_same_scenes(scenes: list[tuple[str, Scene]]) -> None:
    assert make_scenes(seed=0, **SIZES) == scenes
    assert make_scenes(seed=1, **SIZES) != scenes
    assert Counter(split for split, _ in scenes) == {"train": 320, "dev": 40, "test": 60}


def test_test_combinations_are_unseen_and_their_words_are_not(scenes: list[tuple[str, Scene]]) -> None:
    combinations: dict[str, set[tuple[str, str, str]]] = {"train": set(), "dev": set(), "test": set()}
    words: dict[str, set[str]] = {"train": set(), "dev": set(), "test": set()}
    for split, scene in scenes:
        combinations[split] |= scene.combinations
        words[split] |= {word for text in describe(scene, np.random.default_rng(0)) for word in standard_words(text)}
    assert len(combinations["test"]) >= 20
    assert not combinations["test"] & (combinations["train"] | combinations["dev"])
    assert words["test"] | words["dev"] <= words["train"]


def test_captions_are_five_different_and_true(scenes: list[tuple[str, Scene]]) -> None:
    for number, (_, scene) in enumerate(scenes):
        captions = describe(scene, np.random.default_rng(number))
        assert len(set(captions)) == 5
        for caption in captions:
            words = standard_words(caption)
            assert {word for word in words if word in COLOURS} == {group.colour for group in scene.groups}
            nouns = set(SHAPES) | set(SHAPES.values())
            expected = {g.shape if g.count == 1 else SHAPES[g.shape] for g in scene.groups}
            assert {word for word in words if word in nouns} == expected
            assert scene.background in caption.lower()


def test_relations_are_true_in_every_wording(scenes: list[tuple[str, Scene]]) -> None:
    for number, (_, scene) in enumerate(scenes):
        if len(scene.groups) == 2:
            on_the_left = scene.groups[0 if scene.position == "left of" else 1]
            for caption in describe(scene, np.random.default_rng(number)):
                text = caption.lower()
                if " left of " in text:
                    assert on_the_left.words in text.split(" left of ")[0]
                if " right of " in text:
                    assert on_the_left.words in text.split(" right of ")[1]


def test_colours_and_places_are_in_the_pixels(scenes: list[tuple[str, Scene]]) -> None:
    for number, (_, scene) in enumerate(scenes[:20]):
        pixels = np.asarray(draw(scene, np.random.default_rng(number))).astype(int)
        assert pixels.shape == (PHOTO_PX, PHOTO_PX, 3)
        for group in scene.groups:
            near = np.abs(pixels - COLOURS[group.colour]).max(axis=2) <= 9
            assert near.sum() > 200
            if len(scene.groups) == 2:
                left = (group == scene.groups[0]) == (scene.position == "left of")
                assert (np.nonzero(near)[1].mean() < PHOTO_PX / 2) == left


def test_write_dataset_and_again(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    sizes = {"num_train": 4, "num_dev": 2, "num_test": 3}
    write_dataset(folder, seed=3, **sizes)
    rows = list(csv.DictReader((folder / "captions.csv").open()))
    photos = sorted(path.name for path in (folder / "photos").iterdir())
    assert Counter(row["split"] for row in rows) == {"train": 20, "dev": 10, "test": 15}
    assert sorted({row["image"] for row in rows}) == photos
    assert all(Image.open(folder / "photos" / name).size == (PHOTO_PX, PHOTO_PX) for name in photos)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    write_dataset(folder, seed=3, **sizes)
    assert {path: path.stat().st_mtime_ns for path in before} == {path: each[0] for path, each in before.items()}
    write_dataset(tmp_path / "other", seed=3, **sizes)
    for path, (_, content) in before.items():
        assert (tmp_path / "other" / path.relative_to(folder)).read_bytes() == content
    write_dataset(folder, seed=4, **sizes)
    assert (folder / "captions.csv").read_bytes() != before[folder / "captions.csv"][1]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")] == []


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/mine.txt").write_text("precious")
    with pytest.raises(InputError, match="is not the built-in dataset"):
        write_dataset(tmp_path / "dataset", seed=0, num_train=1, num_dev=1, num_test=1)
    assert (tmp_path / "dataset/mine.txt").read_text() == "precious"
