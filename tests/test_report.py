"""The report: what it reads, what it shows, and that a real browser shows it, whatever captions say."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raycap import parquet, storage
from raycap.cli import main
from raycap.errors import FormatError, InputError
from raycap.images import decode_thumbnail
from raycap.reporting.gallery import pick
from raycap.reporting.markup import Markup, element
from raycap.reporting.page import as_script_data
from raycap.reporting.plots import Series, line_plot
from raycap.reporting.report import ReportResult, report
from raycap.reporting.sources import open_source
from raycap.reporting.thumbnails import make_thumbnails
from raycap.tool_config import ReportConfig

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"><!-- \u2028 & 'quoted'"
VERSIONS = {"raycap": "0.1.0", "keras": "3.15.1"}


def record(stage: str, config: dict[str, Any]) -> dict[str, Any]:
    times = {"started_at": "2026-01-02T03:04:05+00:00", "finished_at": "2026-01-02T03:05:35+00:00"}
    common = {"format_version": 1, "identity": {}, "versions": VERSIONS, "git_commit": None, "result": {}}
    return common | times | {"stage": stage, "config": config}


def draw(path: Path, seed: int, size: tuple[int, int] = (320, 240)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def make_run(folder: Path, rows: list[dict[str, Any]], *, bleu_4: float = 0.3, beam_width: int = 3) -> Path:
    """Write what prepare, extract, train and evaluate leave, as far as reports read it."""
    places = {name: str(folder / name) for name in ("prepared", "features", "model")}
    scores = {"bleu_1": 0.6, "bleu_2": 0.4, "bleu_3": 0.35, "bleu_4": bleu_4, "meteor": 0.2}
    others = {name: value / 2 for name, value in scores.items()}
    storage.write_json(f"{folder}/prepared/run.json", record("prepare", {"captions": ["c.csv"], "out": "p"}))
    photos = {name: [row[name] for row in rows] for name in ("image_id", "uri")}
    parquet.write_table(f"{folder}/prepared/photos.parquet", pa.table({**photos, "split": ["test"] * len(rows)}))
    storage.write_json(f"{folder}/features/run.json", record("extract", {"encoder": "vgg16", "out": "f"}))
    failed = {"image_id": "bad.jpg", "uri": "/bad.jpg", "stage": "extract", "error_type": "ImageEmptyError"}
    failures = pa.Table.from_pylist([failed | {"error_message": HOSTILE}])
    parquet.write_table(f"{folder}/features/failures/part-0.parquet", failures)
    storage.write_json(f"{folder}/model/run.json", record("train", {"epochs": 2, "model": {"units": 8}, "out": "m"}))
    epochs = [{"epoch": n, "train_loss": 3 / n, "dev_loss": 4 / n, "wall_s": 1.5, "captions_per_s": 9} for n in (1, 2)]
    storage.write_json(f"{folder}/model/history.json", {"best_epoch": 2, "best_dev_loss": 2.0, "history": epochs})
    storage.write_json(f"{folder}/model/bundle/card.json", {"encoder": {"name": "vgg16", "weights": "imagenet"}})
    config = {**places, "out": f"{folder}/scores", "decoding": {"beam_width": beam_width}}
    storage.write_json(f"{folder}/scores/run.json", record("evaluate", config))
    result = {
        "split": "test",
        "num_photos": len(rows),
        "num_references": 2 * len(rows),
        "scores": {"model": {"standard": scores, "tutorial": scores}, "shuffled photos": {"standard": others}},
        "intervals": {"standard": {"bleu_4": [bleu_4 - 0.05, bleu_4 + 0.05]}},
        "signatures": {"standard": "protocol:standard|x"},
        "gaps": {"cider_d": "there is one photo only"},
        "constant_caption": HOSTILE,
        "decode_s": 12.0,
    }
    storage.write_json(f"{folder}/scores/scores.json", result)
    names = ("image_id", "hypothesis", "log_prob", "references", "bleu_4")
    table = pa.Table.from_pylist([{name: row[name] for name in names if name in row} for row in rows])
    parquet.write_table(f"{folder}/scores/hypotheses.parquet", table)
    return folder


def make_rows(photos: Path, count: int, *, drawn: bool = True, draw_photo: Any = draw) -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        path = photos / f"photo {number:05d}.jpg"
        if drawn:
            draw_photo(path, number)
        rows.append(
            {
                "image_id": path.name,
                "uri": str(path),
                "hypothesis": f"a dog number {number} on grass" if number % 10 else "a cat in a tree",
                "log_prob": -number / 8 - 1,
                "references": [f"A person said {number} .", "A second caption ."],
                "bleu_4": number / count,
            }
        )
    return rows


def make_captions(folder: Path, count: int, *, a_shard: int = 5000) -> Path:
    """Write what caption leaves, with no photos behind it."""
    for first in range(0, count, a_shard):
        numbers = range(first, min(count, first + a_shard))
        ids = [f"folder {n // 500}/{n:06d}.jpg" for n in numbers]
        captions = [f"a dog runs over {'green grass' if n % 7 else 'deep snow'} with ball {n}" for n in numbers]
        columns = {"image_id": ids, "uri": [f"/gone/{each}" for each in ids], "caption": captions}
        log_prob = pa.array([-1 - (n * 7919 % count) / count for n in numbers], pa.float32())
        parquet.write_table(f"{folder}/captions/part-{first:08d}.parquet", pa.table({**columns, "log_prob": log_prob}))
    return folder


def read(result: ReportResult) -> str:
    return Path(result.location).read_text(encoding="utf-8")


class Tag(NamedTuple):
    name: str
    attributes: dict[str, str | None]


def tags(page: str) -> list[Tag]:
    found: list[Tag] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda name, attributes: found.append(Tag(name, dict(attributes)))  # type: ignore
    parser.feed(page)
    return found


def data_of(result: ReportResult) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', read(result), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "work"
    rows = make_rows(folder / "photos", 60)
    rows[3] |= {"image_id": HOSTILE, "hypothesis": HOSTILE, "references": [HOSTILE]}
    Path(rows[5]["uri"]).write_bytes(b"no photo")
    Path(rows[6]["uri"]).unlink()
    return make_run(folder, rows)


@pytest.fixture(scope="module")
def one(run_folder: Path) -> ReportResult:
    return report(ReportConfig(runs=(str(run_folder),)))


def test_it_is_written_inside_the_run_and_says_what_came_of_it(run_folder: Path, one: ReportResult) -> None:
    assert one.location == str(run_folder / "report.html")
    assert one.num_bytes == os.path.getsize(one.location)
    assert (one.num_photos, one.num_thumbnails, one.num_unreadable) == (60, 58, 2)
    assert one.left_out == []


def test_it_shows_scores_beside_baselines_intervals_and_what_was_published(one: ReportResult) -> None:
    page = read(one)
    assert "0.250 to 0.350" in page
    assert "shuffled photos" in page
    assert "protocol:standard|x" in page
    assert "published, Flickr8k test" in page
    assert "CIDEr-D is missing: there is one photo only" in page


def test_it_shows_training_options_versions_times_and_failures(one: ReportResult) -> None:
    page = read(one)
    for said in ("dev loss there", "model.units", "decoding.beam_width", "3.15.1", "0:01:30", "captioning 12.0 s"):
        assert said in page
    assert data_of(one)["failures"]["error_type"] == ["ImageEmptyError"]
    assert "2 photos could not be read for their picture" in page


def test_it_holds_a_row_a_photo_with_scores_and_a_picture(one: ReportResult) -> None:
    data = data_of(one)
    gallery = data["gallery"]
    assert gallery["captions"][0][1] == "a dog number 1 on grass"
    assert gallery["references"][1] == ["A person said 1 .", "A second caption ."]
    assert [each["label"] for each in gallery["scores"]] == ["BLEU-4", "Log-prob"]
    assert gallery["scores"][0]["values"][0][30] == 0.5
    assert set(range(60)) - {int(row) for row in data["thumbnails"]} == {5, 6}


def test_nothing_in_the_data_breaks_out_of_the_page(one: ReportResult) -> None:
    page = read(one)
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img src=x" not in page
    assert data_of(one)["gallery"]["captions"][0][3] == HOSTILE
    assert as_script_data(["</script><!--\u2029"]) == '["\\u003c/script\\u003e\\u003c!--\\u2029"]'
    assert element("p", "<b>", Markup("<i>"), title='"') == '<p title="&quot;">&lt;b&gt;<i></p>'
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert policy[1].startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy[1]
    names = {name for tag in tags(page) for name in tag.attributes}
    assert "class" in names
    assert not {name for name in names if name.startswith("on") or name in {"style", "src"}}
    assert "img" not in {tag.name for tag in tags(page)}


def test_what_is_gone_is_left_out_and_said(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder / "scores", tmp_path / "alone")
    moved = json.loads((tmp_path / "alone" / "run.json").read_text().replace(str(run_folder), "/nowhere"))
    (tmp_path / "alone" / "run.json").write_text(json.dumps(moved))
    (tmp_path / "alone" / "scores.json").write_text("{")
    result = report(ReportConfig(runs=(str(tmp_path / "alone"),)))
    said = "\n".join(result.left_out)
    for what in ("scores", "the photos", "loss curves", "the model's card", "failures", "options and times of prepare"):
        assert f"{what}: " in said
    assert "Not in this report" in read(result)
    assert data_of(result)["gallery"]["captions"][0][1] == "a dog number 1 on grass"


def test_a_run_that_was_moved_finds_what_moved_with_it(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "moved")
    shutil.move(run_folder, tmp_path / "away")
    try:
        result = report(ReportConfig(runs=(str(tmp_path / "moved" / "scores"),)))
    finally:
        shutil.move(tmp_path / "away", run_folder)
    assert result.left_out == []
    assert result.num_thumbnails == 58


@pytest.mark.parametrize("damage", ['{"history": 3}', '{"history": [1]}', "[]", '{"history": [{"dev_loss": "x"}]}'])
def test_a_damaged_history_costs_the_curves_alone(run_folder: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "model" / "history.json").write_text(damage)
    result = report(ReportConfig(runs=(str(tmp_path / "run"),)))
    assert result.num_photos == 60
    assert "plot-loss" not in read(result).split("<script")[0].split("</style>")[1]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_it_says_which_split_was_scored(run_folder: Path, tmp_path: Path, split: str) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    scores = tmp_path / "run/scores/scores.json"
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"split": split}))
    page = read(report(ReportConfig(runs=(str(tmp_path / "run"),))))
    assert f"<b>60</b> {split} photos" in page
    assert f"this run scored its {split} split" in page


def test_two_runs_side_by_side(run_folder: Path, tmp_path: Path) -> None:
    rows = make_rows(run_folder / "photos", 61, drawn=False)[1:]
    for row in rows:
        row |= {"hypothesis": "another caption", "bleu_4": 0.25}
    other = make_run(tmp_path / "other", rows, bleu_4=0.2, beam_width=5)
    result = report(ReportConfig(runs=(str(run_folder), str(other)), out=str(tmp_path / "pair.html")))
    page, gallery = read(result), data_of(result)["gallery"]
    assert "\N{MINUS SIGN}0.100" in page
    assert re.search(r"evaluate: decoding.beam_width.*?3.*?5", page)
    row = {image_id: number for number, image_id in enumerate(gallery["ids"])}
    assert len(row) == 62  # the first run has 00000 and the hostile name alone, the second 00003 and 00060
    here, there = row["photo 00000.jpg"], row["photo 00060.jpg"]
    assert [each[here] for each in gallery["captions"]] == ["a cat in a tree", None]
    assert [each[there] for each in gallery["captions"]] == [None, "another caption"]
    assert [each[there] for each in gallery["scores"][0]["values"]] == [None, 0.25]
    assert page.count("B dev") >= 1


def test_captions_without_scores(tmp_path: Path) -> None:
    folder = make_captions(tmp_path / "captions", 300)
    result = report(ReportConfig(runs=(str(folder),), max_photos=90, max_thumbnails=60))
    assert (result.num_photos, result.num_thumbnails, result.num_unreadable) == (300, 0, 60)
    page = read(result)
    assert "90 of 300 photos" in page
    assert "12 more were not tried, as none could be read" in page
    assert len(data_of(result)["gallery"]["ids"]) == 90
    assert data_of(result)["gallery"]["references"] is None


@pytest.mark.parametrize("out", ["gone", "empty"])
def test_what_is_no_run_is_an_error(tmp_path: Path, out: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="raycap evaluate"):
        open_source(str(tmp_path / out))
    assert main(["report", str(tmp_path / out)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_damaged_table_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder / "scores", tmp_path / "scores")
    (tmp_path / "scores" / "hypotheses.parquet").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="not a whole Parquet file"):
        report(ReportConfig(runs=(str(tmp_path / "scores"),)))


def test_an_empty_evaluation_is_a_report_too(tmp_path: Path) -> None:
    [row] = make_rows(tmp_path / "photos", 1)
    run = make_run(tmp_path / "run", [row])
    table = parquet.read_table(f"{run}/scores/hypotheses.parquet")
    parquet.write_table(f"{run}/scores/hypotheses.parquet", table.slice(0, 0))
    assert report(ReportConfig(runs=(str(run),))).num_photos == 0


def test_columns_of_another_kind_are_text_or_an_error(tmp_path: Path) -> None:
    columns = {"image_id": [7, None], "uri": ["/a", None], "caption": ["a", None], "log_prob": ["x", "y"]}
    parquet.write_table(f"{tmp_path}/captions/part-0.parquet", pa.table(columns))
    gallery = data_of(report(ReportConfig(runs=(str(tmp_path),))))["gallery"]
    assert (gallery["ids"], gallery["captions"], gallery["scores"]) == (["7", ""], [["a", None]], [])
    parquet.write_table(f"{tmp_path}/captions/part-0.parquet", pa.table(columns | {"caption": [["a"], ["b"]]}))
    with pytest.raises(FormatError, match="column caption is list"):
        report(ReportConfig(runs=(str(tmp_path),)))


def test_options_are_checked() -> None:
    for wrong in ({"runs": ()}, {"runs": ("a", "b", "c")}, {"runs": ("a",), "thumbnail_px": 3}):
        with pytest.raises(InputError, match="give"):
            ReportConfig(**wrong)  # type: ignore[arg-type]


def test_the_command_line_says_where_it_is(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r.html"
    assert main(["report", str(run_folder), "--out", str(out), "--max-thumbnails", "5"]) == 0
    assert f"{out}: 60 photos, 5 of them shown" in capsys.readouterr().out


def test_it_loads_neither_ray_nor_tensorflow() -> None:
    code = "import raycap.reporting.report, sys; print([n for n in ('ray', 'tensorflow', 'keras') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("values", "count", "expected"),
    [
        ([3, 1, 2], 5, [0, 1, 2]),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 3, [0, 4, 8]),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], 6, [0, 1, 3, 5, 7, 8]),
        ([np.nan] * 9, 3, [0, 4, 8]),
        ([np.nan, 5, 1, np.nan, 9], 3, [1, 2, 4]),
        ([], 3, []),
    ],
)
def test_pick_takes_the_lowest_the_highest_and_a_spread(values: list[float], count: int, expected: list[int]) -> None:
    assert pick(np.array(values, float), count).tolist() == expected


def test_thumbnails_are_upright_small_and_in_proportion(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (800, 400), "red").save(tmp_path / "a.jpg", exif=exif)
    assert decode_thumbnail((tmp_path / "a.jpg").read_bytes(), longest_px=100).shape == (100, 50, 3)
    Image.new("L", (30, 20)).save(tmp_path / "b.png")
    assert decode_thumbnail((tmp_path / "b.png").read_bytes(), longest_px=100).shape == (20, 30, 3)


def test_thumbnails_of_photos_in_tar_and_parquet_files(tmp_path: Path) -> None:
    import tarfile

    from raycap.photo_sources import find_photos

    for number in range(4):
        draw(tmp_path / f"{number}.jpg", number)
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number in (2, 0, 1):
            archive.add(tmp_path / f"{number}.jpg", f"{number}.jpg")
    parquet.write_table(f"{tmp_path}/t.parquet", pa.table({"picture": [(tmp_path / "3.jpg").read_bytes(), b"x"]}))
    uris = find_photos([f"{tmp_path}/shard.tar"])["uri"].to_pylist() + [f"{tmp_path}/t.parquet#{n}" for n in (1, 0)]
    made = make_thumbnails(dict(enumerate(uris)), longest_px=64, image_column="picture")
    assert set(made.pictures) == {0, 1, 2, 4}
    assert made.failed == {"ImageDecodeError": 1}
    alone = make_thumbnails({7: str(tmp_path / "0.jpg")}, longest_px=64)
    assert alone.pictures[7] == made.pictures[uris.index(f"{tmp_path}/shard.tar#0.jpg")]


def test_plots_say_in_words_what_they_show() -> None:
    plot = line_plot(
        "Loss & more", "falls", [Series(name="dev", style="accent", values=[2.0, None, 1.0])], x_label="e", y_label="n"
    )
    assert '<title id="plot-loss---more-title">Loss &amp; more</title>' in plot
    assert '<desc id="plot-loss---more-desc">falls</desc>' in plot
    assert line_plot("x", "y", [Series(name="n", style="accent", values=[5.0])], x_label="e", y_label="n")  # one epoch


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_contrast_is_aa(one: ReportResult, mode: int) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", re.findall(r":root \{(.*?)\}", read(one), re.DOTALL)[mode]))
    pairs = [(ink, paper, 4.5) for ink in ("ink", "muted", "accent", "worse") for paper in ("page", "surface")]
    pairs += [("on-accent", "accent", 4.5), ("ink", "tint", 4.5), ("ink", "mark", 4.5), ("ink", "line", 4.5)]
    pairs += [(each, "surface", 3) for each in ("control", "quiet", "second")] + [("muted", "line", 4.5)]
    for ink, paper, least in pairs:
        high, low = sorted((luminance(colours[ink]), luminance(colours[paper])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= least, (ink, paper)


@pytest.mark.slow
def test_a_thousand_photos_stay_under_20_mb(tmp_path: Path) -> None:
    def noise(path: Path, seed: int) -> None:  # nothing is larger when it is compressed
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (240, 320, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=80)

    run = make_run(tmp_path / "run", make_rows(tmp_path / "photos", 1000, draw_photo=noise))
    result = report(ReportConfig(runs=(str(run),)))
    assert result.num_thumbnails == 1000
    assert result.num_bytes < 20e6


# In a real browser -------------------------------------------------------------------------------------------------

Open = Callable[..., Any]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Open]:
    """Open a page in Chromium, without a network, at some width, light or dark."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("there is no chromium and chromedriver")
    opened = []

    def open_page(result: ReportResult, *, width: int = 1280, dark: bool = False) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        flags = "headless=new no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
        for flag in f"{flags} disable-component-update disable-sync user-data-dir={tmp_path}/p{len(opened)}".split():
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        page = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        opened.append(page)
        page.set_script_timeout(120)
        page.set_network_conditions(offline=True, latency=0, throughput=0)
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        page.get(f"file://{result.location}")
        return page

    yield open_page
    for page in opened:
        page.quit()


