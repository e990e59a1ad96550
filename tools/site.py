"""Hooks of MkDocs for the documentation site (mkdocs.yml): pages that are generated, and links that leave ``docs/``.

* ``systems/NAME.md``, one per system: the docstring of its file, its model card (docs/models), and its recipe.
* ``api/MODULE.md``: the reference of the public modules, by mkdocstrings.
* ``results/``: the measured tables and charts as they are in the repository.

Docstrings and recipes are read as text; nothing of the package is imported.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")

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


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for path, content in {**system_pages(), **api_pages()}.items():
        files.append(File.generated(config, path, content=content))
    for source in sorted((ROOT / "results").rglob("*")):
        if source.is_file():
            name = source.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links within the repository to pages of the site, and turns those to other files into their names."""
    return LINK.sub(lambda link: rewritten(link, page.file.src_uri), markdown)


def rewritten(link: re.Match[str], page: str) -> str:
    """Returns a link of a page as the site has it.

    Args:
        link: A match of `LINK`.
        page: Path of the page below docs/, or that of a result.
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
    else:
        return f"`{path}`" if link["text"] in (path, target) or not link["text"] else f"{link['text']} (`{path}`)"
    if (ROOT / path).is_dir():
        place += "/README.md"
    relative = os.path.relpath(place, Path(page).parent)
    return f"{link['image']}[{link['text']}]({relative}{'#' + anchor if anchor else ''})"


def system_pages() -> dict[str, str]:
    """Returns {path of a page: its text} of all systems, and of their list."""
    pages, lines = {}, []
    for source in sorted((ROOT / "stylezoo" / "models").glob("[a-z]*.py")):
        docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
        title, _, body = docstring.partition("\n")
        pages[f"systems/{source.stem}.md"] = system_page(source.stem, title, body)
        lines.append(f"* [{source.stem}]({source.stem}.md): {title}")
    pages["systems/index.md"] = (
        "# Systems\n\nEach system is one file, one recipe and one test.\n\n" + "\n".join(lines) + "\n"
    )
    return pages


def system_page(name: str, title: str, body: str) -> str:
    """Returns the page of a system."""
    parts = [f"# {name}\n\n{title}", *paragraphs(body)]
    card, recipe = ROOT / "docs" / "models" / f"{name}.md", ROOT / "experiments" / f"{name}.yaml"
    if card.exists():
        text = card.read_text().partition("\n```bash")[2]
        parts.append("## Weights that ship\n\n```bash" + re.sub(r"(?m)^## ", "### ", moved(text)))
    if recipe.exists():
        parts.append(f"## Recipe\n\n`experiments/{recipe.name}`\n\n```yaml\n{recipe.read_text().strip()}\n```")
    parts.append(f"## Class\n\n::: stylezoo.models.{name}\n    options: {{show_root_heading: false, heading_level: 3}}")
    return "\n\n".join(parts) + "\n"


def paragraphs(body: str) -> list[str]:
    """Returns the paragraphs of a docstring as Markdown: indented commands become code, and ``Deviations`` a heading."""
    found = []
    for block in re.split(r"\n\s*\n", body.strip("\n")):
        if block.startswith("    "):
            found.append("```bash\n" + "\n".join(line[4:] for line in block.splitlines()) + "\n```")
            continue
        block = block.replace("``", "`")
        block = re.sub(r"(?m)^- ", "* ", block)
        block = re.sub(r"(?<!\n)\n\* ", "\n\n* ", block, count=1)
        found.append(re.sub(r"^Deviations: *", "## Deviations\n\n", block))
    return found


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
