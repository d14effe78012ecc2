"""What goes wrong has a page of ours: what it was, what to do now, and a way out."""

import re
import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from deploy.demo import Demo
from tests.browser.visitor import Visitor, violations

Someone = Callable[..., Visitor]
PHONE = {"width": 390, "height": 844}
AN_ID = uuid.UUID(int=1)
# Who opens which address, and what is said there.
SAID = [
    ("viewer", "/admin/nothing/here/", 404, "There is nothing at /admin/nothing/here/."),
    ("viewer", f"/admin/training/job/{AN_ID}/change/", 404, "There is no such job."),
    ("viewer", "/admin/models/card_fraud/versions/99/", 404, "There is no such version."),
    ("viewer", "/admin/training/builtenvironment/none/change/", 404, "no such environment"),
    ("viewer", "/admin/audit/", 403, "Your account may not do this."),
    ("operator", "/admin/auth/user/", 403, "Your account may not do this."),
    ("operator", "/admin/training/job/act/", 405, "reached by a button"),
]


@pytest.mark.parametrize(("group", "path", "status", "words"), SAID)
def test_an_error_says_what_it_is_and_leads_on(
    someone: Someone, group: str, path: str, status: int, words: str
):
    visitor = someone(group)
    answer = visitor.page.goto(visitor.url + path)
    assert answer is not None and answer.status == status
    main = visitor.page.locator("main")
    expect(main).to_contain_text(words)
    expect(visitor.page.locator("#nav")).to_be_visible()
    assert violations(visitor.page) == []
    visitor.page.set_viewport_size(PHONE)
    assert visitor.overflow() <= 0, visitor.wide()
    main.get_by_role("link", name="Home").last.click()
    visitor.page.wait_for_url("**/admin/")


def test_a_job_that_is_gone_can_be_looked_for_where_that_is_said(someone: Someone):
    visitor = someone("viewer")
    visitor.goto(f"/admin/training/job/{AN_ID}/change/")
    visitor.page.get_by_label("Words of a job").fill("fraud")
    visitor.press("Enter")
    visitor.page.wait_for_url(re.compile("text=fraud"))


def test_a_form_that_is_too_old_says_so(someone: Someone):
    visitor = someone()
    visitor.goto("/admin/queue/ask/?act=pause")
    visitor.page.context.clear_cookies(name="csrftoken")
    visitor.button("Pause admission").click()
    expect(visitor.page.locator("main")).to_contain_text("This form is too old")


def test_a_host_that_is_not_ours_is_refused_in_words(someone: Someone, console: Demo):
    visitor = someone("viewer")
    answer = visitor.page.context.request.get(
        f"{console.url}/admin/", headers={"Host": "other.example", "Accept": "text/html"}
    )
    assert answer.status == 400
    assert "MLOPS_ALLOWED_HOSTS" in answer.text() and "<h1>" in answer.text()
