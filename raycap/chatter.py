"""What native code says on standard error while it starts, kept from people unless it matters. Knows no library."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_chatter() -> Iterator[None]:
    """Keep what is written to standard error, by whomever, to itself, unless the block ends with an error.

    Ray announces its log level, and TensorFlow that it uses oneDNN, as pieces of information, whatever level they are
    told to log at. With RAYCAP_VERBOSE set, all is shown.
    """
    if os.environ.get("RAYCAP_VERBOSE"):
        yield
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        was = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(was, said.read())
            raise
        finally:
            os.dup2(was, 2)
            os.close(was)
