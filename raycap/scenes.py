"""The built-in dataset: draws photos and writes their captions; knows neither Ray, TensorFlow nor any stage."""

import csv
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from raycap.errors import InputError
from raycap.schema import SPLITS

PHOTO_PX: Final = 256
_SMOOTHING: Final = 3  # drawn this many times larger, then averaged
_OUTLINE: Final = (40, 35, 50)
_RECORD_FILE: Final = "scenes.json"
_VERSION: Final = 1

COLOURS: Final = {
    "red": (215, 35, 40),
    "yellow": (255, 215, 40),
    "green": (60, 180, 75),
    "blue": (35, 85, 215),
    "pink": (250, 140, 195),
}
SHAPES: Final = {"ball": "balls", "fish": "fish", "star": "stars", "rocket": "rockets", "boat": "boats"}
BACKGROUNDS: Final = {
    "by the sea": ((222, 240, 248), (100, 175, 205)),
    "on the beach": ((250, 240, 220), (230, 205, 165)),
    "in the snow": ((205, 220, 235), (245, 248, 250)),
    "at dusk": ((225, 215, 240), (190, 180, 225)),
    "at sunset": ((252, 235, 215), (232, 200, 160)),
}
PLACES: Final = {
    "on the left": (0.33, 0.5),
    "on the right": (0.67, 0.5),
    "at the top": (0.5, 0.33),
    "at the bottom": (0.5, 0.67),
    "in the middle": (0.5, 0.5),
}
ROWS: Final = {"side by side": (1.0, 0.0), "one above another": (0.0, 1.0)}
RELATIONS: Final = {"left of": "right of", "right of": "left of"}
_RADII: Final = {("small", 1): 0.12, ("large", 1): 0.22}
_ROW_RADII: Final = {("small", 2): 0.11, ("large", 2): 0.165, ("small", 3): 0.085, ("large", 3): 0.12}
_ROW_GAPS: Final = {2: 0.42, 3: 0.31}
_PAIR_RADIUS: Final = 0.175

_T = TypeVar("_T")
Points = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Group:
    """One or more equal objects.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        count: 1 to 3.
        size: `small` or `large`; empty where a scene does not tell sizes apart.
    """

    shape: str
    colour: str
    count: int = 1
    size: str = ""

    @property
    def words(self) -> str:
        """The group as a person names it, such as "two small red boats"."""
        noun = self.shape if self.count == 1 else SHAPES[self.shape]
        return " ".join(word for word in (("a", "two", "three")[self.count - 1], self.size, self.colour, noun) if word)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a photo shows.

    Attributes:
        groups: one, or two beside each other.
        position: of one object, in `PLACES`; of several, in `ROWS`; of two groups, in `RELATIONS`.
        background: one of `BACKGROUNDS`.
    """

    groups: tuple[Group, ...]
    position: str
    background: str

    @property
    def combinations(self) -> frozenset[tuple[str, str, str]]:
        """Its (colour, shape, background) combinations; those of test scenes are in no other split."""
        return frozenset((group.colour, group.shape, self.background) for group in self.groups)


def is_held_out(colour: str, shape: str, background: str) -> bool:
    """Whether a combination is kept for test scenes: a fifth of all, every colour, shape and background among them."""
    places = list(COLOURS).index(colour) + list(SHAPES).index(shape) + list(BACKGROUNDS).index(background)
    return places % len(BACKGROUNDS) == 0


def describe(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return five differently worded captions, all true."""
    first, behind = scene.groups[0], scene.background
    verb = "is" if first.count == 1 else "are"
    if len(scene.groups) == 1:
        what, where = first.words, scene.position
        ways = [
            f"{what} {where} {behind}",
            f"{behind} there {verb} {what} {where}",
            f"there {verb} {what} {where} {behind}",
            f"{what} {behind} {where}",
            f"a picture of {what} {where} {behind}",
            f"{where} {verb} {what} {behind}",
        ]
    else:
        one, other = (group.words for group in scene.groups)
        relation, inverse = scene.position, RELATIONS[scene.position]
        ways = [
            f"{one} {relation} {other} {behind}",
            f"{behind} {one} {verb} {relation} {other}",
            f"{other} {inverse} {one} {behind}",
            f"there {verb} {one} {relation} {other} {behind}",
            f"{one} and {other} {behind}",
            f"a picture of {one} {relation} {other} {behind}",
        ]
    return [ways[index].capitalize() + " ." for index in sorted(rng.permutation(len(ways))[:5])]


