"""The report of an order test: the page, the result as JSON, its document, tables, figures and methods paragraph."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, fields, replace
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, logged_by
from helpers.order_results import MEMORIES, NASTY, estimate, examples, nasty_result, no_verdict_result, order_result
from numpy.typing import NDArray
from PIL import Image

from videomem.errors import VideomemError
from videomem.experiments import tables as formatting
from videomem.experiments.drawing import PALETTE, VARIABLES, png, shorten
from videomem.experiments.html import Picture, write_strips
from videomem.experiments.order_test import order_tables as tables
from videomem.experiments.order_test.answers import headline, result_summary
from videomem.experiments.order_test.methods import REFERENCES, methods_paragraph
from videomem.experiments.order_test.report import pictures, render, write_report
from videomem.experiments.order_test.result import OrderTestResult, from_json, to_json
from videomem.experiments.order_test.schema import MODELS, schema_document
from videomem.statistics.results import Estimate, Verdict
from videomem.statistics.verdict import interval
from videomem.tracking import Tracking, log_result, log_strips, start_run
from videomem.utils.result_models import meanings, schema_json
from videomem.utils.text import p_text, printable

RESULTS = {
    "matters": order_result(),
    "does not matter": order_result("does not matter", ["none", "gru", "lstm"], ["left", "right"]),
    "hurts": order_result("hurts"),
    "no verdict": no_verdict_result(),
    "eight heads": order_result("matters", MEMORIES),
    "many classes": order_result(
        "matters", ["none", "gru"], [f"pushing thing {n} from left to right" for n in range(174)]
    ),
    "nasty": nasty_result(),
}
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects tags, ids and text, and checks that every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closed at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data


@pytest.fixture(scope="module", params=RESULTS)
def result(request: pytest.FixtureRequest) -> OrderTestResult:
    return RESULTS[request.param]


@pytest.fixture(scope="module")
def drawn(result: OrderTestResult) -> list[Picture]:
    return list(pictures(result))


@pytest.fixture(scope="module")
def page(result: OrderTestResult) -> str:
    names = result.data.class_names
    return render(result, examples(names, [one.label for one in result.heads]) if len(names) > 3 else [])


def test_the_page_is_well_formed_and_has_no_script(page: str) -> None:
    parsed = Page(page)
    assert not parsed.open and parsed.tags[0] == "html"
    assert "script" not in parsed.tags and "figcaption" in parsed.tags and "svg" in parsed.tags
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_verdict_comes_first_and_headings_are_in_order(result: OrderTestResult, page: str) -> None:
    levels = [int(tag[1]) for tag in Page(page).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    first = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert first and unescape(first[1]) == headline(result) and len(first[1]) < 100
    said = unescape(page).index(result.verdict.sentence.encode("utf-8", "replace").decode())
    assert page.index("<h1>") < said < unescape(page).index("<table")
    assert page.index("<h1>") < page.index("<svg") and page.index("<h1>") < page.index("<table")


def test_the_page_loads_nothing_and_runs_no_script(page: str) -> None:
    bare = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page)
    assert not re.search(r"https?://", bare)
    assert not re.search(r"<(link|iframe|object|embed|base)\b|\son\w+=|@import|javascript:", bare)
    assert all(address.startswith("#") for address in re.findall(r'href="([^"]*)"', re.sub(r"data:[^\"]*", "#", bare)))


def test_every_number_of_the_tables_is_on_the_page(result: OrderTestResult, page: str) -> None:
    text = " ".join(Page(page).text.split())
    for table in tables.all_tables(result):
        if table.name == "confusions":
            continue
        for row in table.rows:
            for value, column in zip(row, table.columns, strict=True):
                shown = formatting.show(value, column.kind).encode("utf-8", "replace").decode()
                assert " ".join(shown.split()) in text, (table.name, column.name)
                if isinstance(value, Estimate):
                    assert formatting.interval(value, column.kind) in text, (table.name, column.name)
    for fact in (result.plan_sha256, ", ".join(map(str, result.seeds)), " ".join(result.command.split())):
        assert fact in text


def test_every_figure_has_a_label_and_the_color_of_the_text(drawn: list[Picture], page: str) -> None:
    assert page.count('role="img" aria-label="') == page.count("<svg") == len(drawn)
    assert "#010203" not in page and "currentColor" in page and "font-family: 'DejaVu" not in page


def test_figures_render(drawn: list[Picture]) -> None:
    for picture in drawn:
        image = Image.open(BytesIO(png(picture.figure)))
        assert image.width > 300 and image.height > 80
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_the_same_result_gives_the_same_page() -> None:
    assert render(RESULTS["matters"]) == render(RESULTS["matters"])


def test_names_with_markup_are_escaped() -> None:
    result = RESULTS["nasty"]
    parsed = Page(render(result, examples(result.data.class_names, [NASTY])))
    assert "script" not in parsed.tags and parsed.text.count("<script>alert") > 10 and "手を振る" in parsed.text


def test_a_printed_result_is_its_verdict_and_where_to_look(result: OrderTestResult) -> None:
    first, second = str(result).split("\n")
    assert first == f"OrderTestResult: {printable(result.verdict.sentence).rstrip('.')}."
    assert second == "plot() draws it; help() on it lists its attributes"


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0, "p < 0.001"), (0.001, "p = 0.001"), (0.0342, "p = 0.034"), (0.1, "p = 0.10"), (1.0, "p = 1.00")],
)
def test_p_values_have_three_digits_below_a_tenth_in_every_sentence_and_table(p: float, text: str) -> None:
    assert p_text(p) == text and f"p {formatting.p_value(p)}".replace("p 0", "p = 0").replace("p 1", "p = 1") == text
    assert interval(replace(estimate(0.1), p=p)).endswith(text)


def test_json_preserves_a_result(result: OrderTestResult) -> None:
    text = to_json(result)
    assert repr(asdict(from_json(text))) == repr(asdict(result))
    assert to_json(from_json(text)) == text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.update(schema_version=99), "schema version 99"),
        (lambda content: content.pop("schema_version"), "no schema_version"),
        (lambda content: content.pop("margin"), "margin is missing"),
        (lambda content: content.update(surprise=1), "surprise is unknown"),
        (lambda content: content.update(num_runs=True), "order result.num_runs: True"),
        (lambda content: content["data"].update(num_clips="many"), "order result.data.num_clips: 'many'"),
        (lambda content: content["heads"][1]["reliance"].update(p=None), r"heads\[1\].reliance.p: None"),
        (lambda content: content["verdict"].update(kind="perhaps"), "order result.verdict.kind"),
        (lambda content: content.update(heads={}), "order result.heads"),
    ],
)
def test_a_damaged_result_is_refused_in_one_line(change: object, said: str) -> None:
    content = json.loads(to_json(RESULTS["matters"]))
    change(content)  # type: ignore[operator]
    with pytest.raises(VideomemError, match=said) as caught:
        from_json(json.dumps(content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"schema_version": NaN}', "\x00"])
def test_a_file_that_is_not_a_result_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(VideomemError) as caught:
        from_json(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_cut_files_are_refused() -> None:
    text = to_json(RESULTS["no verdict"])
    for end in range(0, len(text) - 1, 97):
        with pytest.raises(VideomemError):
            from_json(text[:end])


def test_numbers_too_large_for_a_float_are_refused() -> None:
    text = to_json(RESULTS["matters"])
    for number in ("1e999", "1" * 400):
        with pytest.raises(VideomemError, match="a number is needed"):
            from_json(text.replace('"margin": 0.02,\n "margin_share"', f'"margin": {number},\n "margin_share"'))


def test_a_plan_that_json_cannot_represent_is_refused() -> None:
    with pytest.raises(VideomemError, match="the plan cannot be written"):
        to_json(replace(RESULTS["matters"], plan={"margin": math.nan}))


def test_the_document_and_the_schema_of_the_result_are_up_to_date() -> None:
    command = "python -m videomem.experiments.order_test.schema docs"
    assert (ROOT / "docs" / "order_result.md").read_text() == schema_document(), command
    assert (ROOT / "docs" / "order_result.schema.json").read_text() == schema_json(OrderTestResult), command


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_every_field_of_the_result_is_explained(kind: type) -> None:
    assert list(meanings(kind)) == [item.name for item in fields(kind)]
    assert all(f"| `{item.name}` | " in schema_document() for item in fields(kind))


def test_the_paragraph_has_the_numbers_of_the_result(result: OrderTestResult) -> None:
    text, _, references = methods_paragraph(result).partition("\n\nReferences\n\n")
    assert "\n" not in text and result.plan_sha256 in text and f"{result.data.num_clips:,} clip" in text
    for one in result.heads:
        if one.is_order_blind:
            continue
        assert f"the value of order was {formatting.points(one.value_of_order.value)} points" in text
        if math.isfinite(one.value_of_order.low):
            low, high = formatting.points(one.value_of_order.low), formatting.points(one.value_of_order.high)
            assert f"[{low}, {high}]" in text
    assert set(references.splitlines()) == {whole for name, whole in REFERENCES.items() if name in text}


def test_the_paragraph_mentions_only_what_was_done() -> None:
    assert "Nadeau" in methods_paragraph(RESULTS["matters"]) and "McNemar" not in methods_paragraph(RESULTS["matters"])
    bare = methods_paragraph(RESULTS["no verdict"])
    assert not any(name in bare for name in ("Nadeau", "Holm", "Paule", "Westfall", "Phipson", "Cameron et al. 2008 "))
    fixed = replace(RESULTS["matters"], data=replace(RESULTS["matters"].data, split="fixed"))
    assert "Nadeau" not in methods_paragraph(fixed) and "the catalog's own split" in methods_paragraph(fixed)


def test_tables_are_rectangles_of_plain_values(result: OrderTestResult) -> None:
    for name, columns, rows in tables.result_tables(result):
        assert len(set(columns)) == len(columns), name
        assert all(len(row) == len(columns) for row in rows)
        assert all(value is None or isinstance(value, str | int | float) for row in rows for value in row)


def test_numbers_are_formatted() -> None:
    shown = [formatting.points(x) for x in (0.1234, -0.0301, -0.0001, 0.0, math.nan, None)]
    assert shown == ["+12.3", "\N{MINUS SIGN}3.0", "0.0", "0.0", formatting.NOTHING, formatting.NOTHING]
    shown = [formatting.p_value(p) for p in (0.0004, 0.0123, 0.5, None)]
    assert shown == ["< 0.001", "0.012", "0.50", formatting.NOTHING]
    assert formatting.interval(estimate(0.1, 0.01)) == "+7.9 to +12.1"


def test_long_names_are_abbreviated_in_the_middle() -> None:
    assert shorten("short") == "short" and shorten("two\nlines\x00\udcff") == "two lines?"
    assert len(shorten("x" * 80, 30)) == 30 and shorten("pushing left to right", 12) == "pushin…right"


def test_the_terminal_table_has_every_head() -> None:
    shown = tables.summary_table(RESULTS["eight heads"]).rows
    assert [row[0] for row in shown] == [f"{name}(hidden_dim=128)" for name in MEMORIES]
    assert "+19.5 to +26.7" in shown[1]
    assert len(tables.summary_table(RESULTS["nasty"]).rows) == len(RESULTS["nasty"].heads)


def test_a_report_is_written_and_logged_to_wandb(tmp_path: Path) -> None:
    result = RESULTS["matters"]
    figures = write_report(result, tmp_path / "out")
    for name in ("order.json", "report.html", "methods.txt", "tables/heads.csv", "tables/suite.csv"):
        assert (tmp_path / "out" / name).is_file()
    assert set(figures) == {picture.name for picture in pictures(result)} and all(map(Path.exists, figures.values()))
    assert from_json((tmp_path / "out" / "order.json").read_text()) == result
    run = start_run(Tracking("offline"), tmp_path / "wandb", name="order")
    log_result(run, "order", tables.result_tables(result), figures, result_summary(result))
    shown = examples(result.data.class_names, ["gru"])
    strips = write_strips(shown, tmp_path / "out" / "figures")
    log_strips(run, "order", strips)
    run.finish()
    assert len(strips) == sum(len(example.strips) for example in shown)
    kept = {path.read_bytes() for path in (tmp_path / "wandb").rglob("media/images/**/*.jpg")}
    assert kept == {path.read_bytes() for path, _ in strips}
    said = next(json.dumps(line) for line in logged_by(tmp_path) if "captions" in json.dumps(line))
    assert f"{shown[0].label}, reversed; gru: {shown[0].label}" in said
    stored = {path.name.partition("_")[0] for path in (tmp_path / "wandb").rglob("*.table.json")}
    assert {"heads", "accuracies", "suite", "classes", "confusions"} <= stored
    assert len(list((tmp_path / "wandb").rglob("media/images/**/*.png"))) == len(figures)


def test_text_has_enough_contrast_in_light_and_dark() -> None:
    css = (ROOT / "videomem" / "experiments" / "page.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css))
    for colors in (light, light | dark):
        for name in ("ink", "quiet", "accent", "hurts"):
            assert _contrast(colors[name], colors["paper"]) >= 4.5, name
        assert _contrast(colors["ink"], colors["wash"]) >= 4.5
        assert _contrast(colors["blue"], colors["paper"]) >= 3


def _lab(color: str) -> NDArray[np.float64]:
    """CIE L*a*b* of a color, illuminant D65."""
    shares = np.array([int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ linear / (0.9505, 1.0, 1.089))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_colors_of_classes_differ_in_light_and_dark() -> None:
    css = (ROOT / "videomem" / "experiments" / "page.css").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", css))
    assert [light[name] for name in VARIABLES.values()] == list(PALETTE)  # As in the PNG files.
    for colors in (light, dark):
        shown = [colors[name] for name in VARIABLES.values()]
        nearest = min(float(np.linalg.norm(_lab(a) - _lab(b))) for a, b in combinations(shown, 2))
        assert nearest >= 25, nearest
    assert all(_contrast(dark[name], dark["paper"]) >= 3 for name in VARIABLES.values())


def test_the_colors_of_a_figure_are_variables_of_the_page(page: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    bare = re.sub(r"var\(--\w+, #\w+\)", "", figures)
    assert not [color for color in PALETTE if color in bare]


def test_the_headline_is_a_count_and_a_range() -> None:
    gains = [estimate(0.21, 0.02), estimate(0.39, 0.02), estimate(0.25, 0.3)]
    (one, *_) = [one for one in RESULTS["matters"].heads if not one.is_order_blind]
    heads = tuple(replace(one, practical_gain=gain) for gain in gains)
    for kind, words in (("matters", "Order carries information"), ("does not matter", "Order carries no information")):
        result = replace(RESULTS["matters"], heads=heads, verdict=Verdict(kind, "s"))  # type: ignore[arg-type]
        assert headline(result) == f"{words}: 2 of 3 learners, +21.0 to +39.0 points"
    assert headline(replace(result, heads=heads[:1])).endswith(": 1 of 1 learner, +21.0 points")
    assert headline(RESULTS["no verdict"]) == "No verdict on order"


def test_a_verdict_and_its_remedy_are_two_sentences() -> None:
    result = order_result("undetermined", ["none", "gru", "lstm"])
    page, verdicts = render(result), [one.verdict for one in result.heads if one.verdict and one.verdict.remedy]
    assert verdicts and all(
        f"{one.sentence}. <b>What would help:</b> {one.remedy}.</p>" in unescape(page) for one in verdicts
    )


def test_long_tables_and_the_plan_are_collapsed(page: str) -> None:
    parts = re.split(r"(<details|</details>|<tbody>.*?</tbody>)", page, flags=re.DOTALL)
    depth = 0
    for part in parts:
        depth += {"<details": 1, "</details>": -1}.get(part, 0)
        if part.startswith("<tbody>") and part.count("<tr>") > 20:
            assert depth > 0
    assert re.search(r"<details><summary>All \d+ settings</summary>", page)


def test_a_control_has_one_label_in_the_table_and_in_the_figure() -> None:
    page = render(RESULTS["matters"])
    figure = re.search(r'<svg[^>]*aria-label="Accuracy of the controls.*?</svg>', page, re.DOTALL)
    assert figure is not None
    listed = [row[0] for row in tables.table(RESULTS["matters"], "controls").rows]
    assert set(tables.CONTROLS.values()) <= set(listed) and all(
        f">{name}<" in figure[0] for name in tables.CONTROLS.values()
    )


def test_each_head_has_one_sentence() -> None:
    heads = {"none": {"memory": {"class_path": "videomem.heads.NoMemory"}, "readout": {"class_path": "x.MeanReadout"}}}
    result = replace(RESULTS["matters"], plan={"heads": heads})
    assert "Memoryless: h_t = W x_t. Readout: Mean of the logits over the real frames." in render(result)


def _contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2."""
    dark, light = sorted(_luminance(color) for color in (first, second))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    shares = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * share for weight, share in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
