"""The console's pages of features: how fresh, materialise now, and the values of an entity."""

import asyncio
import html
import re
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from inference import gateway
from inference.lookup import LOOKUPS, Lookups
from registry.feature_store import services
from registry.feature_store.marks import mark_of
from registry.models import FeatureCatalog, Materialization
from registry.online.client import FeaturesAway, FeaturesBusy, FeaturesLate
from registry.online.frames import Feature, FeatureQuestion, Gone, NotNow, NotReadable, Source
from tests.fixtures.feature_store import a_document, a_key, a_repo, a_service, a_view
from tests.fixtures.pages import words
from tests.fixtures.people import GROUPS, somebody

pytestmark = pytest.mark.django_db
LIST, NOW = reverse("admin:features"), reverse("admin:features_now")
ASK, ACT, READ = (reverse(f"admin:features_{name}") for name in ("ask", "act", "read"))
EVIL = "<script>alert(1)</script>\u202e"
MAY_LOOK_UP = {"data scientist", "operator", "administrator"}
MAY_MATERIALIZE = {"operator", "administrator"}


@pytest.fixture
def repo(settings: Any, tmp_path: Path) -> Path:
    settings.FEAST_REPO_DIR = a_repo(tmp_path / "feast")
    return settings.FEAST_REPO_DIR


@pytest.fixture
def operator() -> Client:
    return somebody("operator")


def known(repo: Path, *views: dict[str, Any], **changed: Any) -> None:
    """As a worker would have written it."""
    now, file = timezone.now(), str(repo / "registry.db")
    FeatureCatalog.objects.update_or_create(
        pk=FeatureCatalog.THE_ONE,
        defaults={
            "document": a_document(*(views or (a_view("profile"),)), **changed),
            "mark": mark_of(repo, file),
            "registry_file": file,
            "described_at": now,
            "tried_at": now,
        },
    )


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat()


def page_of(client: Client, address: str = LIST, **query: str) -> str:
    answer = client.get(address, query)
    assert answer.status_code == 200, answer.status_code
    return answer.content.decode()


def of_view(name: str) -> str:
    return reverse("admin:feature_view", args=[name])


def of_service(name: str) -> str:
    return reverse("admin:feature_service", args=[name])


def views(page: str) -> list[str]:
    """In the order of the rows."""
    table = page.split('aria-label="Feature views" data-list', 1)[-1].split("</table>")[0]
    return re.findall(r'<td class="lead"><a [^>]*>([^<]*)</a>', table)


# -- what there is ---------------------------------------------------------------------------------
def test_without_a_feature_store_the_page_says_how_to_have_one(
    operator: Client, settings: Any, tmp_path: Path
):
    settings.FEAST_REPO_DIR = tmp_path
    page = page_of(operator)
    assert "No feature store yet" in page and "MLOPS_FEAST_REPO" in page
    assert "data-refresh" not in page and "Materialise" not in words(page).partition("yet")[0]


def test_one_that_nobody_has_read_yet_is_read_and_shown_by_itself(operator: Client, repo: Path):
    page = page_of(operator)
    assert "The feature store is being read" in page
    address = html.unescape(re.search(r'hx-get="([^"]*)"[^>]*data-refresh', page).group(1))
    answer = operator.get(address)
    assert "HX-Refresh" not in answer.headers
    assert re.findall(rb' id="([\w-]+)"', answer.content) == [b"features-alive"]
    known(repo)
    assert operator.get(address).headers["HX-Refresh"] == "true"


def test_one_that_cannot_be_read_says_why(operator: Client, repo: Path):
    now = timezone.now()
    FeatureCatalog.objects.create(error="A store does not answer.", tried_at=now)
    page = words(page_of(operator))
    assert "The feature store could not be read A store does not answer." in page
    assert "What is shown" not in page and "being read for" not in page


