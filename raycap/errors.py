"""The exception tree; knows nothing else.

RaycapError                    everything raised on purpose
├── InputError                 a path, file or option the user gave is wrong
│   ├── DatasetError           a caption file cannot be read as what it says it is
│   └── WeightsError           an encoder's weights cannot be had
├── FormatError                a file of ours is damaged, or written by a newer raycap
├── ConflictError              the output holds something else, or another run is writing it
│   └── StaleError             the output was made with other options, or from other inputs
├── EncoderMismatchError       features or photos meet a model trained on another encoder
├── TooManyFailuresError       more photos failed than --max-failure-rate allows
├── WorkerDiedError            a process that loads a model dies whenever it is started
├── MeteorError                Java, or METEOR's program, is missing, fails or takes too long: a named gap in scores
├── ImageShapeError            an array has not the shape an encoder takes
└── ImageError                 one photo cannot be used; becomes a row of the failures table
    ├── ImageMissingError      there is nothing at its URI, or it may not be read
    ├── ImageEmptyError        zero bytes
    ├── ImageDecodeError       not an image, or a damaged one
    ├── ImageTooLargeError     more pixels than --max-pixels, or bytes than --max-bytes
    └── ImageTimeoutError      not read or decoded within --photo-timeout-s
"""


class RaycapError(Exception):
    """Base of every error raised on purpose; its message says what, where, and what to do."""


class InputError(RaycapError):
    """A path, file or option that the user gave is wrong."""


class DatasetError(InputError):
    """A caption file cannot be read as the format it is said to have."""


class WeightsError(InputError):
    """An encoder's weights cannot be had."""


class FormatError(RaycapError):
    """A file written by raycap is damaged, or newer than this raycap."""


class ConflictError(RaycapError):
    """The output already holds something else, or another run is writing it."""


class StaleError(ConflictError):
    """The output was made with other options, or from other inputs.

    Attributes:
        what: the message, without what to do.
    """

    def __init__(self, what: str, way_out: str = "") -> None:
        super().__init__(f"{what}; {way_out}" if way_out else what)
        self.what = what


class EncoderMismatchError(RaycapError):
    """A model meets features, or an encoder, other than those it was trained on."""


class TooManyFailuresError(RaycapError):
    """More photos failed than the run allows."""

    @classmethod
    def of_all(cls, number: int, more: str = "") -> "TooManyFailuresError":
        """Return the error of a run of which every photo failed."""
        return cls(f"{f'all {number:,} photos' if number != 1 else 'the only photo'} failed{more}")


class WorkerDiedError(RaycapError):
    """A process dies while it loads a model, whenever it is started."""


class MeteorError(RaycapError):
    """METEOR cannot be computed; evaluate names the gap and goes on."""


class ImageShapeError(RaycapError):
    """An array does not have the shape that an encoder takes."""


class ImageError(RaycapError):
    """One photo cannot be used."""


class ImageMissingError(ImageError):
    """There is nothing at the photo's URI, or it may not be read."""


class ImageEmptyError(ImageError):
    """The photo's file has no bytes."""


class ImageDecodeError(ImageError):
    """The bytes are not an image, or a damaged one."""


class ImageTooLargeError(ImageError):
    """The photo has more pixels, or its file more bytes, than allowed."""


class ImageTimeoutError(ImageError):
    """The photo was not read, or not decoded, in time."""


class ImageFeatureError(ImageError):
    """The encoder's feature of the photo holds what is no number, or is too large for its type."""
