"""What the documentation says is true where that can be checked: tests, links, numbers, and the parts of pages."""

import csv
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from stylezoo import catalog, weights

README = (ROOT / "README.md").read_text()
SHOWN = ["gatys", *(name for name in catalog.systems() if weights.default_tag(name))]
"""Systems that stylize with what ships."""
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")


@pytest.mark.parametrize("page", ["reliability.md", "training_features.md"])
def test_every_test_that_a_page_names_exists(page):
    text = (ROOT / "docs" / page).read_text()
    names = set(re.findall(r"`(?:tests/[\w/]+\.py::)?(test_\w+)", text))
    assert names
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in [path.stem, *re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)]
    }
    assert names <= defined
    assert all((ROOT / path).is_file() for path in re.findall(r"`(tests/[\w/]+\.py)", text))


def test_links_lead_to_files():
    """In README and in docs/; pages of the site that are generated have no file."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text())]
    missing = [
        f"{page.relative_to(ROOT)}: {link}"
        for page, link in links
        if not (page.parent / link).exists() and not re.search(r"(^|/)(systems|api)/", link)
    ]
    assert len(links) > 100 and not missing


def test_badges_say_what_the_package_says():
    tomllib = pytest.importorskip("tomllib", reason="of Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"[License: {project['license']}]" in README and f"license-{project['license']}-" in README
    oldest = project["requires-python"].removeprefix(">=")
    assert f"[Python: {oldest} or later]" in README and f"python-%3E%3D{oldest}-" in README


def test_numbers_of_the_readme_are_in_results():
    table = [line.strip("| ").split(" | ") for line in README.split("## Measured")[1].splitlines() if line[:1] == "|"]
    names = ["(content unchanged)", "adain.public", "magenta.mobile", "microast.public"]
    names += [name.strip("`") for name in table[0] if name.startswith("`")]
    balanced = {row["model"]: row for row in rows("balanced_loss.csv")}
    spread = {row["model"]: row for row in rows("loss_distributions.csv") if row["loss"] == "classic"}
    means = {(row["model"], row["metric"]): float(row["mean"]) for row in rows("evaluation/summary.csv")}
    means |= {("(content unchanged)", m): means["content (unchanged)", m] for m in ("content_loss", "ssim")}
    found = {line[0]: line[1:] for line in table[2:]}
    for name, *cells in zip(names, *found.values(), strict=True):
        style, classic, content, ssim = (float(cell.partition(" ")[0]) for cell in cells)
        assert style == pytest.approx(float(balanced[name]["balanced"]), abs=0.006 if "±" not in cells[0] else 6e-4)
        if "±" in cells[0]:
            error = float(balanced[name]["balanced, standard error"])
            assert float(cells[0].partition("± ")[2]) == pytest.approx(error, abs=6e-4)
        assert classic == pytest.approx(float(spread[name]["largest / smallest"]), abs=0.6)
        assert content == pytest.approx(means[name, "content_loss"], abs=0.006)
        assert ssim == pytest.approx(means[name, "ssim"], abs=6e-4)


def rows(name: str) -> list[dict[str, str]]:
    """Reads a table of results/."""
    with (ROOT / "results" / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def site() -> ModuleType:
    """The hooks of the site; the standard library has a module of that name."""
    for module in ("mkdocs", "latex2mathml"):
        pytest.importorskip(module, reason="of the extra site")
    spec = spec_from_file_location("hooks_of_the_site", ROOT / "tools" / "site.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_of_systems_are_complete(site):
    pages = site.system_pages()
    assert {Path(page).stem for page in pages} == {*catalog.systems(), "index"}
    for name in catalog.systems():
        page = pages[f"systems/{name}.md"]
        headings = re.findall(r"(?m)^## (.*)", page)
        assert headings[:2] == ["Equations", "Deviations"] and headings[-2:] == ["Recipe", "Class"]
        if name in SHOWN:
            assert headings[2].startswith("Gallery") and "Results" in headings
        idea = page.partition("## Equations")[0]
        assert len(idea) > 250 and "[Paper](https://" in idea
        equations = page.split("## Equations")[1].split("## ")[0]
        assert equations.count('<div class="equation"><math') >= 2 and "$" not in equations
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page):
            assert (ROOT / "docs" / picture.removeprefix("../")).is_file()


def test_a_public_repository_turns_on_links(site):
    text = "[Notebook](../../notebooks/01_stylize.ipynb), [card](../models/adain.md)"
    without = site.LINK.sub(lambda link: site.rewritten(link, "how_to/notebooks.md", None), text)
    assert without == "Notebook (`notebooks/01_stylize.ipynb`), [card](../models/adain.md)"
    linked = site.LINK.sub(lambda link: site.rewritten(link, "how_to/notebooks.md", "owner/name"), text)
    assert "https://colab.research.google.com/github/owner/name/blob/HEAD/notebooks/01_stylize.ipynb" in linked
    assert "https://mybinder.org/v2/gh/owner/name/HEAD?labpath=notebooks%2F01_stylize.ipynb" in linked
