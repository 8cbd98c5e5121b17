"""Every option of every stage: its name, type, default and help, in frozen dataclasses. Knows nothing else."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from raycap.errors import InputError
from raycap.options import Positional

Precision = Literal["float32", "bfloat16", "float16"]
"""Of arithmetic."""

Preset = Literal["tutorial", "paper", "best"]
"""Name of one of `presets.PRESETS`."""

_MOST_PIXELS: Final = 178_956_970  # of a photo, twice of what Pillow warns


def require(met: bool, message: str) -> None:
    """Check what options say of each other.

    Raises:
        InputError: with `message`, if it is not so.
    """
    if not met:
        raise InputError(message)


def require_at_least(config: Any, least: int, *names: str) -> None:
    """Check that some options of a dataclass are not below a number; None, where one may be that, passes.

    Raises:
        InputError: if one is.
    """
    for name in names:
        value = getattr(config, name)
        shown = f"{value:g}" if isinstance(value, float) else value
        require(value is None or value >= least, f"--{name.replace('_', '-')} is {shown}; give {least} or more")


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
class ModelWorkersConfig:
    """How much of the cluster the model of a Ray Data stage uses. Changes speed, never results."""

    num_workers: int | None = None
    """Model workers; by default one a GPU, or on CPUs one for every --cpus-per-worker."""
    num_gpus: float | None = None
    """GPUs of each worker; by default 1 if the cluster has any, otherwise 0."""
    cpus_per_worker: int = 4
    """Threads of each CPU worker, at most the node's."""
    batch_size: int | None = None
    """Photos a model call; by default found by trying. Halved where memory runs out."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_workers", "cpus_per_worker", "batch_size")
        require(
            self.num_gpus is None or 0 <= self.num_gpus <= 1,
            f"--num-gpus is {self.num_gpus}; give 0 to 1, as a worker uses one GPU; --num-workers is how many",
        )


@dataclass(frozen=True, kw_only=True)
class WorkersConfig(ModelWorkersConfig):
    """How a Ray Data stage over photos uses the cluster, and what it does about photos that fail."""

    shard_size: int = 256
    """Photos an output file at most; what a kill can lose is what is in flight."""
    max_failure_rate: float = 1.0
    """End with an error once this share of photos has failed (after the first 100)."""
    retry_failed: bool = False
    """Try the photos of the failures table again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 1, "shard_size")
        require(0 <= self.max_failure_rate <= 1, f"--max-failure-rate is {self.max_failure_rate:g}; give 0 to 1")


