"""The prepare stage: caption files and a photo folder to a manifest, clean captions and a tokenizer. Needs no Ray."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from raycap.config import PrepareConfig
from raycap.datasets import Dataset, Problem, assemble, read_captions
from raycap.errors import DatasetError, FormatError
from raycap.locations import join, with_absolute
from raycap.parquet import read_table, write_table
from raycap.prepared import CAPTIONS_FILE, PHOTOS_FILE
from raycap.runs import Run
from raycap.schema import CAPTIONS, END_TOKEN, SPLITS, START_TOKEN
from raycap.sole_writer import sole_writer
from raycap.storage import read_text, write_text
from raycap.text import TOKENIZER_FILE, Tokenizer

DESCRIPTIONS_FILE = "descriptions.txt"
PROBLEMS_FILE = "problems.jsonl"


@dataclass(frozen=True)
class PrepareResult:
    """What was read.

    Attributes:
        num_photos: photos with captions, by split; those in none under `none`.
        num_captions: likewise.
        num_pairs: (prefix, next word) pairs, by split.
        vocab_size: words of the training captions, start, end and padding.
        max_length: tokens of the longest training caption, start and end included.
        num_problems: by kind; `problems.jsonl` lists them.
    """

    num_photos: dict[str, int]
    num_captions: dict[str, int]
    num_pairs: dict[str, int]
    vocab_size: int
    max_length: int
    num_problems: dict[str, int]


def prepare(config: PrepareConfig) -> PrepareResult:
    """Read captions, clean them, fit the tokenizer on the training split, and write what the other stages start from.

    Writes `photos.parquet` (the manifest), `captions.parquet`, `tokenizer.json`, `descriptions.txt` (the tutorial's),
    `problems.jsonl` and `run.json` under `config.out`; where they would be what is there, that stays as it is.

    Raises:
        InputError: if a path is wrong, or there are no photos.
        DatasetError: if a caption file cannot be read, no caption meets a photo, or there is nothing to train on.
        ConflictError: if the output was made with other options.
    """
    config = with_absolute(config, "photos", "out")
    dataset = _read(config)
    tokenizer, captions = _clean(dataset, config)
    result = PrepareResult(
        num_photos=_by_split(dataset.photos),
        num_captions=_by_split(captions),
        num_pairs=_num_pairs(captions, tokenizer),
        vocab_size=tokenizer.vocab_size,
        max_length=tokenizer.max_length,
        num_problems=dict(Counter(problem.kind for problem in dataset.problems)),
    )
    files = {
        TOKENIZER_FILE: tokenizer.to_json(),
        DESCRIPTIONS_FILE: _descriptions(captions),
        PROBLEMS_FILE: _lines(dataset.problems),
    }
    tables = {PHOTOS_FILE: dataset.photos, CAPTIONS_FILE: captions}
    with sole_writer(config.out):
        # what the caption files hold counts, here and in what follows, not how their paths were written
        run = Run.open(config.out, "prepare", config, ignore=("captions",))
        if run.result == asdict(result) and _are_there(config.out, files, tables):
            return result
        for name, table in tables.items():
            write_table(join(config.out, name), table)
        for name, text in files.items():
            write_text(join(config.out, name), text)
        run.save(asdict(result))
    return result


def _read(config: PrepareConfig) -> Dataset:
    found = read_captions(
        config.captions,
        format=config.format,
        image_column=config.image_column,
        caption_column=config.caption_column,
        split_column=config.split_column,
    )
    fractions = {"dev_fraction": config.dev_fraction, "test_fraction": config.test_fraction}
    return assemble(found, config.photos, **fractions, seed=config.seed)


def _are_there(out: str, files: Mapping[str, str], tables: Mapping[str, pa.Table]) -> bool:
    """Whether an output holds just these files, so that it can stay as it is."""
    try:
        return all(read_text(join(out, name)) == text for name, text in files.items()) and all(
            read_table(join(out, name)).equals(table) for name, table in tables.items()
        )
    except (OSError, FormatError):
        return False


def _clean(dataset: Dataset, config: PrepareConfig) -> tuple[Tokenizer, pa.Table]:
    captions = dataset.captions
    training = captions.filter(pc.equal(captions["split"], "train"))["caption"].to_pylist()
    if not training:
        raise DatasetError(f"no caption is in the train split; {', '.join(config.captions)} must give some")
    tokenizer = Tokenizer.fit(
        training, keep_one_letter_words=config.keep_one_letter_words, min_word_count=config.min_word_count
    )
    if not {*tokenizer.words} - {START_TOKEN, END_TOKEN}:
        raise DatasetError(
            f"no word of the training captions is left once they are cleaned, of {training[0]!r:.60} for one; see "
            "--min-word-count and --keep-one-letter-words"
        )
    clean = [" ".join(tokenizer.clean(caption)) for caption in captions["caption"].to_pylist()]
    return tokenizer, captions.append_column("clean_caption", pa.array(clean, pa.string())).cast(CAPTIONS)


def _by_split(table: pa.Table) -> dict[str, int]:
    counts = Counter(split or "none" for split in table["split"].to_pylist())
    return {split: counts[split] for split in (*SPLITS, "none") if counts[split]}


def _num_pairs(captions: pa.Table, tokenizer: Tokenizer) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for split, caption in zip(captions["split"].to_pylist(), captions["clean_caption"].to_pylist(), strict=True):
        counts[split or "none"] += len(tokenizer.encode(caption.split())) - 1
    return {split: counts[split] for split in (*SPLITS, "none") if counts[split]}


def _descriptions(captions: pa.Table) -> str:
    """Return the tutorial's file: a line a caption, of the photo's name without its extension and the clean words."""
    image_ids = captions["image_id"].to_pylist()
    stems = {image_id: str(PurePosixPath(image_id).with_suffix("")) for image_id in image_ids}
    unique = len(set(stems.values())) == len(stems)
    lines = zip(image_ids, captions["clean_caption"].to_pylist(), strict=True)
    return "".join(f"{stems[image_id] if unique else image_id} {caption}\n" for image_id, caption in lines)


def _lines(problems: list[Problem]) -> str:
    return "".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
