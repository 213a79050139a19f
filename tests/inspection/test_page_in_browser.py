"""The page in Chromium: it opens, unfolds, sorts, filters and links, says nothing wrong, and makes the pictures of the docs."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

import fxquant

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra browser")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs Chromium and its driver"),
]

IMAGES = Path(__file__).parents[2] / "docs" / "images"
HOSTILE = "<script>alert(1)</script>"
LIMIT = 200_000  # bytes of a picture in the docs

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


class Odd(nn.Module):
    """A model one of whose modules has a name that would be markup."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.add_module(HOSTILE, nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, HOSTILE)(self.first(x))  # type: ignore[no-any-return]


class Page:
    """A page in a browser, by what a person sees of it."""

    def __init__(self, browser: Any, file: Path) -> None:
        self.browser, self.file = browser, file

    def open(self, choices: str = "") -> Page:
        self.browser.get("about:blank")
        self.browser.get(f"{self.file.as_uri()}#{choices}")
        self.wait(lambda: self.script("return document.body?.dataset.ready") == "true")
        return self

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 30, 0.05).until(lambda _: condition())

    def script(self, text: str, *arguments: object) -> Any:
        return self.browser.execute_script(text, *arguments)

    def one(self, selector: str) -> Any:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def column(self, field: str) -> list[str]:
        """Return the texts of a column, of the rows in view."""
        cells = self.browser.find_elements(By.CSS_SELECTOR, f'.tabulator-row [tabulator-field="{field}"]')
        return [cell.text for cell in cells]

    def press(self, keys: str) -> None:
        self.one("body").send_keys(keys)

    def picture(self, name: str) -> None:
        """Write what is seen to the docs."""
        self.script("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        file = IMAGES / name
        file.parent.mkdir(exist_ok=True)
        seen = Image.open(io.BytesIO(self.browser.get_screenshot_as_png())).convert("RGB")
        seen.quantize(64, dither=Image.Dither.NONE).save(file, optimize=True)
        assert file.stat().st_size < LIMIT

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.browser.get_log("browser")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield chromium
    chromium.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page on a DeiT of random weights, with one layer of 3 bits, which hurts."""
    os.environ.pop("FXQUANT_TRACE", None)
    folder = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", depth=6).eval()
    x = pictures()
    traced = fxquant.trace(model, x)
    config = fxquant.recipe("minmax").set_module_name("blocks.3.mlp.fc1", fxquant.recipe("minmax", 3, 3).layer)
    prepared = fxquant.calibrate(fxquant.prepare(traced, config), [x], progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FXQUANT_TRACE", str(folder / "trace"))
        gm = fxquant.convert(prepared)
    compared = fxquant.compare(prepared, gm, [x], progress=False)
    inspection = fxquant.inspect(
        *(traced, prepared, gm), images=x, passes=folder / "trace", time=True, compared=compared
    )
    inspection.save(folder / "page.html")
    return folder / "page.html"


def pictures() -> Tensor:
    """Return two images of rings and stripes ``(2, 3, 224, 224)``."""
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    rings = torch.sin(18 * (rows.square() + columns.square()))
    stripes = torch.sin(14 * rows + 6 * columns)
    return torch.stack([torch.stack([rings, rings * columns, columns]), torch.stack([rows, stripes, stripes * rows])])


@pytest.fixture
def page(browser: Any, file: Path) -> Page:
    return Page(browser, file)


def test_it_opens_without_complaint(page: Page) -> None:
    page.open()
    assert page.one("h1").text == "VisionTransformer"
    assert {"patch_embed PatchEmbed", "blocks Sequential"} <= set(page.column("name"))
    page.picture("inspect.png")
    assert page.complaints() == []


def test_it_unfolds_by_click_and_by_key(page: Page) -> None:
    page.open()
    before = page.column("name")
    assert "0 Block" in before
    page.script("[...document.querySelectorAll('.tabulator-row')].find(r => r.innerText.startsWith('0 Block')).click()")
    page.press(Keys.ARROW_RIGHT)
    page.wait(lambda: "attn Attention" in page.column("name"))
    page.press(Keys.ARROW_LEFT)
    page.wait(lambda: "attn Attention" not in page.column("name"))
    page.press(Keys.ARROW_DOWN)
    assert page.one("#details h2").text == "blocks.1"


def test_it_sorts_products_by_what_hurts(page: Page) -> None:
    page.open("view=list")
    page.one('.tabulator-col[tabulator-field="drop"] .tabulator-col-sorter').click()
    page.wait(lambda: page.column("name")[0].startswith("blocks.3.mlp.fc1"))
    found = [float(text) for text in page.column("drop") if text]
    assert found == sorted(found, reverse=True)
    assert found[0] > 20
    page.one('.tabulator-col[tabulator-field="of_error"] .tabulator-col-sorter').click()
    page.wait(lambda: "%" in page.column("of_error")[0] and page.column("of_error")[0] > "5")
    assert page.column("name")[0].startswith("blocks.3.mlp.fc2")  # which reads the codes of fc1
    page.one('.tabulator-col[tabulator-field="sqnr"] .tabulator-col-sorter').click()
    page.wait(lambda: page.column("sqnr") == sorted(page.column("sqnr"), key=float))


def test_it_searches_and_filters(page: Page) -> None:
    page.open()
    page.press("/")
    page.browser.switch_to.active_element.send_keys("fc2 int8")
    page.wait(lambda: page.one("#status").text.startswith("6 of "))
    page.one("#search").clear()
    page.one("#search").send_keys(" ")
    reason = "reason:the fused attention kernel is faster; attention=True quantises it"
    page.script("const f = document.getElementById('filter'); f.value = arguments[0]; f.onchange()", reason)
    page.wait(lambda: "attention" in page.column("name"))
    assert "qkv Linear" not in page.column("name")
    assert reason.partition(":")[2].replace(" ", "+").partition(";")[0] in page.script("return location.hash")


def test_stages_stand_side_by_side_and_can_be_hidden(page: Page) -> None:
    page.open("row=blocks.0.mlp.fc1")
    titles = [each.text for each in page.browser.find_elements(By.CSS_SELECTOR, ".card h3")]
    assert titles == ["int8", "prepared", "float"]
    operators = [each.text for each in page.browser.find_elements(By.CSS_SELECTOR, ".card > p:first-of-type")]
    assert operators == ["int8 int8_linear_gelu_quantize", "observed linear", "float linear"]
    page.script("document.querySelector('#stages input').click()")
    page.wait(lambda: len(page.browser.find_elements(By.CSS_SELECTOR, ".card")) == 2)
    assert not page.browser.find_elements(By.CSS_SELECTOR, '[tabulator-field="stage0"]')


def test_a_link_shows_the_same_row_again(page: Page) -> None:
    page.open("row=blocks.3.mlp.fc1&theme=dark")
    assert page.one("#details h2").text == "blocks.3.mlp.fc1 linear"
    assert page.one(".tabulator-selected [tabulator-field=name]").text.startswith("fc1")
    assert page.browser.find_elements(By.CSS_SELECTOR, "#details canvas"), "the histogram is drawn"
    assert page.script("return getComputedStyle(document.body).backgroundColor") == "rgb(17, 22, 29)"
    page.picture("inspect-dark.png")
    page.open("row=blocks.2.attn&hide=prepared")
    page.wait(lambda: len(page.browser.find_elements(By.CSS_SELECTOR, ".map canvas")) == 2)
    assert page.complaints() == []


def test_passes_show_what_they_changed(page: Page) -> None:
    page.open("tab=passes")
    page.script(
        "[...document.querySelectorAll('.passes button')].find(b => b.innerText.startsWith('lower_linear')).click()"
    )
    page.wait(lambda: "int8_linear" in page.one(".difference .added").text or "weight" in page.one(".difference").text)
    assert page.browser.find_elements(By.CSS_SELECTOR, ".difference .removed")
    page.picture("inspect-passes.png")
    assert page.complaints() == []


def test_it_can_be_read_on_a_phone(page: Page) -> None:
    size = page.browser.get_window_size()
    page.browser.set_window_size(500, 900)  # the narrowest that Chromium has
    page.open("row=blocks.3.mlp.fc1")
    assert page.script("return document.documentElement.scrollWidth <= innerWidth")
    page.browser.set_window_size(size["width"], size["height"])


def test_a_hostile_name_stays_text(browser: Any, tmp_path: Path) -> None:
    gm = fxquant.trace(Odd().eval(), torch.randn(2, 8))
    fxquant.inspect(gm, images=torch.randn(2, 8)).save(tmp_path / "odd.html")
    page = Page(browser, tmp_path / "odd.html").open("view=list")
    assert any(HOSTILE in text for text in page.column("name"))
    page.script("[...document.querySelectorAll('.tabulator-row')].at(-1).click()")
    page.wait(lambda: HOSTILE in page.one("#details h2").text)
    assert page.complaints() == []


def test_a_notebook_shows_it_in_a_frame(browser: Any, file: Path, tmp_path: Path) -> None:
    gm = fxquant.trace(Odd().eval(), torch.randn(2, 8))
    (tmp_path / "cell.html").write_text(fxquant.inspect(gm)._repr_html_(), encoding="utf-8")
    browser.get((tmp_path / "cell.html").as_uri())
    browser.switch_to.frame(0)
    WebDriverWait(browser, 30).until(lambda b: b.execute_script("return document.body?.dataset.ready") == "true")
    assert browser.find_element(By.TAG_NAME, "h1").text == "Odd"
    browser.switch_to.default_content()
    assert [entry["message"] for entry in browser.get_log("browser")] == []