@dataclass(frozen=True, kw_only=True)
class LimitsConfig:
    """What one photo may cost; beyond that it fails, and the others go on."""

    max_pixels: int = _MOST_PIXELS
    """Photos with more pixels fail before they are decoded."""
    max_bytes: int = 2**30
    """Photos whose files are larger fail."""
    photo_timeout_s: float = 60.0
    """Seconds that reading a photo, and then decoding it, may each take."""

    def __post_init__(self) -> None:
        require(self.max_bytes <= 2**31, f"--max-bytes is {self.max_bytes}; give {2**31} or less")
        for name in ("max_pixels", "max_bytes", "photo_timeout_s"):
            value = getattr(self, name)
            require(value > 0, f"--{name.replace('_', '-')} is {value:g}; give more than 0")
        require(
            self.max_pixels <= _MOST_PIXELS,
            f"--max-pixels is {self.max_pixels}; Pillow reads {_MOST_PIXELS} at most: make such photos smaller first",
        )


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
    spatial: bool = False
    """Keep the encoder's last feature map, a vector a region, for decoders with attention; by default one feature a
    photo."""
    num_views: int = 1
    """Views of each photo: the photo, then it mirrored, then crops of it. train learns from all of them, which makes
    captions of other photos better; everything else uses the first."""
    exif_orientation: bool = False
    """Turn photos as their EXIF orientation says; keras.utils.load_img does not."""
    fast_decode: bool = False
    """Decode JPEG photos at 1/8, 1/4 or 1/2 of their size, which is several times as fast; features differ a little."""
    precision: Precision = "float32"
    """What the encoder computes in. With `bfloat16` a CPU that multiplies it (AMX) runs VGG16 five times as fast, with
    `float16` a GPU; features differ by some hundredths, and the model captions in the same."""
    dtype: Literal["float32", "float16"] = "float32"
    """What features are stored as."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)

    def __post_init__(self) -> None:
        require_at_least(self, 1, "num_views")


@dataclass(frozen=True, kw_only=True)
class TuningConfig:
    """How an encoder is fine-tuned: its last layers learn which words people say of a photo."""

    finetune_epochs: int = 0
    """Epochs over the training photos, of which the one with the lowest dev loss counts; 0 leaves the encoder as it
    is."""
    finetune_share: float = 0.25
    """Share of the encoder's layers that learn, its last ones."""
    finetune_words: int = 1200
    """Words that it learns to predict: those said of most training photos."""
    finetune_learning_rate: float = 1e-4
    """Adam's at its highest; it rises in the first epoch and falls to nothing in the last."""
    finetune_batch_size: int = 32
    """Photos a step."""

    def __post_init__(self) -> None:
        require_at_least(self, 0, "finetune_epochs")
        require_at_least(self, 1, "finetune_words", "finetune_batch_size")
        require(0 < self.finetune_share <= 1, f"--finetune-share is {self.finetune_share:g}; give more than 0, to 1")
        rate = self.finetune_learning_rate
        require(0 < rate < math.inf, f"--finetune-learning-rate is {rate:g}; give more than 0")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Fine-tune an encoder to the words that people say of the training photos, with Ray Train.

    Example: raycap finetune --prepared work/prepared --out work/encoder
    """

    prepared: str
    """What prepare wrote."""
    out: str
    """Folder to write: ENCODER-finetuned.keras, history.json, run.json."""
    encoder: str = "vgg16"
    """`vgg16`, another keras.applications model by name, or a saved .keras model."""
    weights: str = "imagenet"
    """`imagenet`, `random`, or a weights file; a saved model brings its own."""
    spatial: bool = False
    """For extract --spatial: of VGG16 and VGG19 the layers up to the last feature map, instead of those up to fc2."""
    seed: int = 0
    """Seed of random weights, order, views and dropout."""
    tuning: TuningConfig = field(default_factory=lambda: TuningConfig(finetune_epochs=4))
    exif_orientation: bool = False
    """Turn photos as their EXIF orientation says."""
    fast_decode: bool = False
    """Decode JPEG photos at 1/8, 1/4 or 1/2 of their size, as extract will."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    use_gpu: bool = False
    """Learn on a GPU."""
    cpus_per_worker: int | None = None
    """Threads that learn; by default all of a node's cores."""
    max_restarts: int = 3
    """Times that it goes on from the last epoch after its process dies."""

    def __post_init__(self) -> None:
        require_at_least(self.tuning, 1, "finetune_epochs")
        require_at_least(self, 0, "seed", "max_restarts")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The decoder; the defaults are the tutorial's merge model."""

    decoder: Literal["merge", "attention", "transformer"] = "merge"
    """`merge` sees a photo as one feature; `attention`, an LSTM, and `transformer` look at its regions, of extract
    --spatial."""
    units: int = 256
    """Width of the LSTM, or of the Transformer, and of the dense layers."""
    embedding_dim: int = 256
    """Width of the word embedding; a Transformer's is --units."""
    dropout: float = 0.5
    """Share of photo features, and of embedded words, dropped in training."""
    merge: Literal["add", "concat"] = "add"
    """How photo and words meet in the merge model."""
    num_heads: int = 4
    """Heads of the attention; they share the units."""
    num_layers: int = 2
    """Blocks of the Transformer."""
    normalization: Literal["none", "l2", "standardize"] = "none"
    """What is done to features first; `standardize` uses mean and deviation over train, kept in the model."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "units", "embedding_dim", "num_heads", "num_layers")
        require(0 <= self.dropout < 1, f"--dropout is {self.dropout:g}; give 0 to below 1")
        require(
            not self.needs_regions or self.units % self.num_heads == 0,
            f"--units is {self.units}, which {self.num_heads} heads cannot share; see --num-heads",
        )
        require(
            self.decoder != "transformer" or self.embedding_dim == self.units,
            f"--embedding-dim is {self.embedding_dim} and --units {self.units}; a Transformer adds to its words what "
            "it finds, and the two must be equal",
        )

    @property
    def needs_regions(self) -> bool:
        """Whether the decoder looks at the regions of a photo, rather than at one feature."""
        return self.decoder != "merge"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a captioner with Ray Train: the merge model, or a decoder with attention.

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
    """Stop after this many epochs that are not the best so far."""
    select_by: Literal["dev_loss", "cider_d", "bleu_4"] = "dev_loss"
    """What the best epoch is best in; the scores are of greedy captions of dev, under the `standard` protocol."""
    global_batch_size: int = 16
    """Photos a step, with all their captions, over all workers."""
    learning_rate: float = 1e-3
    """Adam's."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine` lets the learning rate fall to a twentieth over the epochs."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises first, with `cosine`."""
    weight_average: float = 0.0
    """Keep a moving average of the weights with this decay, such as 0.999, in place of the weights; 0 keeps none."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the vocabulary."""
    cider_epochs: int = 0
    """Epochs after the others that raise the CIDEr-D of captions found by beam search (self-critical training)."""
    cider_learning_rate: float = 5e-5
    """Adam's in these."""
    cider_captions: int = 5
    """Captions of each photo that are compared with each other in these."""
    keep_neighbors: bool = False
    """Keep the training photos' features and captions in the bundle, for --num-neighbors of evaluate and caption."""
    fit_matching: bool = False
    """Find out, beside the model, what photos and captions have in common, for --matching of evaluate and caption."""
    num_members: int = 1
    """Models trained one after another, each from a seed of its own, that choose each word together: the mean of their
    logits decides."""
    seed: int = 0
    """Seed of weights, order and dropout."""
    shuffle_window: int = 8192
    """Photos held in memory and shuffled at a time; their files come in a new order each epoch."""
    num_workers: int = 1
    """Workers that train together; the steps are the same however many."""
    open_ports: bool = False
    """Allow several workers where there is no cluster: TensorFlow's listen on all of the machine's interfaces."""
    use_gpu: bool = False
    """Give each worker a GPU."""
    cpus_per_worker: int | None = None
    """Threads of each worker; by default the node's cores shared evenly."""
    max_restarts: int = 3
    """Times that training goes on from the last epoch after a worker dies."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "epochs", "patience", "global_batch_size", "num_members", "shuffle_window")
        require_at_least(self, 1, "num_workers", "cpus_per_worker")
        require_at_least(self, 0, "warmup_steps", "cider_epochs", "max_restarts", "seed")
        for name in ("learning_rate", "cider_learning_rate"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"--{name.replace('_', '-')} is {value:g}; give more than 0")
        require(
            not self.warmup_steps or self.schedule == "cosine",
            "--warmup-steps is for a learning rate that changes; give --schedule cosine, or --warmup-steps 0",
        )
        require(0 <= self.label_smoothing < 1, f"--label-smoothing is {self.label_smoothing:g}; give 0 to below 1")
        require(0 <= self.weight_average < 1, f"--weight-average is {self.weight_average:g}; give 0 to below 1")
        require(self.cider_captions >= 2, f"--cider-captions is {self.cider_captions}; give 2 or more to compare")
        require(
            not self.cider_epochs or self.select_by != "dev_loss",
            "epochs that raise CIDEr-D raise the dev loss too; with --cider-epochs give --select-by cider_d",
        )


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How a caption is found: by beam search, or drawn at random."""

    beam_width: int = 3
    """Hypotheses kept at each word; 1 is greedy."""
    length_penalty: float = 0.0
    """Hypotheses are ranked by log_prob / length ** this; more favours longer captions."""
    min_length: int = 3
    """Tokens at least, start and end included."""
    max_length: int | None = None
    """Tokens at most, start and end included; by default the longest training caption's."""
    no_repeat_ngram: int = 0
    """No sequence of this many words comes twice in a caption; 0 allows any."""
    no_repeat_words: bool = False
    """No word comes twice in a caption but articles, prepositions and their like, which are English."""
    whole_sentences: bool = False
    """No caption ends in an article, "of", "is" or their like, or in "a red", which are English; where rare words were
    left out of training, a model learns that it may."""
    consensus: float = 0.0
    """Choose the caption that says most of what the beam's other captions say, each weighing as much as its
    probability to this power, such as 0.3; 0 chooses the most probable."""
    num_neighbors: int = 0
    """In the consensus, count people's captions of this many training photos too, those most like the photo, such as 10
    with a --consensus of 0.5; for models trained with --keep-neighbors."""
    matching: float = 0.0
    """In the consensus, count this much how well a caption matches the photo, by what photos and captions of training
    have in common, such as 0.4; for models trained with --fit-matching."""
    mirrored: bool = False
    """Look at each photo mirrored too: the mean of both decides each word."""
    num_captions: int = 1
    """Captions of each photo; those after the first are its `alternatives`."""
    sample: bool = False
    """Draw each word at random instead of searching; the four options below say how."""
    temperature: float = 1.0
    """Below 1 the probable becomes more so."""
    top_k: int = 0
    """Draw from this many most probable words; 0 from all."""
    top_p: float = 1.0
    """Draw from the fewest words that together have this probability."""
    sample_seed: int = 0
    """What is drawn for a photo depends on this and its image_id, not on the photos beside it."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "beam_width", "num_captions")
        require_at_least(self, 0, "no_repeat_ngram", "num_neighbors", "top_k", "sample_seed")
        longest = self.min_length if self.max_length is None else self.max_length
        require(self.min_length >= 2, f"--min-length is {self.min_length}; start and end are 2 tokens")
        require(longest >= max(3, self.min_length), f"--max-length is {longest}; give 3 and --min-length or more")
        require(self.consensus >= 0, f"--consensus is {self.consensus:g}; give 0 or more")
        require(not (self.consensus and self.sample), "--consensus compares the captions of a beam; leave out --sample")
        require(
            not self.num_neighbors or self.consensus > 0,
            "--num-neighbors is for choosing by consensus; give --consensus too, such as 0.3",
        )
        require(self.matching >= 0, f"--matching is {self.matching:g}; give 0 or more")
        require(
            not self.matching or self.consensus > 0,
            "--matching is for choosing by consensus; give --consensus too, such as 0.3",
        )
        require(1e-6 <= self.temperature <= 1e6, f"--temperature is {self.temperature:g}; give 1e-6 to 1e6")
        require(0 < self.top_p <= 1, f"--top-p is {self.top_p:g}; give more than 0, and 1 at most")
        drawn = (self.temperature, self.top_k, self.top_p, self.sample_seed)
        require(
            self.sample or drawn == (1.0, 0, 1.0, 0),
            "--temperature, --top-k, --top-p and --sample-seed say how words are drawn; give --sample too",
        )
        require(
            self.sample or self.num_captions <= self.beam_width,
            f"a beam of {self.beam_width} holds no {self.num_captions} captions; give --beam-width "
            f"{self.num_captions}, or --sample",
        )

    @property
    def num_views(self) -> int:
        """Views of each photo that it looks at: the photo, and perhaps it mirrored."""
        return 2 if self.mirrored else 1


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Caption a split and score it, with a Ray Data job.

    Example: raycap evaluate --model work/model --prepared work/prepared --features work/vgg16 --out work/scores

    Example, where the scores are there already: the same with --against work/other-scores
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
    """Seed of the shuffled-photos baseline, and of the photos drawn for intervals."""
    against: str | None = None
    """What evaluate wrote for another run: say which scores better, and how sure that is."""
    meteor_timeout_s: float = 600.0
    """Seconds that METEOR's Java program may take; 0 leaves METEOR out."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    workers: ModelWorkersConfig = field(default_factory=ModelWorkersConfig)

    def __post_init__(self) -> None:
        require(self.meteor_timeout_s >= 0, f"--meteor-timeout-s is {self.meteor_timeout_s:g}; give 0 or more")
        require(
            self.decoding.num_captions == 1, "one caption of each photo is scored; --num-captions is for raycap caption"
        )


