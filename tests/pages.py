"""What the documentation shows: its pages, and their blocks of commands, code in the text, links and headings.

A block that cannot run on the tests' machine is preceded by a comment that says why: `<!-- needs: cluster -->`, one of
NEEDS. `<!-- exit code: 3 -->` says how a block's last command ends, where that is not 0. A page that says that it is
"run by `tests/test_NAME.py`" is left to that test.
"""

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
NEEDS = {
    "cluster": "a cluster that runs",
    "aws": "an account at AWS",
    "kubernetes": "a Kubernetes with KubeRay",
    "machines": "several machines",
    "storage": "an object store",
    "network": "a package index, or ImageNet weights",
    "gpu": "a GPU",
    "java": "a Java runtime",
    "flickr8k": "the dataset",
    "terminal": "a terminal of its own, as it runs until it is stopped",
    "minutes": "more time than a test should take",
}
_FENCE = re.compile(
    r"^(?P<markers>(?: *<!-- [^\n]* -->\n)*)(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
_OPERATORS = frozenset("();<>|&")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        where: page and line.
        language: `sh`, `python`, or what else stands behind the fence.
        needs: what it cannot do without, of NEEDS; empty if it runs here.
        exit_code: of its last command.
    """

    where: str
    language: str
    text: str
    needs: tuple[str, ...]
    exit_code: int

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, joined where they go on, without comments."""
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """Return the fenced blocks of a page."""
    text = read(page)
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.end("markers")) + 1
        needs = re.findall(r"needs: ([\w, ]+?) -->", match["markers"])
        code = re.search(r"exit code: (\d+)", match["markers"])
        body = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
        words = tuple(word for each in needs for word in each.split(", "))
        found.append(Block(f"{page}:{line}", match["language"], body, words, int(code[1]) if code else 0))
    return tuple(found)


def own_test(page: str) -> str | None:
    """Return the test that a page says it is run by, where that is not test_docs.py."""
    found = re.search(r"run\s+by\s+`(tests/test_\w+\.py)`", prose(page))
    return found[1] if found and found[1] != "tests/test_docs.py" else None


def prose(page: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.M | re.S)


def code_in_text(page: str) -> list[str]:
    """Return what stands between back-ticks outside blocks, on one line each."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def headings(page: str) -> set[str]:
    """Return the anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: str) -> list[str]:
    """Return the targets of a page's links and pictures that are no addresses."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)", text, re.M)
    found += re.findall(r"""(?:src|srcset|href)=["']([^"']+)["']""", text)
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def words_of(line: str) -> list[str]:
    """Return a shell command's words; operators such as | are words of their own."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def calls_of_raycap(line: str) -> list[list[str]]:
    """Return the words behind each `raycap` that a shell line runs."""
    calls: list[list[str]] = []
    if not re.search(r"(^|[|&;(=\w]\s*)raycap(\s|$)", line):
        return calls
    start, current = True, None
    for word in words_of(line):
        if set(word) <= _OPERATORS:
            start, current = True, None
        elif start and word == "raycap":
            current = []
            calls.append(current)
            start = False
        elif current is not None:
            current.append(word)
        else:
            start = start and "=" in word  # NAME=value before the command
    return calls
