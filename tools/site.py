"""Hooks of MkDocs for the documentation site (mkdocs.yml): pages that are generated, and links that leave ``docs/``.

* ``systems/NAME.md``, one per system: the docstring of its file, its model card (docs/models), the studies that measured it,
  and its recipe. LaTeX becomes MathML, which browsers draw themselves.
* ``api/MODULE.md``: the reference of the public modules, by mkdocstrings.
* ``results/``: the measured tables and charts as they are in the repository.

Docstrings and recipes are read as text; nothing that imports PyTorch is imported. Where mkdocs.yml names the public repository
(``extra: repository``), links to its files lead there, and those to notebooks get links that open them in Colab and Binder.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from stylezoo import catalog

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "stylezoo" / "pictures"  # small outputs of each system for one photo and one painting
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")

KINDS = {
    "arbitrary": "any image",
    "multi": "its styles, and blends of them",
    "single": "the style it was trained on",
    "optimization": "any image, optimized",
}
"""{kind of a system: the styles that it takes}."""

GALLERIES = {
    "gatys": "![gatys](../pictures/zoo.jpg)\n\n<sub>The image with the name `gatys.slim`: a photo of scikit-image in the style of a"
    " procedural painting, with the encoder that ships. Made by `python tools/zoo_sheet.py --output docs/pictures/zoo.jpg`.</sub>"
}
"""{system without a model card: its gallery}."""

API = {
    "stylezoo": "What notebooks and scripts use: loading, creating, and stylizing.",
    "stylezoo.module": "The base class of all systems.",
    "stylezoo.inference": "Stylizing in batches, engines, clips, and banks of style codes.",
    "stylezoo.images": "Reading and writing images.",
    "stylezoo.vgg": "Encoders with named features.",
    "stylezoo.losses": "Style statistics and the perceptual loss.",
    "stylezoo.layers": "Blocks of two or more systems.",
    "stylezoo.data": "Data sets and the data module.",
    "stylezoo.metrics": "Metrics of stylized images.",
    "stylezoo.evaluation": "Measuring models on pairs of images.",
    "stylezoo.streaming": "Maps that are computed window by window.",
    "stylezoo.registry": "Names of systems.",
    "stylezoo.checkpoints": "Files of models.",
    "stylezoo.errors": "Errors that are raised on purpose.",
}
"""{public module: what it is for}."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replaces the names ``systems`` and ``api`` in the navigation by their pages."""
    pages = {"systems": list(system_pages()), "api": list(api_pages())}
    config.nav = listed(config.nav or [], pages)
    return config