@dataclass(frozen=True, kw_only=True)
class PhotosConfig:
    """How photos are listed."""

    hidden: bool = False
    """Take files and folders whose names begin with a dot too."""
    image_column: str | None = None
    """CSV, JSONL, Parquet: column with paths or URIs, in Parquet also with the photos; by default of a usual name."""
    id_column: str | None = None
    """CSV, JSONL, Parquet: column with image_ids; by default image_id if there is one, otherwise the path is the id."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """What captions are written as, and what becomes of those that are there."""

    formats: tuple[Literal["parquet", "jsonl", "csv", "imagefolder", "coco"], ...] = ("parquet",)
    """`jsonl`, `csv`, `imagefolder` (Hugging Face's metadata.jsonl) and `coco` (results) are one file each; Parquet is
    always written too, as the record of what is done."""
    sidecars: str | None = None
    """Write NAME.txt too: `beside` each photo, or into a folder that mirrors the photos' tree."""
    overwrite_sidecars: bool = False
    """Replace .txt files that raycap did not write, or that were changed since."""
    if_exists: Literal["skip", "overwrite", "fail"] = "skip"
    """`skip` does what is missing; `overwrite` starts over; `fail` ends with an error if anything is there."""


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """Caption photos, straight from pixels, with a Ray Data job.

    Example: raycap caption holiday/ --model work/model --out work/captions --formats csv

    Example: raycap caption 's3://bucket/shards/*.tar' --model s3://bucket/model --out s3://bucket/captions
    """

    photos: Annotated[tuple[str, ...], Positional]
    """Files, folders, globs, lists (.txt .csv .tsv .jsonl .parquet), .tar shards; - reads paths from standard input."""
    model: str
    """What train wrote, or its bundle."""
    preset: Preset = "tutorial"
    """On the command line, search options to start from: those by which `raycap run --preset` scores."""
    out: str | None = None
    """Folder to write: captions/, failures/, run.json; without it captions are printed."""
    limit: int | None = None
    """Photos to caption in this run at most."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""
    fast_decode: bool = False
    """Decode JPEG photos at 1/8, 1/4 or 1/2 of their size, even if the model's features were not made so."""
    precision: Precision | None = None
    """What the encoder computes in, as extract has it; by default what the model's features were made in."""
    encoder_file: str | None = None
    """Where the encoder's saved model or weights file is now, if not where it was at extract."""
    listing: PhotosConfig = field(default_factory=PhotosConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)

    def __post_init__(self) -> None:
        require_at_least(self, 1, "limit")
        writes = self.output.sidecars is not None or set(self.output.formats) != {"parquet"}
        require(self.out is not None or not writes, "--formats and --sidecars need --out, where the record is kept")
        resumes = self.workers.retry_failed or self.output.if_exists != "skip" or self.workers.max_failure_rate < 1
        require(
            self.out is not None or not resumes,
            "--retry-failed, --if-exists and --max-failure-rate need --out, where the record is kept",
        )