def test_what_was_read_before_it_broke_is_shown_as_that(operator: Client, repo: Path):
    known(repo)
    FeatureCatalog.objects.update(error="A store does not answer.")
    page = page_of(operator)
    assert "What is shown is what was read" in page and views(page) == ["profile"]


def test_an_empty_store_says_how_it_is_filled(operator: Client, repo: Path):
    known(repo)
    FeatureCatalog.objects.update(document=a_document(entities=[]))
    page = words(page_of(operator))
    assert "No feature view yet" in page and "feast apply" in page


def test_a_row_says_what_a_view_has_and_how_fresh_it_is(operator: Client, repo: Path):
    features = [{"name": f"f{n}", "type": "Int64", "description": ""} for n in range(6)]
    known(
        repo,
        a_view("fresh", filled_until=ago(minutes=5), features=features),
        a_view("stale", filled_until=ago(days=3)),
        a_view("never", filled_until=None, ttl_seconds=0.0),
        a_view("off", online=False, is_fillable=False),
        a_view("computed", kind="on_demand", is_fillable=False, entities=[]),
        services=[a_service("churn", "fresh")],
    )
    page = words(page_of(operator))
    assert "Fresh fresh f0, f1, f2, f3 and 2 more as of 5 min ago customer customers churn" in page
    assert "churn 1 d 5 min ago" in page
    assert "Older than its TTL stale" in page and "Never materialised never" in page
    assert "Not served online off" in page and "Computed when asked computed" in page
    assert "2 of 5 feature views have no value that is young enough" in page
    assert "churn customer_id 2" in page and "customer customer_id INT64" in page


def test_the_button_of_a_warning_is_for_what_it_warns_of(operator: Client, repo: Path):
    known(repo, a_view("stale", filled_until=None), a_view("fresh"))
    form = page_of(operator).split('class="note is-warn"')[1].split("</form>")[0]
    assert re.findall(r'name="feature_view" value="(\w+)"', form) == ["stale"]


def test_a_search_finds_views_by_what_is_in_them(operator: Client, repo: Path):
    key = [a_key("user_id")]
    known(repo, a_view("profile"), a_view("clicks", keys=key, features=[], entities=["user"]))
    for text, found in {"AGE": ["profile"], "user_id": ["clicks"], "customers": 2, "x": []}.items():
        shown = views(page_of(operator, text=text))
        assert (len(shown) if isinstance(found, int) else shown) == found, text
    assert "No feature view fits" in page_of(operator, text="x")


def test_the_page_of_a_view_has_everything_that_is_known_of_it(operator: Client, repo: Path):
    known(
        repo,
        a_view(
            "profile",
            description="Who they are.",
            owner="ada",
            tags={"team": "growth"},
            newest_event=ago(hours=2),
        ),
        services=[a_service("churn", "profile")],
    )
    page = words(page_of(operator, of_view("profile")))
    for told in (
        "profile Fresh",
        "filled from a batch source",
        "age In years. Int64",
        "customers file, customers.parquet, by event_timestamp",
        "Newest event online 2 h ago",
        "Who they are.",
        "team = growth",
        "Owner ada",
    ):
        assert told in page, told


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"filled_until": ago(days=2)}, "Its values are older than its TTL"),
        ({"filled_until": None}, "It was never materialised"),
    ],
)
def test_a_view_without_young_values_says_what_that_means(
    operator: Client, repo: Path, changed: dict[str, Any], told: str
):
    known(repo, a_view("profile", **changed))
    page = words(page_of(operator, of_view("profile")))
    assert told in page and "finds nothing" in page


def test_a_view_that_cannot_be_filled_says_why(operator: Client, repo: Path):
    known(repo, a_view("computed", kind="on_demand", is_fillable=False))
    page = page_of(operator, of_view("computed"))
    assert "disabled" in re.search(r'<button[^>]*id="do-materialize"[^>]*>', page).group()
    assert "is not filled from a batch source" in page


