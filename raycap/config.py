"""Every option of every stage: its name, type, default and help, in frozen dataclasses. Knows nothing else."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Read captions and a photo folder; write a manifest, clean captions and a tokenizer.

    Example: raycap prepare --captions Flickr8k_text --photos Flicker8k_Dataset --out work/prepared
    """

    captions: tuple[str, ...]
    """Caption files, or a folder with Flickr8k's; SPLIT=FILE says which split a file is (COCO)."""
    photos: str
    """Folder with the photos, searched recursively."""
    out: str
    """Folder to write."""
    format: Literal["auto", "flickr8k", "coco", "karpathy", "csv", "jsonl", "parquet"] = "auto"
    """What the caption files are."""
    image_column: str = "image"
    """CSV, JSONL, Parquet: column with the photo's path inside the photo folder."""
    caption_column: str = "caption"
    """CSV, JSONL, Parquet: column with a caption, or a list of captions."""
    split_column: str = "split"
    """CSV, JSONL, Parquet: column with train, dev or test; may be absent."""
    keep_one_letter_words: bool = False
    """Keep "a" and its like, which scores under the `standard` protocol need."""
    min_word_count: int = 1
    """Leave words seen fewer times in training out of the vocabulary."""
    dev_fraction: float = 0.1
    """Where the files give no splits: share of photos in dev."""
    test_fraction: float = 0.1
    """Where the files give no splits: share of photos in test."""
    seed: int = 0
    """Seed of the splits."""


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """How much of the cluster a Ray Data stage uses. Changes speed, never results."""

    num_workers: int | None = None
    """Model workers; by default one a GPU, or on CPUs one for every --cpus-per-worker."""
    num_gpus: float | None = None
    """GPUs of each worker; by default 1 if the cluster has any, otherwise 0."""
    cpus_per_worker: int = 4
    """Threads of each CPU worker, at most the node's."""
    batch_size: int = 32
    """Photos a model call."""
    shard_size: int = 256
    """Photos an output file at most; what a kill can lose is what is in flight."""
    max_failure_rate: float = 1.0
    """End with an error once this share of photos has failed (after the first 100)."""
    retry_failed: bool = False
    """Try the photos of the failures table again."""


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Compute one feature a photo, with a Ray Data job.

    Example: raycap extract --manifest work/prepared/photos.parquet --out work/vgg16
    """

    manifest: str
    """Parquet file with image_id and uri, as prepare writes it."""
    out: str
    """Folder to write: features/, failures/, run.json."""
    encoder: str = "vgg16"
    """`vgg16` (fc2), another keras.applications model by name, or a saved .keras model."""
    weights: str = "imagenet"
    """`imagenet`, `random`, or a weights file; a saved model brings its own."""
    seed: int = 0
    """Seed of random weights."""
    exif_orientation: bool = False
    """Turn photos as their EXIF orientation says; keras.utils.load_img does not."""
    dtype: Literal["float32", "float16"] = "float32"
    """What features are stored as."""
    max_pixels: int = 178_956_970
    """Photos with more pixels fail instead of filling the memory."""
    workers: WorkersConfig = field(default_factory=WorkersConfig)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The merge model; the defaults are the tutorial's."""

    units: int = 256
    """Width of the LSTM and of the dense layers."""
    embedding_dim: int = 256
    """Width of the word embedding."""
    dropout: float = 0.5
    """Share of photo features, and of embedded words, dropped in training."""
    merge: Literal["add", "concat"] = "add"
    """How photo and words meet."""
    normalization: Literal["none", "l2", "standardize"] = "none"
    """What is done to features first; `standardize` uses mean and deviation over train, kept in the model."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train the merge model with Ray Train.

    Example: raycap train --prepared work/prepared --features work/vgg16 --out work/model
    """

    prepared: str
    """What prepare wrote."""
    features: str
    """What extract wrote."""
    out: str
    """Folder to write: bundle/, history.json, tensorboard/, run.json."""
    model: ModelConfig = field(default_factory=ModelConfig)
    epochs: int = 20
    """Epochs at most."""
    patience: int = 3
    """Stop after this many epochs without a lower dev loss."""
    global_batch_size: int = 16
    """Photos a step, with all their captions, over all workers."""
    learning_rate: float = 1e-3
    """Adam's."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the vocabulary."""
    seed: int = 0
    """Seed of weights, order and dropout."""
    shuffle_window: int = 8192
    """Photos held in memory and shuffled at a time; their files come in a new order each epoch."""
    num_workers: int = 1
    """Workers that train together; the steps are the same however many."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: int | None = None
    """Threads of each worker; by default the node's cores shared evenly."""
    max_restarts: int = 3
    """Times that training goes on from the last epoch after a worker dies."""


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How a caption is searched for."""

    beam_width: int = 3
    """Hypotheses kept at each word; 1 is greedy."""
    length_penalty: float = 0.0
    """Hypotheses are ranked by log_prob / length ** this; more favours longer captions."""
    max_length: int | None = None
    """Tokens at most, start and end included; by default the longest training caption's."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Caption a split and score it, with a Ray Data job.

    Example: raycap evaluate --model work/model --prepared work/prepared --features work/vgg16 --out work/scores
    """

    model: str
    """What train wrote, or its bundle."""
    prepared: str
    """What prepare wrote."""
    features: str
    """What extract wrote."""
    out: str
    """Folder to write: scores.json, hypotheses.parquet, run.json."""
    split: Literal["train", "dev", "test"] = "test"
    """Which photos to score."""
    seed: int = 0
    """Seed of the shuffled-photos baseline."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    workers: WorkersConfig = field(default_factory=lambda: WorkersConfig(batch_size=256))


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Caption photos, straight from pixels, with a Ray Data job.

    Example: raycap caption holiday/ --model work/model --out work/captions
    """

    photos: Annotated[tuple[str, ...], Positional]
    """Photos and folders (searched recursively)."""
    model: str
    """What train wrote, or its bundle."""
    out: str | None = None
    """Folder to write: captions/, failures/, run.json; without it captions are printed."""
    encoder_file: str | None = None
    """Where the encoder's saved model or weights file is now, if not where it was at extract."""
    max_pixels: int = 178_956_970
    """Photos with more pixels fail instead of filling the memory."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Run every stage on the built-in dataset.

    Example: raycap demo
    """

    out: str = "work/demo"
    """Folder to write."""
    num_train: int = 320
    """Training scenes."""
    num_dev: int = 40
    """Dev scenes."""
    num_test: int = 60
    """Test scenes, of combinations that training does not show."""
    seed: int = 0
    """Seed of scenes, encoder weights and training."""