def captions(page: Any) -> list[str]:
    found: list[str] = page.execute_script(
        "return [...document.querySelectorAll('.photo .said')].map(e => e.innerText)"
    )
    return found


def wait_until(page: Any, condition: Callable[[], bool]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(page, 60).until(lambda _: condition())


def search(page: Any, words: str) -> None:
    page.find_element("css selector", "#photos-here input[type=search]").send_keys(words)


def status(page: Any) -> str:
    return str(page.execute_script("return document.querySelector('#photos-here .status').textContent"))


def choose(page: Any, label: str, option: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("xpath", f"//label[starts-with(., '{label}')]/select")).select_by_visible_text(option)


def test_the_page_in_a_browser(one: ReportResult, browser: Open) -> None:
    page = browser(one)
    assert captions(page)[0] == "a cat in a tree"  # the worst first
    choose(page, "Order", "highest first")
    assert captions(page)[0] == "a dog number 59 on grass"
    choose(page, "Sort by", "Log-prob")
    choose(page, "Order", "lowest first")
    assert captions(page)[0] == "a dog number 59 on grass"
    search(page, "CAT person")
    wait_until(page, lambda: status(page).startswith("6 photos"))
    assert {each.lower() for each in captions(page)} == {"a cat in a tree"}
    page.find_element("css selector", "#photos-here input[type=search]").clear()
    search(page, "onerror")
    wait_until(page, lambda: status(page).startswith("1 photos"))
    assert "<img src=x onerror" in captions(page)[0]
    assert page.title == "work/scores"
    pictures = "return [...document.querySelectorAll('.photo img')].map(e => [e.alt, e.naturalWidth])"
    assert all(alt and width > 0 for alt, width in page.execute_script(pictures))
    assert page.execute_script("return document.querySelectorAll('#failures-here .failed li').length") == 1
    assert page.get_log("browser") == []


def test_a_phone_in_the_dark_with_keys_alone(one: ReportResult, browser: Open) -> None:
    from selenium.webdriver.common.keys import Keys

    page = browser(one, width=390, dark=True)
    assert page.execute_script("return document.documentElement.scrollWidth") == 390
    assert page.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 22)"
    body = page.find_element("css selector", "body")
    body.send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the report"
    for _ in range(60):
        page.switch_to.active_element.send_keys(Keys.TAB)
        if page.switch_to.active_element.get_attribute("aria-label") == "photos: next page":
            break
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert page.execute_script(outline) == "solid"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert status(page) == "60 photos, 25 to 48 shown"
    page.switch_to.active_element.send_keys(Keys.SPACE)
    assert status(page) == "60 photos, 49 to 60 shown"
    assert page.switch_to.active_element.get_attribute("aria-disabled") == "true"
    assert page.get_log("browser") == []


