"""What benchmarks of captioning run on: generated photos, and a model of random weights at the tutorial's sizes."""

import itertools
import string
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

NUM_WORDS = 7_576  # with start, end and padding, the tutorial's vocabulary of 7,579


def make_photos(folder: Path, count: int, *, side_px: int, kind: str = "jpg") -> Path:
    """Draw `count` different photos, a thousand a folder, once; return the folder."""
    done = folder / f".{count}-{side_px}-{kind}"
    if not done.exists():
        starts = range(0, count, 1000)
        with ProcessPoolExecutor(2) as pool:
            list(pool.map(_draw, [(folder, start, min(start + 1000, count), side_px, kind) for start in starts]))
        done.touch()
    return folder


def _draw(what: tuple[Path, int, int, int, str]) -> None:
    folder, start, stop, side_px, kind = what
    inside = folder / f"{start // 1000:04d}"
    inside.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(start)
    for number in range(start, stop):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((side_px, side_px), Image.Resampling.BICUBIC).save(inside / f"{number}.{kind}")


def make_small_encoder(path: Path) -> Path:
    """Save a small encoder, still the slowest part of captioning: MobileNetV2 at 96 x 96, random weights."""
    if not path.exists():
        in_another_process("small_encoder", str(path))
    return path


def make_bundle(folder: Path, encoder: str) -> Path:
    """Write a bundle for an encoder by name (random weights) or location, once; return the folder."""
    if not (folder / "card.json").exists():
        in_another_process("bundle", str(folder), encoder)
    return folder


def in_another_process(*what: str) -> None:
    """Run this file, so that the process that measures does not hold TensorFlow."""
    subprocess.run([sys.executable, __file__, *what], check=True, stderr=subprocess.DEVNULL)


def words() -> Iterable[str]:
    letters = string.ascii_lowercase
    return itertools.islice(("".join(each) for each in itertools.product(letters, repeat=3)), NUM_WORDS)


def _make(what: str, out: str, *options: str) -> None:
    import keras

    from raycap.config import ModelConfig
    from raycap.decoders import build_model
    from raycap.encoder import load_encoder
    from raycap.model import Bundle
    from raycap.model_card import ModelCard
    from raycap.schema import END_TOKEN, START_TOKEN
    from raycap.text import Tokenizer

    keras.utils.set_random_seed(0)
    if what == "small_encoder":
        photo = keras.Input((96, 96, 3))
        scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)(photo)
        network = keras.applications.MobileNetV2((96, 96, 3), include_top=False, weights=None, pooling="avg")
        keras.Model(photo, network(scaled)).save(out)
        return
    encoder = load_encoder(options[0], weights="random").card
    tokenizer = Tokenizer(
        words=(START_TOKEN, END_TOKEN, *words()), max_length=34, keep_one_letter_words=True, min_word_count=1
    )
    model = build_model(ModelConfig(), vocab_size=tokenizer.vocab_size, feature_shape=(encoder.dim,), moments=None)
    card = ModelCard(
        encoder=encoder, max_length=34, vocab_size=tokenizer.vocab_size, training={}, metrics={}, versions={}
    )
    Bundle(model, tokenizer, card).save(out)


if __name__ == "__main__":
    _make(*sys.argv[1:])
