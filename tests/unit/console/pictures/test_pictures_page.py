"""The page: well-formed, complete in itself, and no place for other people's markup."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest
from support.history import Night, verified
from support.repositories import new_repository
from support.stores import MemoryStore

from airflow_provider_azstack.console.pictures import page as module
from airflow_provider_azstack.console.pictures.facts import Wanted, gather
from airflow_provider_azstack.console.pictures.page import LEGEND, MARKS, page
from airflow_provider_azstack.repo.points import flags
from airflow_provider_azstack.repo.repository import Repository

pytestmark = pytest.mark.tier1

NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)
EVIL = "<script>alert(1)</script>"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Checked(HTMLParser):
    """Reads a page, and insists on its nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def drawn() -> str:
    """Draw a repository with something of everything, named by somebody who means ill."""
    store = MemoryStore()
    repository = Repository(store, new_repository(store).keys, clock=lambda: NOW)
    for day in (3, 2, 1, 0):
        began = NOW.replace(hour=1) - timedelta(days=day)
        night = Night(
            repository, began, policy="nightly", stop_starting_at=began + timedelta(hours=1)
        )
        point = night.done(1, name=EVIL, host="host-a", is_kept=day < 3, disks=("os", "data-0"))
        night.done(2, name="x\x00\x1b[31m\u202egnp.exe", host="host-b")
        night.failed(3, f"{EVIL} on https://x/blob?sig=canary&se=1", name='"onload="alert(1)')
        night.end(80, expected_minutes=70)
        if day == 1:
            verified(repository, NOW, [point])
            flags.put_flag(repository, point.vm.key, point.id, (EVIL,), NOW)
    return page(gather(repository, Wanted(zone=ZoneInfo("Europe/Berlin"))), "Europe/Berlin")


def test_it_is_well_formed(drawn: str) -> None:
    tags = {tag for tag, _ in Checked(drawn).tags}
    assert {"svg", "table", "title", "desc", "th", "h1"} <= tags


def test_every_picture_is_xml_with_a_title_and_a_description(drawn: str) -> None:
    found = re.findall(r"<svg.*?</svg>", drawn, re.DOTALL)
    pictures = [ET.fromstring(text) for text in found]  # noqa: S314 - our own page
    told = [svg for svg in pictures if svg.get("role") == "img"]
    assert len(told) == 2, "growth and one job"
    for svg in told:
        ids = {one.get("id"): one for one in svg.iter() if one.get("id")}
        for name in str(svg.get("aria-labelledby")).split():
            assert ids[name].text
    # The others stand beside the number that they show.
    assert all(svg.get("aria-hidden") == "true" for svg in pictures if svg not in told)


def test_names_and_reasons_are_text_whatever_they_are(drawn: str) -> None:
    """A VM called ``<script>alert(1)</script>`` is shown so, and nothing of it is run."""
    read = Checked(drawn)
    assert "script" not in {tag for tag, _ in read.tags}
    assert any(text.startswith(EVIL) for text in read.texts)
    handlers = {name for _, attributes in read.tags for name in attributes if name[:2] == "on"}
    assert handlers == set()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", drawn)


def test_it_asks_nobody_for_anything_and_holds_no_secret(drawn: str) -> None:
    read = Checked(drawn)
    assert "canary" not in drawn
    assert not [
        attributes
        for _, attributes in read.tags
        if attributes.keys() & {"src", "href", "srcset", "action", "data", "xlink:href"}
    ]
    assert not re.search(r"@import|url\(|javascript:", drawn)
    policies = [a["content"] for t, a in read.tags if t == "meta" and "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_colour_is_never_the_only_sign(drawn: str) -> None:
    """Each state of a day has a mark of its own, a text, and a place in the legend."""
    assert MARKS.keys() == LEGEND.keys()
    assert len(set(MARKS.values())) == len(MARKS)
    css = (Path(module.__file__).parent / "templates" / "page.css").read_text()
    assert all(f".{state} {{" in css for state in MARKS)
    cells = re.findall(r'<td class="cell (\w+)" title="[^"]+">(.)</td>', drawn)
    assert cells.count(("failed", "✗")) == 4
    assert len(cells) == 3 * 30
    assert all(MARKS[state] == mark for state, mark in cells)


def test_every_table_has_headers_and_every_moment_a_time_zone(drawn: str) -> None:
    for table in re.findall(r"<table.*?</table>", drawn, re.DOTALL):
        assert 'scope="col"' in table
        assert 'scope="row"' in table
    assert "All times are Europe/Berlin (+0100 now)." in drawn
    assert "as of 2026-11-22 15:00" in drawn


def test_it_fits_paper_phones_and_dark_rooms() -> None:
    css = (Path(module.__file__).parent / "templates" / "page.css").read_text()
    for condition in ("prefers-color-scheme: dark", "media print", "max-width: 40rem"):
        assert condition in css
    colours = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    light, dark = (set(re.findall(r"(--[\w-]+):", text)) for text in colours)
    assert light == dark


def test_an_empty_repository_says_so() -> None:
    store = MemoryStore()
    repository = Repository(store, new_repository(store).keys, clock=lambda: NOW)
    text = page(gather(repository, Wanted(zone=UTC)), "UTC")
    Checked(text)
    assert "Nothing." in text
    assert "No job has ended yet." in text