def test_the_page_of_a_service_has_its_features_by_view(operator: Client, repo: Path):
    service = a_service("churn", "profile", problem="The service names a view that is not there.")
    service["parts"][0]["called"] = "left"
    known(repo, a_view("profile"), services=[service])
    page = words(page_of(operator, of_service("churn")))
    assert "Features 2, of 1 feature view" in page and "age Int64 profile as left" in page
    assert "It cannot be asked for The service names a view" in page


def test_what_is_not_there_is_not_found(operator: Client, repo: Path):
    assert operator.get(of_view("x")).status_code == 404, "nothing was described yet"
    known(repo)
    assert operator.get(of_view("x")).status_code == 404
    assert operator.get(of_service("x")).status_code == 404


def test_what_a_stranger_wrote_is_text(operator: Client, repo: Path):
    evil = a_view(
        "evil",
        description=EVIL,
        owner=EVIL,
        tags={EVIL: EVIL},
        features=[{"name": EVIL, "type": EVIL, "description": EVIL}],
        sources=[{"name": EVIL, "kind": EVIL, "detail": EVIL, "timestamp": EVIL}],
        keys=[a_key(EVIL)],
        entities=[EVIL],
    )
    service = {**a_service("s", "evil", description=EVIL), "problem": EVIL}
    known(repo, evil, services=[service], project=EVIL, online_store=EVIL)
    Materialization.objects.create(
        feature_views=[EVIL],
        asked_by=EVIL,
        state="failed",
        error=EVIL,
        outcome=[{"name": EVIL, "until": None, "detail": EVIL, "seconds": 0}],
        asked_at=timezone.now(),
        ended_at=timezone.now(),
    )
    for address in (LIST, of_view("evil"), of_service("s")):
        page = page_of(operator, address)
        assert "<script>alert" not in page
        assert "\u202e" not in re.sub(r'<input [^>]*>|href="[^"]*"', "", page), address


