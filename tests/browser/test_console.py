"""The console in somebody's hands: lists, keys, dialogs, a log, the theme. Nothing runs here."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from deploy.demo import PASSWORD, Demo
from mlops_site.demo.pages import name_of
from tests.browser.visitor import Visitor

Someone = Callable[..., Visitor]
JOBS = "/admin/training/job/"
ENVIRONMENTS = "/admin/training/builtenvironment/"
FEAST_LOADS_MILLISECONDS = 60_000
# As when another tab is opened before this one, and closed again.
HIDES = "Object.defineProperty(document, 'hidden', {value: true, configurable: true})"
SHOWS = "delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))"
PHONE = {"width": 390, "height": 800}


def rows(page: Page):
    return page.locator("[data-list] tbody tr")


def current(page: Page):
    return page.locator("tr[aria-current]")


# -- logging in ------------------------------------------------------------------------------------
def test_a_wrong_password_is_told_beside_the_form_and_a_right_one_leads_on(chromium, console: Demo):
    context = chromium.new_context()
    visitor = Visitor(context.new_page(), url=console.url)
    visitor.goto(JOBS + "?status=failed")
    visitor.page.get_by_label("Name").fill("otto")
    visitor.page.get_by_label("Password").fill("wrong")
    visitor.button("Log in").click()
    expect(visitor.page.get_by_text("Name or password is wrong")).to_be_visible()
    visitor.page.get_by_label("Password").fill(PASSWORD)
    visitor.page.keyboard.press("Enter")
    visitor.page.wait_for_url(re.compile(r"status=failed$"))
    assert visitor.h1() == "Jobs"
    context.close()


def test_somebody_who_logs_out_is_out(chromium, console: Demo):
    context = chromium.new_context()
    visitor = Visitor(context.new_page(), url=console.url)
    visitor.goto("/admin/login/")
    visitor.page.get_by_label("Name").fill("vera")
    visitor.page.get_by_label("Password").fill(PASSWORD)
    visitor.page.keyboard.press("Enter")
    visitor.button("Log out").click()
    visitor.page.wait_for_load_state()
    visitor.goto(JOBS)
    assert name_of(visitor.path) == "login"
    context.close()


# -- keys ------------------------------------------------------------------------------------------
def test_g_and_a_letter_go_to_a_page(someone: Someone):
    visitor = someone()
    visitor.goto("/admin/")
    visitor.press("g j")
    visitor.page.wait_for_url(f"**{JOBS}")
    visitor.press("g h")
    visitor.page.wait_for_url("**/admin/")
    assert visitor.problems == []


def test_a_slash_goes_to_the_search_and_letters_that_are_written_there_do_nothing_else(
    someone: Someone,
):
    visitor = someone()
    visitor.goto("/admin/")
    visitor.press("/")
    visitor.page.keyboard.type("gj?")
    assert visitor.page.evaluate("document.activeElement.value") == "gj?"
    assert visitor.path == "/admin/"


def test_a_question_mark_tells_all_keys_and_escape_closes_it(someone: Someone):
    visitor = someone("viewer")
    visitor.goto(JOBS)
    visitor.press("?")
    told = visitor.page.get_by_role("dialog", name="Keyboard")
    expect(told).to_be_visible()
    visitor.press("Escape")
    expect(told).to_be_hidden()


def test_a_list_is_walked_chosen_from_and_opened_with_j_k_x_and_o(someone: Someone):
    visitor = someone()
    visitor.goto(JOBS)
    visitor.press("j j k x")
    expect(current(visitor.page)).to_have_count(1)
    expect(rows(visitor.page).first).to_have_attribute("aria-current", "true")
    expect(visitor.page.get_by_text("1 selected")).to_be_visible()
    wanted = rows(visitor.page).first.locator(".lead a").get_attribute("href")
    visitor.press("o")
    visitor.page.wait_for_url(f"**{wanted}")
    assert visitor.problems == []


def test_everything_on_a_page_is_come_to_with_tab_and_shows_where_one_is(someone: Someone):
    visitor = someone()
    visitor.goto(JOBS)
    seen = set()
    for _ in range(25):
        visitor.press("Tab")
        seen.add(visitor.page.evaluate("document.activeElement.outerHTML.slice(0, 120)"))
        outline = visitor.page.evaluate(
            "(({outlineStyle, boxShadow}) => outlineStyle + boxShadow)"
            "(getComputedStyle(document.activeElement))"
        )
        assert outline != "nonenone", visitor.page.evaluate("document.activeElement.outerHTML")
    assert len(seen) > 20


# -- lists -----------------------------------------------------------------------------------------
def test_filters_are_links_that_can_be_taken_away_again(someone: Someone):
    visitor = someone("viewer")
    visitor.goto(JOBS)
    visitor.link("Failed").first.click()
    visitor.page.wait_for_url(re.compile("status=failed"))
    states = rows(visitor.page).locator(".status").all_inner_texts()
    assert states and {state.strip() for state in states} == {"Failed"}
    assert visitor.problems == []


def test_a_search_from_any_page_finds_jobs_by_a_word(someone: Someone):
    visitor = someone("viewer")
    visitor.goto("/admin/")
    visitor.press("/")
    visitor.page.keyboard.type("fraud")
    visitor.press("Enter")
    visitor.page.wait_for_url(re.compile("text=fraud"))
    scripts = rows(visitor.page).locator(".lead").all_inner_texts()
    assert scripts and all("fraud" in script.lower() for script in scripts)


def test_the_way_to_older_jobs_and_back_shows_each_once(someone: Someone):
    visitor = someone("viewer")
    visitor.goto(JOBS)
    first = rows(visitor.page).locator(".lead a").evaluate_all("all => all.map(a => a.href)")
    visitor.link("Older").click()
    visitor.page.wait_for_url(re.compile("cursor="))
    second = rows(visitor.page).locator(".lead a").evaluate_all("all => all.map(a => a.href)")
    assert first and second and not set(first) & set(second)
    visitor.link("Newest").click()
    visitor.page.wait_for_url(re.compile(r"/job/\??$"))


def test_what_is_asked_for_many_jobs_is_told_first_and_done_after_that(someone: Someone):
    visitor = someone()
    visitor.goto(JOBS + "?status=queued")
    count = rows(visitor.page).count()
    visitor.page.get_by_label("Select all").or_(visitor.page.locator("[data-all]")).first.check()
    expect(visitor.page.get_by_text(f"{count} selected")).to_be_visible()
    visitor.button("Cancel…").click()
    asked = visitor.page.get_by_role("dialog")
    expect(asked).to_contain_text(f"Cancel {count} jobs")
    expect(asked.get_by_role("link", name="Keep them")).to_be_focused()
    visitor.press("Escape")
    expect(asked).to_have_count(0)
    assert rows(visitor.page).count() == count
    visitor.button("High priority…").click()
    visitor.page.get_by_role("dialog").locator("button[value=high]").click()
    visitor.page.wait_for_load_state()
    expect(visitor.page.get_by_role("status").first).to_contain_text("priority")
    assert visitor.problems == []


def test_what_a_viewer_may_never_do_is_not_there(someone: Someone):
    visitor = someone("viewer")
    visitor.goto(JOBS)
    assert visitor.page.locator("[data-list] input[type=checkbox]").count() == 0
    rows(visitor.page).first.locator(".lead a").click()
    visitor.page.wait_for_load_state()
    assert visitor.button("Cancel…").count() == visitor.button("Rerun…").count() == 0


# -- one job ---------------------------------------------------------------------------------------
@pytest.fixture
def failed(someone: Someone) -> Visitor:
    """The page of a job whose script ended with an error."""
    visitor = someone()
    visitor.goto(JOBS + "?reason=script_error")
    rows(visitor.page).first.locator(".lead a").click()
    visitor.page.wait_for_load_state()
    return visitor


def test_a_log_is_in_colours_and_e_leads_to_its_error(failed: Visitor):
    log = failed.page.get_by_role("region", name="Log lines")
    expect(log.locator(".a-green").first).to_be_visible()
    assert "\x1b" not in log.inner_text() and "[32m" not in log.inner_text()
    failed.press("e")
    expect(log.locator(".is-picked")).to_have_count(1)
    expect(log.locator(".is-picked")).to_be_in_viewport()
    assert failed.problems == []


def test_a_line_of_a_log_has_a_link_of_its_own(failed: Visitor):
    log = failed.page.get_by_role("region", name="Log lines")
    line = log.locator("li").nth(2)
    expect(line).to_be_visible()
    wanted = line.get_attribute("id") or ""
    failed.goto(f"{failed.path}#{wanted}")
    failed.page.reload()
    expect(log.locator("li.is-picked")).to_have_id(wanted)


def test_lines_are_wrapped_or_not_as_one_likes(failed: Visitor):
    wrap = failed.button("Wrap")
    expect(wrap).to_have_attribute("aria-pressed", "true")
    failed.press("w")
    expect(wrap).to_have_attribute("aria-pressed", "false")


# -- the frame -------------------------------------------------------------------------------------
def test_a_theme_that_was_chosen_stays_on_the_next_page(someone: Someone):
    visitor = someone("viewer")
    visitor.goto("/admin/")
    theme = visitor.page.locator("[data-theme-toggle]")
    theme.click()
    theme.click()
    visitor.goto(JOBS)
    assert visitor.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert visitor.problems == []


def test_on_a_phone_the_navigation_is_behind_a_button(someone: Someone):
    visitor = someone("viewer", viewport=PHONE)
    visitor.goto("/admin/")
    jobs = visitor.page.locator("#nav").get_by_role("link", name="Jobs", exact=True)
    expect(jobs).to_be_hidden()
    visitor.button("Menu").click()
    expect(jobs).to_be_visible()
    jobs.click()
    visitor.page.wait_for_url(f"**{JOBS}")
    assert visitor.overflow() <= 0, visitor.wide()


def test_every_moment_is_told_relative_and_exact(someone: Someone):
    visitor = someone("viewer")
    visitor.goto("/admin/")
    moments = visitor.page.locator("time")
    assert moments.count() > 5
    for title in moments.evaluate_all("all => all.map(one => one.title)"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", title)


def test_the_first_page_refreshes_itself_and_not_in_a_hidden_tab(someone: Someone):
    visitor = someone("viewer")
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url))
    visitor.page.clock.install()
    visitor.goto("/admin/")
    with visitor.page.expect_response("**/admin/now/"):
        visitor.page.clock.run_for(7000)
    visitor.page.evaluate(HIDES)
    asked.clear()
    visitor.page.clock.run_for(20_000)
    assert [url for url in asked if "/now/" in url] == []
    visitor.page.evaluate(SHOWS)
    with visitor.page.expect_response("**/admin/now/"):
        visitor.page.clock.run_for(1000)
    assert visitor.problems == []


# -- features and environments ---------------------------------------------------------------------
def test_a_feature_view_is_found_and_an_entity_looked_up(someone: Someone):
    visitor = someone("data scientist")
    visitor.goto("/admin/features/")
    visitor.page.get_by_role("searchbox").last.fill("monthly")
    visitor.press("Enter")
    visitor.page.wait_for_url(re.compile("monthly"))
    rows(visitor.page).get_by_role("link", name="customer_activity").click()
    visitor.page.get_by_label("customer_id").fill("not a number")
    visitor.button("Look up").click()
    expect(visitor.page.get_by_label("customer_id")).to_have_attribute("aria-invalid", "true")
    visitor.page.get_by_label("customer_id").fill("1")
    visitor.button("Look up").click()
    # The first one waits for Feast to load, and the page asks again by itself.
    expect(visitor.page.get_by_role("table", name="Values")).to_contain_text(
        "monthly_spend", timeout=FEAST_LOADS_MILLISECONDS
    )
    expect(visitor.page.locator("#lookup")).to_contain_text("All 3 features have a value.")
    assert visitor.problems == []


def test_what_is_materialised_is_told_first_and_then_stands_among_the_orders(someone: Someone):
    visitor = someone()
    visitor.goto("/admin/features/")
    visitor.button("Materialise all now…").click()
    asked = visitor.page.get_by_role("dialog")
    expect(asked).to_contain_text("customer_activity")
    asked.locator("button.btn-primary").click()
    visitor.page.wait_for_load_state()
    orders = visitor.page.get_by_role("table", name="Materialisations")
    expect(orders.locator("tbody tr").first).to_contain_text("otto")
    assert visitor.problems == []


def test_an_environment_tells_its_packages_its_build_and_who_keeps_it(someone: Someone):
    visitor = someone()
    visitor.goto(ENVIRONMENTS)
    visitor.page.get_by_role("searchbox").last.fill("lightgbm")
    visitor.press("Enter")
    visitor.page.wait_for_url(re.compile("lightgbm"))
    rows(visitor.page).locator(".lead a").first.click()
    expect(visitor.page.get_by_role("heading", level=1)).to_contain_text("lightgbm")
    build = visitor.page.get_by_role("region", name="Last build lines")
    expect(build).to_contain_text("Resolved")
    # Colours of a terminal are shown, not spelt out.
    assert "u001b" not in build.inner_text() and "[2m" not in build.inner_text()
    expect(visitor.button("Delete…")).to_be_disabled()
    expect(visitor.page.locator("#environment-head")).to_contain_text("in use")
    visitor.page.get_by_role("region", name="Jobs").get_by_role("link").last.click()
    visitor.page.wait_for_url(re.compile("/training/job/"))
    assert visitor.problems == []


def test_an_environment_that_nobody_has_can_be_asked_away(someone: Someone):
    visitor = someone()
    visitor.goto(f"{ENVIRONMENTS}?state=failed")
    rows(visitor.page).locator(".lead a").first.click()
    visitor.button("Delete…").click()
    asked = visitor.page.get_by_role("dialog")
    expect(asked).to_contain_text("Delete")
    asked.locator("button.btn-destroy, button[value=delete]").first.click()
    visitor.page.wait_for_load_state()
    expect(visitor.page.get_by_role("status").first).to_be_visible()
    assert visitor.problems == []
