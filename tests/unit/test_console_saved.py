"""The list of jobs: what is kept by a name, what came meanwhile, and the beginning of an id."""

import html
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from tests.fixtures.people import somebody
from tests.fixtures.plans import plan_of
from tests.fixtures.sent_jobs import a_job
from training.console.saved import LISTS_MOST
from training.listing import JobFilter, page_of_jobs
from training.models import SavedList

pytestmark = pytest.mark.django_db
LIST = "/admin/training/job/"


@pytest.fixture
def viewer() -> Client:
    return somebody("viewer", name="vera")


def save(client: Client, name: str, query: str) -> str:
    sent = {"name": name, "query": query}
    return client.post(f"{LIST}save/", sent, follow=True).content.decode()


# -- lists that are kept ---------------------------------------------------------------------------
def test_filters_are_kept_by_a_name_without_the_place_in_the_list(viewer: Client):
    page = save(viewer, "  my   failures ", "status=failed&cursor=abc&owner=")
    assert SavedList.objects.get().query == "status=failed"
    assert "Saved as “my failures”." in page
    assert re.search(r'href="\?status=failed" aria-current="page"[^>]*>my failures<', page)


def test_a_name_that_is_taken_names_the_newer_list(viewer: Client):
    save(viewer, "mine", "status=failed")
    save(viewer, "mine", "status=running")
    assert [one.query for one in SavedList.objects.all()] == ["status=running"]


def test_what_one_keeps_nobody_else_sees_or_forgets(viewer: Client):
    save(viewer, "secret list", "status=failed")
    other = somebody("operator", name="otto")
    assert "secret list" not in other.get(LIST).content.decode()
    other.post(f"{LIST}forget/", {"saved": SavedList.objects.get().pk})
    assert SavedList.objects.count() == 1


def test_a_list_is_forgotten_and_stays_where_it_is(viewer: Client):
    save(viewer, "mine", "status=failed")
    one = SavedList.objects.get()
    answer = viewer.post(f"{LIST}forget/", {"saved": one.pk})
    assert answer["Location"] == f"{LIST}?status=failed"
    assert not SavedList.objects.exists()


@pytest.mark.parametrize("saved", ["", "x", "²", "99999"])
def test_what_is_no_saved_list_is_told(viewer: Client, saved: str):
    page = viewer.post(f"{LIST}forget/", {"saved": saved}, follow=True).content.decode()
    assert "There is no such saved list any more." in page


@pytest.mark.parametrize(
    ("name", "query"),
    [("", "status=failed"), ("n" * 61, "status=failed"), ("a", ""), ("a", "text=" + "x" * 2000)],
)
def test_what_cannot_be_kept_is_told_and_not_kept(viewer: Client, name: str, query: str):
    assert "Not saved" in save(viewer, name, query)
    assert not SavedList.objects.exists()


def test_so_many_are_kept_and_no_more(viewer: Client):
    vera = User.objects.get(username="vera")
    SavedList.objects.bulk_create(
        SavedList(person=vera, name=f"n{number}", query="status=failed")
        for number in range(LISTS_MOST)
    )
    assert "Forget one first" in save(viewer, "one more", "status=failed")
    assert "Saved as" in save(viewer, "n1", "status=running")


def test_a_name_is_a_strangers_text(viewer: Client):
    page = save(viewer, "<b>\u202ex", "status=failed")
    assert "<b>\u202e" not in page and "&lt;b&gt;\\u202ex" in page


# -- what came meanwhile ---------------------------------------------------------------------------
def newer(client: Client, page: str) -> str:
    found = re.search(r'id="newer" hx-get="([^"]+)"', page)
    assert found is not None
    return client.get(html.unescape(found[1])).content.decode()


def test_jobs_that_come_while_one_looks_are_counted_and_not_put_in(viewer: Client, room: Any):
    a_job()
    page = viewer.get(LIST).content.decode()
    assert "new job" not in newer(viewer, page)
    a_job()
    a_job()
    told = newer(viewer, page)
    assert "2 new jobs, show them" in told and f'href="{LIST}"' in told
    assert "2 new jobs" in newer(viewer, told), "it asks for itself again"


def test_only_those_of_this_list_are_counted(viewer: Client, room: Any):
    page = viewer.get(f"{LIST}?owner=ada").content.decode()
    a_job(owner="bob")
    assert "new job" not in newer(viewer, page)
    a_job(owner="ada")
    assert "1 new job, show it" in newer(viewer, page)


def test_an_older_page_does_not_ask(viewer: Client, room: Any):
    for _ in range(3):
        a_job()
    page = viewer.get(f"{LIST}?limit=1").content.decode()
    older = re.search(r'href="(\?[^"]*cursor=[^"]+)"', page)
    assert older is not None
    assert 'id="newer"' not in viewer.get(LIST + html.unescape(older[1])).content.decode()


def test_a_place_that_is_none_is_not_found(viewer: Client):
    assert viewer.get(f"{LIST}newer/?seen=x").status_code == 404


# -- the beginning of an id ------------------------------------------------------------------------
def scripts(page: str) -> list[str]:
    return re.findall(r'<td class="lead"><a [^>]*>([^<]*)</a>', page)


def found_by(client: Client, **asked: str) -> list[str]:
    return scripts(client.get(LIST, asked).content.decode())


def test_the_first_characters_of_an_id_find_its_job(viewer: Client, room: Any):
    job = a_job(script_name="this.py")
    a_job(script_name="other.py")
    whole = str(job.pk)
    for begun in (whole[:8], whole[:13].upper(), f" {job.pk.hex[:20]} ", whole[:35]):
        assert found_by(viewer, text=begun) == ["this.py"], begun


def test_they_and_other_filters_go_together(viewer: Client, room: Any):
    start = str(a_job(owner="ada").pk)[:8]
    assert found_by(viewer, text=start, owner="ada", tag="team=growth") == ["train.py"]
    assert found_by(viewer, text=start, owner="bob") == []


def test_what_begins_no_id_is_looked_for_as_a_word(viewer: Client, room: Any):
    a_job(script_name="deadbeef.py")
    a_job(script_name="facade.py")
    assert found_by(viewer, text="deadbeef") == ["deadbeef.py"]
    assert found_by(viewer, text="facade") == ["facade.py"]
    assert found_by(viewer, text="deadbee") == []


def test_a_new_job_whose_id_begins_otherwise_is_not_counted(viewer: Client, room: Any):
    page = viewer.get(LIST, {"text": str(a_job().pk)[:8]}).content.decode()
    a_job()
    assert "new job" not in newer(viewer, page)


def test_the_api_finds_a_job_by_the_beginning_of_its_id_too(api: Client, room: Any):
    job = a_job()
    found = api.get(f"/mlops/training/jobs?text={str(job.pk)[:8]}").json()["jobs"]
    assert [each["job_id"] for each in found] == [str(job.pk)]


def test_the_beginning_of_an_id_is_read_from_the_index_of_ids(room: Any):
    job = a_job()
    with CaptureQueriesContext(connection) as asked:
        page = page_of_jobs(JobFilter(id_start=job.pk.hex[:8]), limit=50)
    assert [found.pk for found in page.jobs] == [job.pk] and len(asked) == 2
    for query in asked.captured_queries:
        assert not plan_of(query["sql"]).reads_all_of("training_job")
