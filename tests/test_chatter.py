"""What native code writes to standard error while it starts."""

import os

import pytest

from raycap.chatter import without_chatter


def native(text: str) -> None:
    """Write as native code does, past Python's own standard error."""
    os.write(2, text.encode())


def test_chatter_is_kept_to_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with without_chatter():
        native("I0000 oneDNN is on\n")
    native("after\n")
    assert capfd.readouterr().err == "after\n"


def test_what_goes_before_an_error_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with without_chatter():
            native("the GCS is gone\n")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert capfd.readouterr().err == "the GCS is gone\n"


def test_verbose_shows_all(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYCAP_VERBOSE", "1")
    with without_chatter():
        native("I0000 oneDNN is on\n")
    assert capfd.readouterr().err == "I0000 oneDNN is on\n"