def test_the_pages_ask_as_often_for_many_views_as_for_few(operator: Client, repo: Path):
    def cost(address: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            page_of(operator, address)
        return len(queries)

    known(repo, a_view("v0"), services=[a_service("s", "v0")])
    pages = (LIST, of_view("v0"), of_service("s"))
    few = [cost(address) for address in pages]
    many = [a_view(f"v{number}") for number in range(30)]
    known(repo, *many, services=[a_service("s", *(f"v{number}" for number in range(30)))])
    for number in range(30):
        Materialization.objects.create(feature_views=[f"v{number}"], asked_at=timezone.now())
    assert [cost(address) for address in pages] == few
    assert max(few) <= 15


def test_no_page_imports_feast(operator: Client, repo: Path):
    known(repo)
    before = set(sys.modules)
    page_of(operator)
    page_of(operator, of_view("profile"))
    assert "feast" not in set(sys.modules) - before


# -- materialise -----------------------------------------------------------------------------------
def asked(client: Client, *names: str) -> str:
    sent = {"feature_view": list(names)}
    return words(client.post(ASK, sent, headers={"HX-Request": "true"}).content.decode())


def said(client: Client, *names: str) -> str:
    answer = client.post(ACT, {"feature_view": list(names)}, follow=True)
    return " ".join(str(message) for message in answer.context["messages"])


def test_it_says_what_would_be_materialised_and_does_nothing_yet(operator: Client, repo: Path):
    filled = datetime(2026, 5, 1, 8, 30, tzinfo=UTC).isoformat()
    known(
        repo,
        a_view("profile", filled_until=filled),
        a_view("never", filled_until=None),
        a_view("computed", kind="on_demand", is_fillable=False),
    )
    told = asked(operator, "profile", "never", "computed", "nobody")
    assert told.startswith("Materialise 2 feature views?")
    assert "profile gets the events from 2026-05-01 08:30 UTC until now, of customers" in told
    assert "never gets the events from the beginning of its TTL" in told
    assert "computed stays as it is. The feature view computed is not filled" in told
    assert "nobody stays as it is. There is no feature view nobody." in told
    assert "within 15 minutes" in told and "go on with the values that are there" in told
    assert not Materialization.objects.exists()


def test_the_order_stands_with_who_gave_it_and_the_page_follows_it(operator: Client, repo: Path):
    known(repo)
    assert "1 feature view will be materialised" in said(operator, "profile")
    made = Materialization.objects.get()
    assert (made.feature_views, made.asked_by, made.state) == (["profile"], "olga", "waiting")
    page = page_of(operator)
    address = html.unescape(re.search(r'hx-get="([^"]*)"[^>]*data-refresh', page).group(1))
    assert "Waiting" in operator.get(address).content.decode()
    Materialization.objects.update(
        state="failed",
        error="1 of 1 feature views could not be materialised.",
        outcome=[{"name": "profile", "until": None, "detail": "No file.", "seconds": 0.1}],
        started_at=timezone.now(),
        ended_at=timezone.now(),
    )
    fragment = operator.get(address).content.decode()
    assert "profile: No file." in words(fragment) and "data-refresh" not in fragment
    pieces = re.findall(r'id="([\w-]+)"[^>]* hx-swap-oob', fragment)
    assert len(pieces) == 3 and all(f'id="{piece}"' in page for piece in pieces)
    assert "olga" in words(page_of(operator, of_view("profile")))


def test_what_was_read_anew_waits_behind_a_button(operator: Client, repo: Path):
    known(repo)
    services.ask_description()
    page = page_of(operator)
    address = html.unescape(re.search(r'hx-get="([^"]*)"[^>]*data-refresh', page).group(1))
    assert "was read anew" not in operator.get(address).content.decode()
    known(repo)
    answer = operator.get(address)
    assert "was read anew" in answer.content.decode() and "HX-Refresh" not in answer.headers


def test_what_the_service_refuses_is_told_in_its_words(operator: Client, repo: Path):
    known(repo)
    assert "There is no feature view nobody." in said(operator, "nobody")
    assert "No feature view was selected." in said(operator)
    assert "No feature view is selected" in asked(operator)
    assert operator.get(ACT).status_code == 405


def test_from_its_own_page_one_comes_back_to_it(operator: Client, repo: Path):
    known(repo)
    sent = {"feature_view": ["profile"], "page": "profile"}
    assert operator.post(ACT, sent).headers["Location"] == of_view("profile")
    for page in ("//evil.example/", "", "../.."):
        assert operator.post(ACT, {**sent, "page": page}).headers["Location"] == LIST


def test_without_javascript_the_question_is_a_page(operator: Client, repo: Path):
    known(repo)
    page = operator.post(ASK, {"feature_view": ["profile"]}).content.decode()
    assert 'aria-label="Console"' in page and "Materialise 1 feature view?" in page


def test_it_is_read_anew_when_somebody_asks(operator: Client, repo: Path):
    known(repo)
    operator.post(READ)
    assert FeatureCatalog.objects.get().asked_at is not None
    assert "being read anew" in page_of(operator)


# -- look up an entity -----------------------------------------------------------------------------
Answer = list[Feature] | Exception


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], list[Any]]]:
    """What the process that reads features would say, and what it was asked."""

    def say(answer: Answer) -> list[FeatureQuestion]:
        questions: list[FeatureQuestion] = []

        def look_up(question: FeatureQuestion) -> list[Feature]:
            questions.append(question)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(LOOKUPS, "look_up", look_up)
        return questions

    yield say


def looked_up(client: Client, address: str, **typed: str) -> str:
    query = {f"key.{name}": value for name, value in typed.items()}
    page = page_of(client, address, **query)
    return words(page.split('id="lookup"')[1].split("</section>")[0])


