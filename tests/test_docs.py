"""What the documentation says is shown by tests is shown by tests that exist."""

import re

import pytest
from conftest import ROOT


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