def listed(nav: list[Any], pages: dict[str, list[str]]) -> list[Any]:
    """Returns a navigation in which the names of groups of pages are replaced by the pages, the index first."""
    found: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            ((title, value),) = item.items()
            group = sorted(
                pages.get(str(value), []), key=lambda page: (not page.endswith("index.md"), page.removesuffix(".md"))
            )
            item = {title: listed(value, pages) if isinstance(value, list) else group or value}
        found.append(item)
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, in place of those that are there for readers of the repository."""
    for path, content in {**system_pages(), **api_pages()}.items():
        placeholder = files.get_file_from_path(path)
        if placeholder is not None:
            files.remove(placeholder)
        files.append(File.generated(config, path, content=content))
    for source in [*sorted((ROOT / "results").rglob("*")), *sorted(PICTURES.glob("*.jpg"))]:
        if source.is_file():
            name = f"systems/{source.name}" if source.parent == PICTURES else source.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, **_: Any) -> str:
    """Leads links within the repository to pages of the site, and others to the public repository, if there is one."""
    repository = config.extra.get("repository")
    return LINK.sub(lambda link: rewritten(link, page.file.src_uri, repository), markdown)


def rewritten(link: re.Match[str], page: str, repository: str | None) -> str:
    """Returns a link of a page as the site has it.

    Args:
        link: A match of `LINK`.
        page: Path of the page below docs/, or that of a result.
        repository: OWNER/NAME on GitHub; without it, links to files that are not on the site become their names.
    """
    target, _, anchor = link["target"].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return link[0]
    folder = Path(page).parent if page.startswith("results/") else Path("docs", page).parent
    path = os.path.normpath(folder / target)
    if path.startswith("docs/"):
        place = path.removeprefix("docs/")
    elif path.startswith("results/"):
        place = path
    elif repository:
        return f"[{link['text']}](https://github.com/{repository}/blob/HEAD/{path}){opened_elsewhere(path, repository)}"
    else:
        return f"`{path}`" if link["text"] in (path, target) or not link["text"] else f"{link['text']} (`{path}`)"
    if (ROOT / path).is_dir():
        place += "/README.md"
    relative = os.path.relpath(place, Path(page).parent)
    return f"{link['image']}[{link['text']}]({relative}{'#' + anchor if anchor else ''})"


def opened_elsewhere(path: str, repository: str) -> str:
    """Returns links that open a notebook in Colab and Binder; nothing for other files."""
    if not path.endswith(".ipynb"):
        return ""
    colab = f"https://colab.research.google.com/github/{repository}/blob/HEAD/{path}"
    binder = f"https://mybinder.org/v2/gh/{repository}/HEAD?labpath={quote(path, safe='')}"
    return f" ([Colab]({colab}), [Binder]({binder}))"


def system_pages() -> dict[str, str]:
    """Returns {path of a page: its text} of all systems, and of their list."""
    pages, rows = {}, ["| | system | paper | styles | year |", "|---|---|---|---|---|"]
    for source in sorted((ROOT / "stylezoo" / "models").glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
        title, _, body = docstring.partition("\n\n")
        system = catalog.systems()[source.stem]
        pages[f"systems/{system.name}.md"] = system_page(system, " ".join(title.split()), body)
        picture = f"![{system.name}]({system.name}.jpg)" if (PICTURES / f"{system.name}.jpg").exists() else ""
        row = [
            picture,
            f"[{system.name}]({system.name}.md)",
            " ".join(title.split()),
            KINDS[system.kind],
            str(system.year),
        ]
        rows.append(f"| {' | '.join(row)} |")
    table = "\n".join(rows)
    pages["systems/index.md"] = f"# Systems\n\nEach system is one file, one recipe and one test.\n\n{table}\n"
    return pages


def system_page(system: catalog.System, title: str, body: str) -> str:
    """Returns the page of a system."""
    name = system.name
    reference = f", reference implementation `{system.reference}`" if system.reference else ""
    facts = f"[Paper]({system.paper}){reference}. Styles: {KINDS[system.kind]}."
    parts = [f"# {name}\n\n{title}\n\n{facts}", *paragraphs(body)]
    card, recipe = ROOT / "docs" / "models" / f"{name}.md", ROOT / "experiments" / f"{name}.yaml"
    if card.exists():
        text = card.read_text().partition("\n```bash")[2]
        parts.append("## Gallery and weights\n\n```bash" + re.sub(r"(?m)^## ", "### ", moved(text)))
    elif name in GALLERIES:
        parts.append(f"## Gallery\n\n{GALLERIES[name]}")
    studies = studies_of(name)
    if studies:
        parts.append("## Results\n\n" + "\n".join(studies))
    if recipe.exists():
        parts.append(f"## Recipe\n\n`experiments/{recipe.name}`\n\n```yaml\n{recipe.read_text().strip()}\n```")
    options = "{show_root_heading: true, show_root_full_path: false, heading_level: 3}"
    parts.append(f"## Class\n\n::: stylezoo.models.{name}.{system.class_name}\n    options: {options}")
    return "\n\n".join(parts) + "\n"


def studies_of(name: str) -> list[str]:
    """Returns a line for each study of ``results/`` whose table has a system: a link, and what the study measures."""
    lines = []
    for table in sorted((ROOT / "results").glob("*.md")):
        text = table.read_text()
        if table.stem != "README" and re.search(rf"(?m)^\|(.*\|)? *{name}(\.\w+)? *\|", text):
            lines.append(f"* [{table.stem}](../results/{table.name}): {text.splitlines()[0].removeprefix('# ')}")
    return lines


def paragraphs(body: str) -> list[str]:
    """Returns the paragraphs of a docstring as Markdown: indented commands become code, indented LaTeX becomes MathML."""
    found: list[str] = []
    for block in re.split(r"\n\s*\n", body.strip("\n")):
        if block.startswith("    "):
            text = "\n".join(line[4:] for line in block.splitlines())
            found.append(f"```bash\n{text}\n```" if text.startswith("python -m") else equations(text))
            continue
        block = block.replace("``", "`")
        block = re.sub(r"(?m)^- ", "* ", block)
        block = re.sub(r"(?<!\n)\n\* ", "\n\n* ", block, count=1)
        block = re.sub(r"^(Equations), +(\w)|^(Deviations): +(\w)", as_heading, block)
        if block.startswith("## Equations"):  # a line that begins with a tag would end the paragraph
            block = "## Equations\n\n" + " ".join(block.removeprefix("## Equations").split())
            block = re.sub(r"\$([^$]+)\$", lambda math: convert(math[1]), block)
        found.append(block)
    return found


def as_heading(first: re.Match[str]) -> str:
    """Returns the first word of a paragraph as a heading, and the next letter as the first one of a sentence."""
    return f"## {first[1] or first[3]}\n\n{(first[2] or first[4]).upper()}"


def equations(text: str) -> str:
    """Returns equations in LaTeX, one a line, as MathML; a line that is indented continues the one before."""
    lines = re.sub(r"\n +", " ", text).splitlines()
    return "\n\n".join(f'<div class="equation">{convert(line, display="block")}</div>' for line in lines)


def moved(card: str) -> str:
    """Returns a card of docs/models with links as from another folder of the same depth."""

    def lead(link: re.Match[str]) -> str:
        if re.match(r"[a-z]+:|#", link["target"]):
            return link[0]
        target = os.path.relpath(os.path.normpath(Path("docs/models", link["target"])), "docs/systems")
        return f"{link['image']}[{link['text']}]({target})"

    return LINK.sub(lead, card)


def api_pages() -> dict[str, str]:
    """Returns {path of a page: its text} of the API reference."""
    pages = {f"api/{module}.md": f"# {module}\n\n::: {module}\n" for module in API}
    lines = [f"* [{module}]({module}.md): {purpose}" for module, purpose in API.items()]
    pages["api/index.md"] = "# API\n\n" + "\n".join(lines) + "\n"
    return pages
