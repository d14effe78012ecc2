"""Who may do what in the console: the groups, and every page for each of them."""

from importlib import import_module

import pytest
from django.contrib.auth.models import Group, User
from django.db import connection
from django.db.migrations.loader import MigrationLoader
from django.urls import reverse

from mlops_site.rights import ROLES, role_of
from tests.fixtures.people import GROUPS, somebody
from tests.fixtures.sent_jobs import a_job
from training.models import Job

EVERYBODY = set(GROUPS)
ADMINISTRATORS = {"administrator"}
OPERATORS = {"operator", "administrator"}
PAGES = {
    "admin:index": EVERYBODY,
    "admin:home_now": EVERYBODY,
    "admin:home_day": EVERYBODY,
    "admin:training_job_changelist": EVERYBODY,
    "admin:training_job_now": EVERYBODY,
    "admin:job_new": EVERYBODY - {"viewer"},
    "admin:job_compare": EVERYBODY,
    "admin:training_jobevent_changelist": EVERYBODY,
    "admin:training_attempt_changelist": EVERYBODY,
    "admin:training_sandboxproof_changelist": EVERYBODY,
    "admin:training_builtenvironment_changelist": EVERYBODY,
    "admin:training_waitingcontainer_changelist": EVERYBODY,
    "admin:inference_modelserver_changelist": EVERYBODY,
    "admin:inference_aliaschange_changelist": EVERYBODY,
    "admin:inference_modelpolicy_changelist": EVERYBODY,
    "admin:inference_batchprediction_changelist": EVERYBODY,
    "admin:mlops_site_heartbeat_changelist": EVERYBODY,
    "admin:features": EVERYBODY,
    "admin:features_now": EVERYBODY,
    "admin:queue": EVERYBODY,
    "admin:queue_now": EVERYBODY,
    "admin:settings": OPERATORS,
    "admin:audit": OPERATORS,
    "admin:audit_csv": OPERATORS,
    "admin:auth_user_changelist": ADMINISTRATORS,
    "admin:auth_user_add": ADMINISTRATORS,
    "admin:auth_group_changelist": ADMINISTRATORS,
    "admin:password_change": EVERYBODY,
}
# Whose job may be cancelled, and what else may be done to it.
MAY = {
    "viewer": set(),
    "data scientist": {"cancel own", "rerun"},
    "operator": {"cancel own", "cancel", "rerun", "high"},
    "administrator": {"cancel own", "cancel", "rerun", "high"},
}

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("page", PAGES)
def test_each_group_opens_its_pages_and_no_others(page: str, group: str):
    answer = somebody(group).get(reverse(page))
    assert answer.status_code == (200 if group in PAGES[page] else 403)


@pytest.mark.parametrize("page", [page for page in PAGES if page != "admin:password_change"])
def test_somebody_of_no_group_opens_none(page: str):
    answer = somebody().get(reverse(page))
    assert answer.status_code == 302
    assert "/admin/login/" in answer.headers["Location"]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("what", ["cancel own", "cancel", "rerun", "high"])
def test_each_group_does_what_it_may_and_nothing_else(group: str, what: str):
    client = somebody(group)
    job = a_job(owner="olga" if what == "cancel own" else "bob")
    sent = {"action": what.partition(" ")[0], "job": [str(job.pk)]}
    client.post(reverse("admin:training_job_act"), sent)
    job.refresh_from_db()
    did = job.status == "cancelled" or job.priority == 2 or Job.objects.count() == 2
    assert did == (what in MAY[group])


@pytest.mark.parametrize("group", GROUPS)
def test_a_button_that_one_may_never_use_is_absent(group: str):
    a_job()
    page = somebody(group).get(reverse("admin:training_job_changelist")).content.decode()
    assert ('value="rerun"' in page) == ("rerun" in MAY[group])
    assert ('value="high"' in page) == ("high" in MAY[group])
    assert ('type="checkbox"' in page) == bool(MAY[group])


def test_the_groups_that_were_made_are_those_that_are_told_of():
    made = {
        group.name: {
            f"{app}.{name}"
            for app, name in group.permissions.values_list("content_type__app_label", "codename")
        }
        for group in Group.objects.all()
    }
    assert made == {role.name: set(role.permissions) for role in ROLES}


def test_each_group_may_what_the_one_before_it_may_and_more():
    for less, more in zip(ROLES, ROLES[1:], strict=False):
        assert less.permissions < more.permissions


def test_the_groups_can_be_taken_back_and_made_again():
    names = [
        *("0003_groups", "0004_feature_rights", "0005_who_tries_models"),
        "0007_rights_of_operators",
    ]
    groups, features, models, operators = (
        import_module(f"mlops_site.migrations.{name}") for name in names
    )
    apps = MigrationLoader(connection).project_state(("mlops_site", names[-1])).apps
    somebody("viewer")
    before = set(Group.objects.values_list("name", "permissions"))
    operators.take_back(apps, None)
    models.take(apps, None)
    groups.remove_groups(apps, None)
    assert not Group.objects.exists() and User.objects.count() == 1
    groups.make_groups(apps, None)
    features.give(apps, None)
    models.give(apps, None)
    operators.give(apps, None)
    assert set(Group.objects.values_list("name", "permissions")) == before


@pytest.mark.parametrize("group", GROUPS)
def test_a_person_is_called_by_the_most_that_he_or_she_may(group: str):
    somebody(group)
    assert role_of(User.objects.get()) == group


def test_no_group_makes_anybody_staff_which_opens_what_customers_sent():
    for group in GROUPS:
        client = somebody(group, name=group)
        assert client.get("/mlops/models/churn/requests").status_code in (401, 403)


def test_a_job_is_not_added_or_deleted_by_hand_by_anybody():
    client, job = somebody("administrator"), a_job()
    assert client.get("/admin/training/job/add/").status_code == 403
    assert client.get(f"/admin/training/job/{job.pk}/delete/").status_code == 403
