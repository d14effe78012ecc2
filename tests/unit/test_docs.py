"""The documents: links lead somewhere, and every setting has its line."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DOCUMENTS = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md")]
CONSOLE = CHECKOUT / "docs" / "CONSOLE.md"
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")
VARIABLE = re.compile(r'"(MLOPS_[A-Z_]+|PORT|MLFLOW_TRACKING_URI|DATABASE_URL|REDIS_URL)"')
# Passed from `make run` to one command, and of no use to anybody else.
PRIVATE = {"MLOPS_ADMIN_PASSWORD"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(document: Path):
    links = LINK.findall(document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_guide_that_the_contract_names_is_there():
    for name in (
        "SCRIPT_TRAINING_INFERENCE",
        "API_CLEANUP_SUMMARY",
        "SCRIPT_TRAINING_IMPLEMENTATION",
    ):
        assert (CHECKOUT / "docs" / f"{name}.md").is_file()


def test_every_setting_has_a_line_in_the_table_and_every_line_a_setting():
    table = (CHECKOUT / "docs" / "settings.md").read_text()
    told = set(re.findall(r"`((?:MLOPS|MLFLOW|PORT|DATABASE_URL|REDIS_URL)[A-Z_]*)`", table))
    readers = (CHECKOUT / "mlops_site" / "settings.py", CHECKOUT / "sandbox" / "build_rules.py")
    read = {name for path in readers for name in VARIABLE.findall(path.read_text())}
    assert read - PRIVATE - told == set()
    elsewhere = {"MLOPS_BIND", "MLOPS_BUILD_NO_PROXY", "MLOPS_TRUSTED_PROXIES"}
    elsewhere |= {"MLOPS_BASE_IMAGES", "MLOPS_BASE_IMAGE_PACKAGES", "MLOPS_BASE_MAX_AGE_DAYS"}
    assert told - read - elsewhere == set()


def test_every_picture_of_the_console_is_shown_and_every_one_shown_is_there():
    shown = set(re.findall(r'(?:src|srcset)="(images/[^"]+)"', CONSOLE.read_text()))
    there = {str(path.relative_to(CONSOLE.parent)) for path in CONSOLE.parent.glob("images/*.png")}
    assert shown == there != set()


def test_a_picture_is_shown_in_the_theme_of_the_reader_and_told_to_whoever_sees_none():
    for light in re.findall(r"<picture>.*?</picture>", CONSOLE.read_text()):
        name = re.findall(r'src="images/(.+)-light\.png"', light)
        assert re.findall(r'srcset="images/(.+)-dark\.png"', light) == name != []
        assert re.search(r'alt="[^"]{6,}"', light)


def test_the_pictures_of_the_console_stay_small():
    assert sum(path.stat().st_size for path in CONSOLE.parent.glob("images/*")) < 2_500_000