def test_values_are_shown_with_their_types_and_missing_ones_are_named(
    operator: Client, repo: Path, answers: Callable[[Answer], list[Any]]
):
    known(repo, a_view("profile"), services=[a_service("churn", "profile")])
    found = [
        Feature("profile", "age", [41], []),
        Feature("profile", "income", [None], [(0, Gone.EXPIRED)]),
    ]
    questions = answers(found)
    told = looked_up(operator, of_view("profile"), customer_id="7")
    assert questions == [FeatureQuestion(Source.VIEWS, ("profile",), {"customer_id": [7]})]
    assert "1 of 2 features have no value: income." in told
    assert "age profile 41 Int64" in told
    assert "income profile none: its value is older than the feature view's ttl Float64" in told
    looked_up(operator, of_service("churn"), customer_id="7")
    assert (questions[1].source, questions[1].names) == (Source.SERVICE, ("churn",))


def test_a_service_that_gives_a_view_another_name_has_its_types_all_the_same(
    operator: Client, repo: Path, answers: Callable[[Answer], list[Any]]
):
    service = a_service("pairs", "profile")
    service["parts"][0]["called"] = "left"
    known(repo, a_view("profile"), services=[service])
    answers([Feature("left", "age", [["x", None]], [])])
    assert 'age left ["x", null] Int64' in looked_up(operator, of_service("pairs"), customer_id="1")


@pytest.mark.parametrize(
    ("kind", "typed", "read"),
    [
        ("INT64", "7", 7),
        ("INT64", "-7", -7),
        ("INT64", "7.5", None),
        ("INT64", "seven", None),
        ("INT64", "٧", None),
        ("INT64", "9" * 400, None),
        ("DOUBLE", "0.5", 0.5),
        ("DOUBLE", "nan", None),
        ("BOOL", "true", True),
        ("BOOL", "yes", None),
        ("STRING", "7", "7"),
        ("STRING", "x" * 2000, None),
        ("", "7", "7"),
    ],
)
def test_what_was_typed_becomes_what_the_key_is(
    operator: Client,
    repo: Path,
    answers: Callable[[Answer], list[Any]],
    kind: str,
    typed: str,
    read: Any,
):
    known(repo, a_view("profile", keys=[a_key("id", kind)]))
    questions = answers([])
    page = page_of(operator, of_view("profile"), **{"key.id": typed})
    assert [question.entities["id"] for question in questions] == ([] if read is None else [[read]])
    assert ('class="wrong"' in page) == (read is None)


def test_every_key_has_to_be_filled_in(
    operator: Client, repo: Path, answers: Callable[[Answer], list[Any]]
):
    known(repo, a_view("pairs", keys=[a_key("left"), a_key("right")]))
    questions = answers([])
    told = looked_up(operator, of_view("pairs"), left="1")
    assert "Fill it in" in told and questions == []
    assert "Fill it in" not in looked_up(operator, of_view("pairs"))


@pytest.mark.parametrize(
    ("error", "told", "again"),
    [
        (NotReadable("x", [("entities.x", "It is missing.")]), "It is missing.", False),
        (FeaturesAway("It ended."), "It ended.", False),
        (NotNow("It is starting."), "It is starting.", True),
        (FeaturesLate(), "did not answer in time", True),
        (FeaturesBusy(), "Others look up features", True),
    ],
)
def test_why_nothing_was_looked_up_is_said_in_words(
    operator: Client,
    repo: Path,
    answers: Callable[[Answer], list[Any]],
    error: Exception,
    told: str,
    again: bool,  # noqa: FBT001
):
    known(repo)
    answers(error)
    page = page_of(operator, of_view("profile"), **{"key.customer_id": "7"})
    assert told in words(page)
    assert ("Ask again" in page) == again == ("data-refresh" in page)


def test_a_value_of_a_stranger_is_text_and_not_endless(
    operator: Client, repo: Path, answers: Callable[[Answer], list[Any]]
):
    known(repo)
    answers([Feature("profile", "age", [EVIL + "x" * 5000], [])])
    page = page_of(operator, of_view("profile"), **{"key.customer_id": "7"})
    assert "<script>alert" not in page and "\u202e" not in page and "x" * 2001 not in page


