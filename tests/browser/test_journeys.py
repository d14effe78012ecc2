"""What people come for, from the first click to the last, on the real platform."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect

from deploy.browser import log_in, window
from deploy.demo import PEOPLE, make_people
from deploy.trial import Platform
from tests.browser.visitor import Visitor

COMES_SECONDS = 60
# It ends when it is told to, and counts until then; hostile in what it prints.
COUNTS = """
import itertools, threading
print("\\x1b[31mred\\x1b[0m <b>bold</b> \\x1b]8;;http://a.example\\x07link \\u202eback")
for number in itertools.count():
    print(f"line {number}", flush=True)
    threading.Event().wait(0.2)
"""


MODEL = "factor_model"
# Without packages of its own, so that its environment is there at once.
FACTOR = """\
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

print("factor FACTOR", flush=True)


class Times(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [FACTOR * float(value) for value in model_input["x"]]


# Said instead of inferred, which takes scipy.
x = Schema([ColSpec("double", "x")])
with mlflow.start_run():
    mlflow.log_param("factor", FACTOR)
    mlflow.log_metric("score", FACTOR / 10)
    mlflow.pyfunc.log_model("model", python_model=Times(), signature=ModelSignature(inputs=x))
"""


# There is no scipy in its environment: MLflow writes `any` and says nothing that would end the job.
LOST = """\
import mlflow
import pandas as pd
from mlflow.models import infer_signature


class Sums(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [float(x) + float(y) for x, y in zip(model_input["x"], model_input["y"])]


signature = infer_signature(pd.DataFrame({"x": [1.0], "y": [2.0]}))
with mlflow.start_run():
    mlflow.pyfunc.log_model("model", python_model=Sums(), signature=signature)
"""


@pytest.fixture(scope="package")
def people(chromium: Browser, platform: Platform) -> dict[str, Any]:
    """Somebody of each group, logged in to the real platform."""
    make_people(platform.home)
    return {group: log_in(chromium, platform.url, name) for group, name in PEOPLE.items()}


@pytest.fixture
def scientist(chromium: Browser, platform: Platform, people: dict[str, Any]) -> Iterator[Visitor]:
    with window(chromium, storage_state=people["data scientist"]) as context:
        visitor = Visitor(context.new_page(), url=platform.url)
        yield visitor
        assert visitor.problems == []


@pytest.fixture
def operator(chromium: Browser, platform: Platform, people: dict[str, Any]) -> Iterator[Visitor]:
    with window(chromium, storage_state=people["operator"]) as context:
        visitor = Visitor(context.new_page(), url=platform.url)
        yield visitor
        assert visitor.problems == []


def log_of(visitor: Visitor) -> Locator:
    return visitor.page.get_by_role("region", name="Log lines")


def comes(locator: Locator, words: str | re.Pattern[str]) -> None:
    """By itself: nobody reloads the page."""
    expect(locator).to_contain_text(words, timeout=COMES_SECONDS * 1000)


def test_a_log_is_followed_live_a_job_cancelled_and_run_again(
    platform: Platform, operator: Visitor
):
    job_id = platform.upload(COUNTS)
    operator.goto(f"/admin/training/job/{job_id}/change/")
    head, log = operator.page.locator("#job-head"), log_of(operator)
    comes(log, "line 3")
    comes(head, "Training")
    comes(log, "line 8")
    # What was printed is text: no markup, no link, and what steers is shown.
    assert log.locator("b").count() == 0
    assert log.get_by_role("link", name="link", exact=True).count() == 0
    expect(log.locator(".a-red")).to_have_text("red")
    comes(log, "\\u202eback")
    operator.button("Cancel…").click()
    asked = operator.page.get_by_role("dialog")
    expect(asked).to_contain_text("train.py")
    asked.locator("button[value=cancel]").click()
    comes(head, "Cancelled")
    comes(log, "line 8")
    assert platform.ended(job_id)["status"] == "cancelled"
    operator.button("Rerun…").click()
    operator.page.get_by_role("dialog").locator("button[value=rerun]").click()
    operator.page.wait_for_url(lambda url: job_id not in url)
    comes(log_of(operator), "line 1")
    again = operator.path.split("/")[-3]
    assert platform.post(f"/mlops/training/jobs/{again}/cancel", {}).status_code == 202
    comes(operator.page.locator("#job-head"), "Cancelled")


def test_a_job_that_ends_says_so_on_a_page_that_is_open(platform: Platform, scientist: Visitor):
    job_id = platform.upload("import time\nprint('first', flush=True)\ntime.sleep(3)\n1 / 0\n")
    scientist.goto(f"/admin/training/job/{job_id}/change/")
    comes(log_of(scientist), "ZeroDivisionError")
    comes(scientist.page.locator("#job-head"), "Script error")
    comes(scientist.page.locator("#job-head"), "division by zero")
    scientist.press("e")
    expect(log_of(scientist).locator(".is-picked")).to_have_count(1)


def write_script(visitor: Visitor, script: str) -> None:
    """Pasted into the editor, in the place of what stands there."""
    visitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visitor.page.evaluate("(text) => navigator.clipboard.writeText(text)", script)
    visitor.page.locator(".cm-content").click()
    visitor.press("ControlOrMeta+a ControlOrMeta+v")


def send(visitor: Visitor) -> str:
    """Submits the form once the dry run has seen it; returns the job's id."""
    comes(visitor.page.locator("#verdict"), re.compile("accepted"))
    visitor.button("Submit").click()
    visitor.page.wait_for_url(re.compile(r"/admin/training/job/[0-9a-f-]{36}/change/"))
    return visitor.path.split("/")[-3]


def answer_dialog(visitor: Visitor, action: str) -> None:
    visitor.page.get_by_role("dialog").locator(f"button[value={action}]").click()
    visitor.page.wait_for_load_state()


def test_from_the_form_to_a_model_that_answers_and_back_to_the_one_before(
    platform: Platform, scientist: Visitor, operator: Visitor
):
    # Submit from the form; the log comes by itself, and so does the end.
    scientist.goto("/admin/jobs/new/")
    scientist.page.get_by_label("Name of the script").fill("factor.py")
    scientist.page.get_by_label("Experiment").fill("factors")
    scientist.page.get_by_label("Model", exact=True).fill(MODEL)
    scientist.page.get_by_label(re.compile("^One per line")).fill("")
    write_script(scientist, FACTOR.replace("FACTOR", "2"))
    first = send(scientist)
    comes(log_of(scientist), "factor 2")
    comes(scientist.page.locator("#job-head"), "Completed")

    # Run it again with a change.
    scientist.link("Rerun with changes").click()
    comes(scientist.page.locator(".cm-content"), "factor 2")
    write_script(scientist, FACTOR.replace("FACTOR", "3"))
    second = send(scientist)
    assert second != first
    comes(scientist.page.locator("#job-head"), "Completed")

    # What was changed, and what came of it.
    scientist.link("Compare").click()
    expect(scientist.page.get_by_role("heading", level=1)).to_have_text("Compare two jobs")
    expect(scientist.page.get_by_role("deletion").first).to_have_text("2")
    expect(scientist.page.get_by_role("insertion").first).to_have_text("3")
    expect(scientist.page.get_by_role("region", name="Metrics")).to_contain_text("+0.1000")

    # Promote the first, then the second.
    for version in ("1", "2"):
        operator.goto(f"/admin/models/{MODEL}/versions/{version}/")
        operator.button("Promote…").click()
        asked = operator.page.get_by_role("dialog")
        if version == "1":
            asked.get_by_label(re.compile("^(New alias|Alias)")).fill("champion")
        else:
            asked.get_by_role("radio", name=re.compile("champion")).check()
        answer_dialog(operator, "promote")
        comes(operator.page.get_by_role("status").first, f"names version {version} now")
    assert platform.get(f"/mlops/models/{MODEL}/aliases/champion").json()["version"] == "2"

    # Try it: its server starts and says what the model takes; the form comes by itself.
    comes(operator.page.locator("#try"), "a form made from the signature")
    operator.page.get_by_label(re.compile("^x")).fill("1.5")
    operator.button("Predict").click()
    comes(operator.page.locator("#tried"), "4.5")

    # Roll back.
    operator.button("Roll champion back to 1…").click()
    answer_dialog(operator, "roll_back")
    comes(operator.page.get_by_role("status").first, "names version 1 again")
    assert platform.get(f"/mlops/models/{MODEL}/aliases/champion").json()["version"] == "1"


def test_a_signature_that_was_lost_is_told_and_the_model_answers_all_the_same(
    platform: Platform, scientist: Visitor
):
    scientist.goto("/admin/jobs/new/")
    scientist.page.get_by_label("Name of the script").fill("sums.py")
    scientist.page.get_by_label("Experiment").fill("sums")
    scientist.page.get_by_label("Model", exact=True).fill("sums_model")
    scientist.page.get_by_label(re.compile("^One per line")).fill("")
    write_script(scientist, LOST)
    send(scientist)
    comes(scientist.page.locator("#job-head"), "Completed")
    scientist.page.reload()
    comes(scientist.page.locator("#signature-lost"), "The job's environment has no scipy.")

    scientist.goto("/admin/models/sums_model/versions/1/")
    comes(scientist.page.locator("#signature-lost"), "wrote a signature of the type `any`")
    comes(scientist.page.locator("#files"), "python_function")
    # A new version is loaded without being asked for; what can be asked of it comes by itself.
    comes(scientist.page.locator("#try"), "put in its columns by their names")
    scientist.page.get_by_label(re.compile("^Inputs")).fill('[{"x": 1, "y": 2.5}]')
    scientist.button("Predict").click()
    comes(scientist.page.locator("#tried"), "3.5")
    schema = platform.get("/mlops/models/sums_model/versions/1/schema").json()
    assert "usually scipy or pandas" in schema["hint"]


def test_features_are_materialised_and_looked_up(operator: Visitor):
    operator.goto("/admin/features/")
    # Whoever is first waits until a worker has read the store.
    materialise = operator.button("Materialise all now…")
    expect(materialise).to_be_visible(timeout=COMES_SECONDS * 1000)
    materialise.click()
    operator.page.get_by_role("dialog").locator("button.btn-primary").click()
    operator.page.wait_for_load_state()
    newest = operator.page.get_by_role("table", name="Materialisations").locator("tbody tr").first
    comes(newest, "Completed")
    operator.link("customer_activity").first.click()
    operator.page.get_by_label("customer_id").fill("1")
    operator.button("Look up").click()
    comes(operator.page.locator("#lookup"), "All 3 features have a value.")


def test_the_environment_of_a_job_tells_how_it_was_built(platform: Platform, operator: Visitor):
    job_id = platform.upload("print('done')\n")
    platform.ended(job_id)
    operator.goto(f"/admin/training/job/{job_id}/change/")
    operator.page.locator("#job-facts").get_by_role("link").filter(
        has_text=re.compile("^[0-9a-f]{12}$")
    ).click()
    operator.page.wait_for_url(re.compile("/builtenvironment/"))
    comes(operator.page.locator("#environment-facts"), "Asked for")
    expect(operator.page.get_by_role("region", name="Packages")).to_contain_text("mlflow-skinny")
    expect(operator.page.locator("#log")).to_contain_text(
        re.compile("lines? shown|Nothing was printed")
    )
    operator.link("Environments").first.click()
    expect(operator.page.get_by_role("table", name="Environments")).to_contain_text("Ready")
