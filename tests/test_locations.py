import os
from dataclasses import dataclass

import pytest

from raycap import locations, storage


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("photos", "{here}/photos"),
        ("a/../b", "{here}/b"),
        (".", "{here}"),
        ("folder/", "{here}/folder"),
        ("/data/x", "/data/x"),
        ("~/x", "{home}/x"),
        ("s3://bucket/a/", "s3://bucket/a"),
        ("file:///data/x", "file:///data/x"),
        ("gs://bucket", "gs://bucket"),
        ("s3://b/my photo.jpg", "s3://b/my%20photo.jpg"),
        ("s3://b/my%20photo.jpg", "s3://b/my%20photo.jpg"),
        ("s3://b/é/50%off/*.[jp]*", "s3://b/%C3%A9/50%25off/*.[jp]*"),
    ],
)
def test_absolute(location, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert locations.absolute(location) == expected.format(here=os.getcwd(), home="/home/someone")


@pytest.mark.parametrize(
    ("location", "names", "expected"),
    [
        ("/data", ("a",), "/data/a"),
        ("/data/", ("a", "b.parquet"), "/data/a/b.parquet"),
        ("s3://bucket", ("a", "b"), "s3://bucket/a/b"),
        ("s3://bucket/a", (), "s3://bucket/a"),
    ],
)
def test_join(location, names, expected):
    assert locations.join(location, *names) == expected


def test_with_absolute_changes_the_named_fields_only(tmp_path, monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        a: str = "a"
        b: str = "b"
        c: str | None = None

    monkeypatch.chdir(tmp_path)
    assert locations.with_absolute(Config(), "a", "c") == Config(a=os.path.abspath("a"), b="b", c=None)


def test_join_keeps_a_uris_query_at_its_end() -> None:
    location = "s3://bucket/out?region=us-east-1&endpoint_override=127.0.0.1:9000"
    expected = "s3://bucket/out/a%20b.parquet?region=us-east-1&endpoint_override=127.0.0.1:9000"
    assert locations.join(location, "a b.parquet") == expected
    assert storage.resolve(expected)[1] == "bucket/out/a b.parquet"


@pytest.mark.parametrize(
    ("location", "parent", "without_suffix"),
    [
        ("/data/a.b/c.jpg", "/data/a.b", "/data/a.b/c"),
        ("/data/a?b.jpg", "/data", "/data/a?b"),
        ("/data/a.b/c", "/data/a.b", "/data/a.b/c"),
        ("/data/.c", "/data", "/data/.c"),
        ("s3://bucket/a/c.tar.gz", "s3://bucket/a", "s3://bucket/a/c.tar"),
        ("file:///data/a%3Fb.jpg", "file:///data", "file:///data/a%3Fb"),
        ("s3://bucket/a.jpg?e=1.2:9", "s3://bucket?e=1.2:9", "s3://bucket/a"),
    ],
)
def test_parent_and_without_suffix(location, parent, without_suffix):
    assert locations.parent(location) == parent
    assert locations.without_suffix(location) == without_suffix


@pytest.mark.parametrize(
    ("name", "text", "shown"),
    [("/data/a b%#?.jpg",) * 3, ("/é狗",) * 3, ("/x y/\udcff%.jpg", "file:///x%20y/%FF%25.jpg", "/x y/\\xff%.jpg")],
)
def test_names_that_are_not_utf8_are_given_in_utf8(name, text, shown):
    assert locations.as_text(name) == text
    assert locations.as_utf8(name) == shown
    assert storage.resolve(text)[1] == name
    assert locations.as_text(text) == text


@pytest.mark.parametrize("half", ["\ud800.jpg", "\udc00"])
def test_half_a_character_that_json_can_hold_is_escaped(half):
    for function in (locations.as_text, locations.as_utf8):
        assert function(half).encode()
