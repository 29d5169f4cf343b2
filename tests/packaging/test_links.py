"""Links in the Markdown pages lead somewhere, and so do the paths and modules that they name."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_OURS = r"(?:osediff_core|nodes|training|tests|benchmarks|examples|docs|web|locales)"
_PLACEHOLDER = re.compile("NAME|NODE_ID")
# pages that stand elsewhere once they are written
_TEMPLATES = ("training/ablations/page.md",)


@pytest.fixture(scope="module")
def pages() -> dict[Path, str]:
    """Every page of the repository and its text without blocks of code."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    names = [name for name in listed.stdout.splitlines() if name not in _TEMPLATES]
    return {
        ROOT / name: re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.S)
        for name in names
    }


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(pages):
    for page, text in pages.items():
        for link in re.findall(r'\]\(([^)\s]+)\)|(?:src|href)="([^"]+)"', text):
            path, _, anchor = "".join(link).partition("#")
            if re.match(r"\w+:", path):
                continue
            target = page.parent / path if path else page
            assert target.exists(), (page, path)
            assert not anchor or anchor in anchors(pages[target.resolve()]), (page, anchor)


def test_paths_and_modules_that_pages_name_are_there(pages):
    now = {page: text for page, text in pages.items() if page.name != "CHANGELOG.md"}
    for page, text in now.items():
        for path in re.findall(rf"`({_OURS}/[\w./-]+)`", text):
            assert _PLACEHOLDER.search(path) or (ROOT / path).exists(), (page, path)
    for page in now:
        for module in re.findall(rf"python -m ({_OURS}[\w.]*)", page.read_text(encoding="utf-8")):
            file = ROOT / module.replace(".", "/")
            assert file.with_suffix(".py").exists() or (file / "__main__.py").exists(), (page, module)