# -- the way from a thread to the loop -------------------------------------------------------------
QUESTION = FeatureQuestion(Source.VIEWS, ("profile",), {"customer_id": [7]})


class Reader:
    """Who reads features, in the loop."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.features = self

    def client(self) -> "Reader":
        return self

    async def ask(self, question: FeatureQuestion) -> list[Feature]:
        await asyncio.sleep(self.seconds)
        return [Feature("profile", "age", question.entities["customer_id"], [])]


def in_threads(lookups: Lookups, count: int = 1) -> list[Any]:
    """What each of them was told, asked from threads while a loop serves."""

    def asks() -> Any:
        try:
            return lookups.look_up(QUESTION)[0].values
        except (NotNow, FeaturesBusy) as error:
            return type(error)

    async def served() -> list[Any]:
        lookups.serve()
        return await asyncio.gather(*(asyncio.to_thread(asks) for _ in range(count)))

    return asyncio.run(served())


def test_a_thread_is_answered_by_the_loop_that_serves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gateway, "current", Reader)
    lookups = Lookups()
    assert in_threads(lookups) == [[7]]
    lookups.stop()
    with pytest.raises(FeaturesAway):
        lookups.look_up(QUESTION)


def test_a_thread_waits_no_longer_than_a_store_may_take(
    monkeypatch: pytest.MonkeyPatch, settings: Any
):
    settings.FEATURES_SECONDS = 0.05
    monkeypatch.setattr("inference.lookup.PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(gateway, "current", lambda: Reader(30.0))
    assert in_threads(Lookups()) == [NotNow]


def test_few_threads_wait_at_once(monkeypatch: pytest.MonkeyPatch):
    barrier = threading.Event()

    class Slow(Reader):
        async def ask(self, question: FeatureQuestion) -> list[Feature]:
            await asyncio.to_thread(barrier.wait, 5)
            return await super().ask(question)

    monkeypatch.setattr(gateway, "current", Slow)
    lookups = Lookups()
    turns = lookups._turns

    class Counted:
        """Lets go when one was sent away."""

        def acquire(self, *, blocking: bool) -> bool:
            got = turns.acquire(blocking=blocking)
            if not got:
                barrier.set()
            return got

        def release(self) -> None:
            turns.release()

    lookups._turns = Counted()
    told = in_threads(lookups, count=4)
    assert told.count(FeaturesBusy) == 1 and told.count([7]) == 3


# -- rights ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("group", GROUPS)
def test_each_group_does_what_it_may_and_nothing_else(
    group: str, repo: Path, answers: Callable[[Answer], list[Any]]
):
    known(repo)
    client, questions = somebody(group), answers([])
    page = page_of(client, of_view("profile"), **{"key.customer_id": "7"})
    assert ('id="lookup"' in page) == bool(questions) == (group in MAY_LOOK_UP)
    assert ('id="do-materialize"' in page) == (group in MAY_MATERIALIZE)
    assert ('type="checkbox"' in page_of(client)) == (group in MAY_MATERIALIZE)
    wanted = 302 if group in MAY_MATERIALIZE else 403
    assert client.post(ACT, {"feature_view": ["profile"]}).status_code == wanted
    assert client.post(READ).status_code == wanted
    assert client.post(ASK).status_code == (200 if group in MAY_MATERIALIZE else 403)
    assert Materialization.objects.exists() == (group in MAY_MATERIALIZE)


def test_whoever_may_see_nothing_sees_none_of_it(repo: Path):
    known(repo)
    client = somebody(staff=True)
    for address in (LIST, NOW, of_view("profile"), of_service("s")):
        assert client.get(address).status_code == 403, address
    for address in (ASK, ACT, READ):
        assert client.post(address).status_code == 403, address