def draw(scene: Scene, rng: np.random.Generator) -> Image.Image:
    """Return the photo of a scene, `PHOTO_PX` square, RGB, no two quite alike."""
    photo = _background(scene.background, rng)
    for group, (x, y), radius in _layout(scene):
        jitter = rng.uniform(-0.02, 0.02, 2)
        _paint(photo, group, x + jitter[0], y + jitter[1], radius * (1 + rng.uniform(-0.05, 0.05)), rng)
    return photo


def make_scenes(*, seed: int, num_train: int, num_dev: int, num_test: int) -> list[tuple[str, Scene]]:
    """Return scenes with their splits, the same for the same seed."""
    rng = np.random.default_rng(seed)
    splits = [split for split, count in zip(SPLITS, (num_train, num_dev, num_test), strict=True) for _ in range(count)]
    return [(split, _make_scene(rng, held_out=split == "test")) for split in splits]


def write_dataset(folder: Path, *, seed: int, num_train: int, num_dev: int, num_test: int) -> None:
    """Write `photos/*.png` and `captions.csv` (image, caption, split), whole or not at all.

    Nothing is done where the same dataset is already.

    Args:
        folder: to write; another built-in dataset there is replaced.
        seed: of everything.
        num_train: scenes.
        num_dev: scenes.
        num_test: scenes, of combinations that no other split has.

    Raises:
        InputError: if there is a folder that raycap did not write.
    """
    record = {"version": _VERSION, "seed": seed, "sizes": [num_train, num_dev, num_test]}
    if (folder / _RECORD_FILE).exists() and json.loads((folder / _RECORD_FILE).read_text()) == record:
        return
    if folder.exists() and not (folder / _RECORD_FILE).exists():
        raise InputError(f"{folder} is there already and is not the built-in dataset; give another --out")
    temporary = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "photos").mkdir(parents=True)
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["image", "caption", "split"])
    scenes = make_scenes(seed=seed, num_train=num_train, num_dev=num_dev, num_test=num_test)
    for number, (split, scene) in enumerate(scenes):
        rng = np.random.default_rng([seed, number])
        name = f"scene-{number:04d}.png"
        draw(scene, rng).save(temporary / "photos" / name)
        writer.writerows([name, caption, split] for caption in describe(scene, rng))
    (temporary / "captions.csv").write_text(table.getvalue())
    (temporary / _RECORD_FILE).write_text(json.dumps(record))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _make_scene(rng: np.random.Generator, *, held_out: bool) -> Scene:
    background = _pick(rng, list(BACKGROUNDS))
    kinds = [(c, s) for c in COLOURS for s in SHAPES if is_held_out(c, s, background) == held_out]
    colour, shape = _pick(rng, kinds)
    size = _pick(rng, ["small", "large"])
    what = rng.random()
    if what < 0.4:
        group = Group(shape=shape, colour=colour, size=size)
        return Scene(groups=(group,), position=_pick(rng, list(PLACES)), background=background)
    if what < 0.6:
        group = Group(shape=shape, colour=colour, size=size, count=int(rng.integers(2, 4)))
        return Scene(groups=(group,), position=_pick(rng, list(ROWS)), background=background)
    others = [(c, s) for c, s in kinds if c != colour and s != shape]
    other_colour, other_shape = _pick(rng, others)
    groups = (Group(shape=shape, colour=colour), Group(shape=other_shape, colour=other_colour))
    return Scene(groups=groups, position=_pick(rng, list(RELATIONS)), background=background)


def _pick(rng: np.random.Generator, choices: Sequence[_T]) -> _T:
    return choices[int(rng.integers(len(choices)))]