@pytest.mark.slow
def test_two_runs_in_a_browser(run_folder: Path, tmp_path: Path, browser: Open) -> None:
    rows = make_rows(run_folder / "photos", 60, drawn=False)
    for row in rows:
        row |= {"hypothesis": "another caption", "bleu_4": 1 - row["bleu_4"]}
    other = make_run(tmp_path / "other", rows)
    page = browser(report(ReportConfig(runs=(str(run_folder), str(other)), out=str(tmp_path / "pair.html"))))
    assert "a dog number 59 on grass" in captions(page)[0]  # B is worst beside A
    assert "another caption" in captions(page)[1]
    choose(page, "Order", "highest first")
    assert "a cat in a tree" in captions(page)[0]
    for width in (390, 1280):
        assert page.execute_script("return document.documentElement.scrollWidth") <= max(width, 1280)
    assert page.get_log("browser") == []


@pytest.mark.slow
def test_100_000_captions_in_a_browser(tmp_path: Path, browser: Open) -> None:
    result = report(ReportConfig(runs=(str(make_captions(tmp_path / "captions", 100_000)),)))
    page = browser(result)
    count = "return document.querySelectorAll('*').length"
    assert status(page) == "100,000 photos, 1 to 24 shown"
    at_first = page.execute_script(count)
    first = captions(page)
    page.find_element("css selector", "#photos-here [aria-label='photos: next page']").click()
    assert status(page) == "100,000 photos, 25 to 48 shown"
    assert not set(captions(page)) & set(first)
    page.find_element("css selector", "#photos-here [aria-label='photos: last page']").click()
    assert status(page) == "100,000 photos, 99,985 to 100,000 shown"
    search(page, "snow 000770")
    wait_until(page, lambda: status(page).startswith("1 photos"))
    assert captions(page) == ["a dog runs over deep snow with ball 770"]
    page.find_element("css selector", "#photos-here input[type=search]").clear()
    search(page, "snow")
    wait_until(page, lambda: status(page).startswith("14,286 photos"))
    choose(page, "Sort by", "name")
    assert captions(page)[0] == "a dog runs over deep snow with ball 0"
    assert page.execute_script(count) <= at_first + 200
    assert at_first < 1500
    assert page.get_log("browser") == []
