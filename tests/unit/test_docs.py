"""What is made from the settings is up to date: README's table, `.env.example`, compose's list."""

from pathlib import Path

import pytest

from docs.generate import render


@pytest.mark.parametrize(("path", "text"), [pytest.param(*made, id=made[0].name) for made in render().items()])
def test_file__is_what_make_docs_writes(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run make docs"