def _layout(scene: Scene) -> Iterator[tuple[Group, tuple[float, float], float]]:
    """Yield each object of a scene with its centre and radius, as shares of the photo's side."""
    if len(scene.groups) == 2:
        places = [(0.27, 0.5), (0.73, 0.5)]
        for group, place in zip(scene.groups, places if scene.position == "left of" else places[::-1], strict=True):
            yield group, place, _PAIR_RADIUS
        return
    group = scene.groups[0]
    if group.count == 1:
        yield group, PLACES[scene.position], _RADII[group.size, 1]
        return
    across, down = ROWS[scene.position]
    for number in range(group.count):
        offset = (number - (group.count - 1) / 2) * _ROW_GAPS[group.count]
        yield group, (0.5 + across * offset, 0.5 + down * offset), _ROW_RADII[group.size, group.count]


def _background(name: str, rng: np.random.Generator) -> Image.Image:
    top, bottom = (np.array(colour, float) for colour in BACKGROUNDS[name])
    down = np.linspace(0, 1, PHOTO_PX)[:, np.newaxis, np.newaxis]
    pixels = np.broadcast_to(top + (bottom - top) * down + rng.uniform(-5, 5, 3), (PHOTO_PX, PHOTO_PX, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _paint(photo: Image.Image, group: Group, x: float, y: float, radius: float, rng: np.random.Generator) -> None:
    angle = np.deg2rad(rng.uniform(-8, 8))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def mask(polygons: Sequence[Points]) -> Image.Image:
        side = PHOTO_PX * _SMOOTHING
        image = Image.new("L", (side, side))
        for polygon in polygons:
            points = (polygon @ turn.T * radius + (x, y)) * side
            ImageDraw.Draw(image).polygon([(float(a), float(b)) for a, b in points], fill=255)
        return image.resize((PHOTO_PX, PHOTO_PX), Image.Resampling.BOX)

    body = mask(_outline(group.shape))
    border = body.filter(ImageFilter.MaxFilter(7))
    shadow = border.filter(ImageFilter.GaussianBlur(5)).point([int(0.35 * level) for level in range(256)])
    photo.paste((20, 20, 40), (3, 5), shadow)
    photo.paste(_OUTLINE, (0, 0), border)
    red, green, blue = (int(v) for v in np.clip(np.array(COLOURS[group.colour]) + rng.integers(-8, 9, 3), 0, 255))
    photo.paste((red, green, blue), (0, 0), body)
    photo.paste((255, 252, 245), (0, 0), mask(_details(group.shape)))


def _circle(x: float, y: float, radius: float, squeeze: float = 1.0) -> Points:
    turn = np.linspace(0, 2 * np.pi, 61)[:-1]
    return np.stack([x + radius * np.cos(turn), y + squeeze * radius * np.sin(turn)], axis=1)


def _outline(shape: str) -> list[Points]:
    """Return the polygons of a shape, about 1 in radius, y downwards."""
    if shape == "ball":
        return [_circle(0, 0, 1)]
    if shape == "fish":
        return [_circle(-0.3, 0, 0.95, 0.72), np.array([(0.4, 0), (1.25, -0.65), (1.25, 0.65)])]
    if shape == "boat":
        return [np.array([(-1.25, 0.2), (1.25, 0.2), (0.85, 1.0), (-0.85, 1.0)]), *_details("boat")]
    if shape == "star":
        turn = -np.pi / 2 + np.arange(10) * np.pi / 5
        radii = np.where(np.arange(10) % 2 == 0, 1.3, 0.54)
        return [np.stack([radii * np.cos(turn), radii * np.sin(turn)], axis=1)]
    right = [(0.0, -1.35), (0.3, -1.0), (0.42, -0.5), (0.42, 0.5), (0.9, 1.2)]
    return [np.array([*right, *((-x, y) for x, y in right[:0:-1])])]  # a rocket


def _details(shape: str) -> list[Points]:
    """Return the white parts of a shape: a ball's ring, a fish's eye, a rocket's window, a boat's sails."""
    sails = [[(0.05, -1.2), (0.05, 0.1), (-0.95, 0.1)], [(0.2, -0.9), (0.85, 0.1), (0.2, 0.1)]]
    return {
        "ball": [_circle(0, 0, 0.42)],
        "fish": [_circle(-0.78, -0.14, 0.16)],
        "rocket": [_circle(0, -0.35, 0.24)],
        "boat": [np.array(sail) for sail in sails],
    }.get(shape, [])
