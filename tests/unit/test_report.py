"""report.html: safe whatever names say, whole in one file, and no sentence that the figures do not allow."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from jinja2 import UndefinedError
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from stepwise.data.image_sets import AUGMENTED, COPIES, DECODED, HELD_OUT, ImageSet
from stepwise.evaluation import figures, report
from stepwise.evaluation.intervals import Measured
from stepwise.evaluation.measures import IN_TABLE, MEASURES, MEMORIZATION
from stepwise.evaluation.memorization import Neighbours
from stepwise.training.candidates import Candidate
from stepwise.training.conclusion import Findings, _copied, conclude
from stepwise.training.provenance import ModelFile
from stepwise.training.quality import Result
from stepwise.training.quality_report import write_all

NONE = "\u2013"  # what a table shows where there is no figure
EVIL = """<script>alert("1")</script> & 'x' "onload="y {{ title }} </style>"""


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def measured(value, half=0.05):
    return Measured(value, value - half, value + half)


def content(picture):
    Image.new("RGB", (4, 4), "teal").save(picture)
    values = {key: measured(0.5) for key in (*IN_TABLE, *MEMORIZATION)}
    shown = [report.figure(picture, EVIL)]
    return {
        "title": EVIL,
        "made": EVIL,
        "conclusion": EVIL,
        "tables": [IN_TABLE, MEMORIZATION],
        "columns": [
            report.column(EVIL, EVIL, values, MEASURES),
            report.column("real", "", {"cas": measured(0.9)}, MEASURES, floor=True),
        ],
        "defined": [*values, "psnr"],
        "fid_warning": EVIL,
        "figures": {"overview": shown, "samples": shown, "memorization": shown, "reconstruction": shown},
        "controls": {"titles": [EVIL], "rows": [(EVIL, [EVIL], EVIL)]},
        "reconstruction": EVIL,
        "notes": [EVIL, "second"],
        "settings": [(EVIL, EVIL)],
        "measures": MEASURES,
    }


@pytest.fixture
def html(tmp_path):
    report.write(tmp_path / "report.html", content(tmp_path / "a.png"))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_names_and_notes_are_text_and_never_code(html):
    page = Page(html)
    assert not page.all("script") and "<script" not in html
    assert page.text.count(EVIL) == 21, "each of them is shown as it is"
    assert [image["alt"] for image in page.all("img")] == [EVIL] * 4
    assert all(set(image) == {"src", "alt"} for image in page.all("img"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_nothing_is_fetched_from_outside(html):
    page = Page(html)
    links = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert len(links) == 5 and all(link.startswith("data:") for link in links)
    assert not re.search(r"https?://", html)
    assert not re.search(r"url\(|@import", html)
    assert {"iframe", "object", "embed"}.isdisjoint(name for name, _ in page.tags)


@pytest.mark.parametrize(
    "missing",
    [
        *("title", "made", "conclusion", "tables", "columns", "defined", "fid_warning"),
        *("figures", "controls", "measures", "reconstruction", "notes", "settings"),
    ],
)
def test_a_missing_piece_is_an_error_and_not_a_gap(tmp_path, missing):
    pieces = content(tmp_path / "a.png")
    del pieces[missing]
    with pytest.raises(UndefinedError, match=missing):
        report.write(tmp_path / "report.html", pieces)
    assert not (tmp_path / "report.html").exists()


def test_tables_show_value_interval_and_what_is_missing(html):
    tables = re.findall(r"<table>\n<thead>.*?</table>", html, flags=re.DOTALL)[:2]  # then the controls
    rows = [row.split("<td")[1:] for table in tables for row in table.split("</tr>")[1:-1]]
    assert len(tables) == 2 and len(rows) == len(IN_TABLE) + len(MEMORIZATION)
    for key, (title, first, floor) in zip((*IN_TABLE, *MEMORIZATION), rows, strict=True):
        measure = MEASURES[key]
        assert f">{measure.title}&nbsp;{measure.arrow}<" in title and f"<dt>{measure.title}</dt>" in html
        assert measure.text(measured(0.5)) in first and measure.interval(measured(0.5)) in first
        assert 'class="floor"' in floor and ("90.0%" if key == "cas" else NONE) in floor


def test_measures_without_interval_say_none():
    measure = MEASURES["ct_pixel"]
    assert (measure.text(Measured(-4.2, -4.2, -4.2)), measure.interval(Measured(-4.2, -4.2, -4.2))) == ("-4.2", "")
    assert MEASURES["kid"].interval(Measured(0.01, -0.001, 0.02)) == "-0.0010 to 0.0200"
    assert (MEASURES["cas"].arrow, MEASURES["kid"].arrow, MEASURES["ct_pixel"].arrow) == ("↑", "↓", "")


@pytest.mark.parametrize("name", ["plain", "_mine", "$x^{", "a_b$", "<b>", "\\frac", "日本"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_figures_take_any_name(tmp_path, name):
    rows = {name: {"cas": measured(0.5)}, "other": {"cas": measured(0.2), "kid": measured(0.1)}}
    panels = {key: MEASURES[key] for key in ("cas", "kid", "swd")}
    figures.bars(tmp_path / "bars.png", panels, rows, {"cas": measured(0.9)})
    found = Neighbours(np.zeros(3, int), np.array([0.1, 0.5, 0.9]), np.ones(3))
    figures.ratios(tmp_path / "ratios.png", {name: found}, {name + " copies": found}, "at 32 px")
    for path in ("bars.png", "ratios.png"):
        assert Image.open(tmp_path / path).width == figures.DPI * figures.WIDTH


def image_set(name, count, label=None):
    images = np.random.default_rng(len(name)).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    label = np.arange(count) % 2 if label is None else label
    return ImageSet(name, [Path(f"{i}.png") for i in range(count)], images, label, {16})


def result(right, copied=0.0):
    """What a set has whose network names `right` of the held-out images right."""
    right = np.array(right, dtype=float)
    near = Neighbours(np.zeros(6, int), np.full(6, 0.5), np.ones(6))
    values = {"cas": measured(right.mean()), "cas_gain": measured(0.0), "memorized_pixel": measured(copied)}
    return Result(values, [], right, {"pixel": near})


def findings(**rights):
    sets = {name: result(right) for name, right in rights.items()}
    models = [ModelFile(Path("best_model.pt"), None)]
    return Findings(
        candidates=[Candidate(name, image_set(name, 6), models, 2.0, 1_500_000) for name in sets],
        results=sets,
        floors=result([1] * 20),
        copies=result([1] * 20, copied=1.0),
        augmented=result([1] * 20, copied=1.0),
        train=image_set("train", 20),
        reference=image_set("train", 20),
        held_out=image_set("held", 20),
        class_names=["train", "cake"],
        settings=[("--seed", "0")],
        features="none",
        notes=["a note"],
    )


def test_without_cas_the_conclusion_goes_by_the_distance_there_is():
    found = findings(a=[1, 0] * 10, b=[0, 1] * 10)
    for one in (*found.results.values(), found.floors):
        del one.figures["cas"]
    assert conclude(found, seed=0) == "CAS could not be measured; see the notes."
    for key in ("swd", "kid"):
        found.floors.figures[key] = measured(1.0)
        for name, value in (("a", 3.0), ("b", 2.0)):
            found.results[name].figures[key] = measured(value)
        said = conclude(found, seed=0)
        assert f"{key.upper()} to the 20 held-out photos, lower is nearer: b 2" in said and ", a 3" in said, said
        assert "; real training photos 1" in said and "0.0% of the images of b are copies" in said


def test_pictures_of_different_sizes_are_put_side_by_side(tmp_path):
    """Held-out images at the size of the comparison above what the autoencoder makes of them at its own."""
    small, large = np.zeros((3, 32, 32, 3), np.uint8), np.zeros((3, 160, 160, 3), np.uint8)
    for number, (above, below) in enumerate([(small, large), (large, small)]):
        figures.pairs(tmp_path / f"{number}.png", above, below, ("a", "b"))
        assert Image.open(tmp_path / f"{number}.png").height > 2 * 160


def test_the_conclusion_names_the_best_and_whether_that_is_certain():
    sure = conclude(findings(worse=[0] * 15 + [1] * 5, best=[1] * 18 + [0] * 2), seed=0)
    assert sure.startswith("A CNN trained only on the images of best names 90% of 20 held-out")
    assert "worse has 25%, 65 points less: more than the choice of held-out photos explains; another training" in sure
    unsure = conclude(findings(a=[1] * 10 + [0] * 10, b=[0] * 11 + [1] * 9), seed=0)
    assert "images of a names 50%" in unsure and "too few photos to tell" in unsure
    assert "more than the choice" not in unsure
    assert conclude(findings(a=[1, 0] * 10), seed=0).count("less") == 0


def test_the_conclusion_warns_of_models_that_know_the_held_out_images():
    found = findings(a=[1, 0] * 10, b=[0, 1] * 10, c=[0] * 20)
    assert "Caution" not in conclude(found, seed=0)
    found.seen = {"a": 0, "b": 3, "c": 20}
    assert "Caution: b and c had seen held-out photos in training" in conclude(found, seed=0)


@pytest.mark.parametrize(
    ("gain", "word"),
    [(Measured(0.1, 0.02, 0.2), "helps"), (Measured(-0.1, -0.2, -0.02), "harms"), (measured(0.0), "neither clearly")],
)
def test_the_conclusion_says_what_adding_the_images_does(gain, word):
    found = findings(a=[1, 0] * 10)
    found.results["a"].figures["cas_gain"] = gain
    assert f"to the real ones {word}" in conclude(found, seed=0)


def test_a_tie_is_decided_by_kid_and_the_models(tmp_path):
    """CAS cannot tell them apart: the next best measure does, or cannot either."""
    found = findings(a=[1] * 10 + [0] * 10, b=[0] * 11 + [1] * 9, far=[0] * 20)
    for name, value in (("a", 0.9), ("b", 0.3), ("far", 0.1)):
        found.results[name].figures["kid"] = measured(value)
    found.cnn_features = True
    found.candidates[1].parameters, found.candidates[1].minutes = 9_000_000, 1.0
    said = conclude(found, seed=0)
    assert "By KID (CNN features), b is nearest to the held-out photos (b 0.3000, a 0.9000)." in said
    assert "Of these, a has the smallest model (1.5 M, the next 9.0 M) and b has the shortest training (1 min" in said
    found.results["a"].figures["kid"] = measured(0.35)
    assert "b and a cannot be told apart either (b 0.3000, a 0.3500; intervals overlap)" in conclude(found, seed=0)
    found.candidates[0].parameters = found.candidates[0].minutes = None
    assert "Of these" not in conclude(found, seed=0)
    assert "By KID" not in conclude(findings(a=[1] * 20, b=[0] * 20), seed=0), "no tie"


def test_copies_are_told_of_every_set_and_beside_photos_that_are_none():
    found = findings(best=[1] * 20, b=[1, 0] * 10, c=[0] * 20)
    found.results["b"].figures["memorized_pixel"] = Measured(0.3, 0.2, 0.4)
    assert "have: b (30.0%)." in conclude(found, seed=0)
    found.floors.figures["memorized_pixel"] = Measured(0.25, 0.1, 0.35)
    said = conclude(found, seed=0)
    assert "as 25.0% of the held-out photos are, which are none: no sign of copying." in said and "have: b" not in said
    sure = [(found.copies, 1.0), (found.augmented, 1.0)]
    for result, value in (*sure, (found.floors, 0.0), *((one, 0.0) for one in found.results.values())):
        result.figures["memorized_latent"] = Measured(value, value, value)
    assert "0.0% of the images of best are copies of training images by the latent test" in conclude(found, seed=0)
    found.through_autoencoder = Result({key: measured(0.6) for key in ("memorized_pixel", "memorized_latent")})
    escape = "(copies may escape it: it finds only 60% of training images through the autoencoder)"
    assert conclude(found, seed=0).count(escape) == 2, "by either test"
    found.augmented = Result({key: measured(0.4) for key in ("memorized_pixel", "memorized_latent")})
    more = "it finds only 40% of training images as 3B augments them and 60% of training images through the auto"
    assert conclude(found, seed=0).count(more) == 2


def test_features_that_are_not_inceptions_are_named(tmp_path):
    found = findings(a=[1, 0] * 10)
    found.results["a"].figures["kid"] = measured(0.3)
    for on_cnn, title, net in ((True, "KID (CNN features)", "CNN"), (False, "KID", "Inception")):
        found.cnn_features = on_cnn
        write_all(tmp_path, found, "title", "today", seed=0)
        assert f"<dt>{title}</dt>" in (tmp_path / "report.html").read_text(encoding="utf-8")
        lines = (tmp_path / "metrics.csv").read_text().splitlines()
        assert [line.split(",")[-1] for line in lines if ",kid," in line] == [net]


def test_captions_say_what_is_shown(tmp_path):
    """The first of each class only where there are classes; a mirrored copy is told beside its unmirrored original."""
    found = findings(named=[1, 0] * 10, unnamed=[0, 1] * 10)
    found.candidates[1].images.label[:] = -1
    near = Neighbours(np.zeros(6, int), np.full(6, 0.5), np.ones(6), np.array([0, 5, 4, 9, 0, 0]))
    found.results["named"].neighbours["pixel"] = near
    psnr = {"psnr": Measured(21.0, 21.0, 21.0)}
    found.reconstruction, found.through_autoencoder = Result(psnr), result([1], copied=1.0)
    found.reconstructed = found.held_out.images
    write_all(tmp_path, found, "title", "today", seed=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "named: 6 images, 1 model, 2 min and 1.5 M parameters without the autoencoder; the first of each" in html
    assert "parameters without the autoencoder; the first of them." in html
    assert "0.50, 0.50 mirrored, 0.50, 0.50 mirrored" in html
    assert "PSNR 21.00." in html and "()" not in html
    controls = html.partition("<th>memorized, pixel</th>")[2].partition("</table>")[0]
    for name in (HELD_OUT, COPIES, AUGMENTED, DECODED):
        assert f"<td>{name}</td>" in controls
    assert "They do not cover the training" in html


@pytest.fixture
def panels(monkeypatch):
    """The lengths of the bars of each panel of comparison.png, by its title; empty panels too."""
    shown = {}
    save = Figure.savefig

    def watched(figure, path, **options):
        if path.name == "comparison.png":
            shown.clear()
            for axis in filter(Axes.get_visible, figure.axes):
                shown[axis.get_title(loc="left")] = [bar.get_width() for bar in axis.patches]
        return save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    return shown


def cells(html, title):
    """The cells of the row of the tables that is called so, without what is small, one a column."""
    row = re.search(rf"<tr><td>{re.escape(title)}.*?</tr>", html, flags=re.DOTALL)
    return re.findall(r"<td(?: class=\"floor\")?>([^<]*)", row[0])[1:] if row else None


def test_size_and_training_time_stand_beside_the_measures(tmp_path, panels):
    """In the table, the figure and the CSV file; they say nothing of real images and have no interval."""
    found = findings(a=[1, 0] * 10, b=[0, 1] * 10)
    found.candidates[1].parameters, found.candidates[1].minutes = 9_040_000, 12.34
    write_all(tmp_path, found, "title", "today", seed=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert cells(html, "parameters (millions)&nbsp;↓") == ["1.5", "9.0", NONE]
    assert cells(html, "training (minutes)&nbsp;↓") == ["2.0", "12.3", NONE]
    assert "<dt>parameters (millions)</dt>" in html and "<dt>training (minutes)</dt>" in html
    assert panels["parameters (millions) ↓"] == [1.5, 9.04] and panels["training (minutes) ↓"] == [2.0, 12.34]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert 'class="warn"' not in html, "no FID, so no warning of it"
    assert "b,parameters,9040000,9040000,9040000,," in lines and "b,minutes,12.34,12.34,12.34,," in lines


def test_size_and_training_time_that_are_not_known_leave_no_empty_box(tmp_path, panels):
    """A panel compares all sets that are shown; a row of the table may have a gap."""
    found = findings(a=[1, 0] * 10, plain=[0, 1] * 10)
    costs = ("parameters", "training")
    found.candidates[1].parameters = found.candidates[1].minutes = None
    write_all(tmp_path, found, "title", "today", seed=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert cells(html, "parameters (millions)") == ["1.5", NONE, NONE]
    assert panels and all(map(len, panels.values())) and not [title for title in panels if title.startswith(costs)]
    assert "plain,minutes" not in (tmp_path / "metrics.csv").read_text()
    found.candidates[0].parameters = found.candidates[0].minutes = None
    write_all(tmp_path, found, "title", "today", seed=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert cells(html, "parameters") is None and cells(html, "training (") is None and "<dt>parameters" not in html
    assert ",minutes," not in (tmp_path / "metrics.csv").read_text()


def test_fid_is_warned_of_with_what_real_images_score_at_their_number(tmp_path):
    found = findings(a=[1, 0] * 10)
    found.floors.figures["fid"], found.features = measured(154.26), "Inception's"
    write_all(tmp_path, found, "title", "today", seed=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<p class="warn">(.*?)</p>', html) == [
        "FID at this number of images is mostly the number of images: real training images themselves score 154.3 "
        "against the held-out ones. Compare sets by KID; features: Inception&#39;s."
    ]


def test_pictures_are_at_print_quality(tmp_path):
    """300 dots an inch, and the plots as wide as a page of text."""
    found = findings(a=[1, 0] * 10)
    found.reconstruction, found.reconstructed = Result({}), found.held_out.images
    write_all(tmp_path, found, "title", "today", seed=0)
    paths = {path.name: Image.open(path) for path in (tmp_path / "figures").iterdir()}
    assert len(paths) == 6
    for name, picture in paths.items():
        assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.01), name
    for name in ("comparison.png", "memorization_pixel.png"):
        assert paths[name].width / 300 == pytest.approx(7.0)


def test_reconstruction_stands_beside_that_of_training_images(tmp_path):
    found = findings(a=[1, 0] * 10)
    found.reconstruction, found.reconstructed = Result({"psnr": Measured(21.0, 20.0, 22.0)}), found.held_out.images
    found.reconstruction_floor = Result({"psnr": Measured(25.5, 25.0, 26.0)})
    document = write_all(tmp_path, found, "title", "today", seed=0)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "held-out images: PSNR 21.00 (20.00 to 22.00). For comparison, on training images: PSNR 25.50" in html
    assert "autoencoder,psnr,21.0,20.0,22.0,25.5," in (tmp_path / "metrics.csv").read_text().splitlines()
    assert document["reconstruction_floor"]["psnr"]["value"] == 25.5


def test_names_that_are_no_text_can_be_written(tmp_path):
    pieces = content(tmp_path / "a.png") | {"notes": ["\udcff.png: not an image"]}
    report.write(tmp_path / "report.html", pieces)
    assert "\\udcff.png: not an image" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_name_with_an_underscore_stands_in_the_legend(tmp_path, monkeypatch):
    shown = []
    legend = Figure.legend

    def watched(figure, **options):
        made = legend(figure, **options)
        shown.extend(text.get_text() for text in made.get_texts())
        return made

    monkeypatch.setattr(Figure, "legend", watched)
    near = Neighbours(np.zeros(3, int), np.array([0.1, 0.5, 0.9]), np.ones(3))
    figures.ratios(tmp_path / "ratios.png", {"_mine": near, "other": near}, {}, "at 32 px")
    assert [name.strip() for name in shown] == ["_mine", "other"]


@pytest.mark.filterwarnings("ignore:Tight layout")
def test_every_file_is_written_also_for_evil_names(tmp_path):
    """A name is used in file names, in the table, in figures and in captions."""
    found = findings(**{EVIL: [1, 0] * 10, "b": [1] * 20})
    document = write_all(tmp_path, found, EVIL, "today", seed=0)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert not page.all("script") and len(page.all("img")) == 7
    assert [one["name"] for one in document["sets"]] == [EVIL, "b"]
    assert (document["sets"][0]["minutes"], document["sets"][0]["parameters"]) == (2.0, 1_500_000)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"comparison.png", "samples_real.png", "samples_b.png", "suspects_b.png", "memorization_pixel.png"} < names
    assert len(names) == 7 and all(re.fullmatch(r"[\w-]+\.png", name) for name in names)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0] == "set,measure,value,low,high,floor,features" and len(lines) == 1 + 5 * 3 + 2 * 2


def test_copies_are_not_denied_where_the_test_is_blind() -> None:
    """With near twins of each photo, even copies have two neighbours at the same distance."""
    share = Measured(0.0, 0.0, 0.01)
    found = SimpleNamespace(
        results={"mine": SimpleNamespace(figures={"memorized_pixel": share})},
        copies=SimpleNamespace(figures={"memorized_pixel": Measured(0.1, 0.05, 0.2)}),
        floors=SimpleNamespace(figures={"memorized_pixel": share}),
        augmented=SimpleNamespace(figures={"memorized_pixel": Measured(0.9, 0.8, 1.0)}),
        through_autoencoder=None,
    )
    assert "cannot be told here" in _copied(found, "mine") and "only 10%" in _copied(found, "mine")
    found.copies.figures["memorized_pixel"] = Measured(1.0, 0.99, 1.0)
    assert _copied(found, "mine") == " 0.0% of the images of mine are copies of training images by the pixel test."
