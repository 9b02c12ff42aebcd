"""The pages for people: every link leads somewhere, every workflow and every node is in them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page
    for folder in (".", "docs", "training", "demo", "web/docs")
    for page in (ROOT / folder).glob("*.md" if folder in (".", "web/docs") else "**/*.md")
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def heading_ids(page: Path) -> set[str]:
    """The anchors that a page's headings get on the repository's web page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_inside_the_repository_lead_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which is not there"
        assert not anchor or anchor in heading_ids(target), f"{page.name}: no heading for {link}"


@pytest.mark.parametrize(
    ("page", "folder"), [("README.md", "workflows/*.json"), ("docs/nodes.md", "web/docs/*.md")]
)
def test_every_workflow_and_every_node_is_listed(page, folder):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = {((ROOT / page).parent / link).resolve() for link in LINK.findall(text)}
    missing = {path.name for path in set(ROOT.glob(folder)) - links if path.name != "index.json"}
    assert not missing, f"{page} has no link to {sorted(missing)}"


def test_every_page_for_a_task_is_in_their_list():
    listed = set(LINK.findall((ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed
