"""Rights of an account: its own and its groups', in one query; none of a closed one."""

import pytest
from django.contrib.auth.models import Group, Permission, User
from django.db import connection
from django.test.utils import CaptureQueriesContext

pytestmark = pytest.mark.django_db


def right(name: str) -> Permission:
    app, _, codename = name.partition(".")
    return Permission.objects.get(content_type__app_label=app, codename=codename)


@pytest.fixture
def olga() -> User:
    user = User.objects.create_user("olga")
    user.groups.add(Group.objects.get(name="viewer"))
    user.user_permissions.add(right("training.change_job"))
    return User.objects.get(pk=user.pk)


def test_rights_of_ones_own_and_of_ones_groups_count(olga: User):
    assert olga.has_perm("training.view_job") and olga.has_perm("training.change_job")
    assert olga.has_module_perms("training") and not olga.has_module_perms("nothing")
    assert not olga.has_perm("auth.add_user")


def test_they_are_asked_for_once(olga: User):
    with CaptureQueriesContext(connection) as queries:
        olga.has_perm("training.view_job"), olga.has_perm("auth.add_user")
    assert len(queries) == 1


def test_a_right_that_was_taken_is_gone_at_the_next_request(olga: User):
    assert olga.has_perm("training.view_job")
    olga.groups.clear()
    assert not User.objects.get(pk=olga.pk).has_perm("training.view_job")


def test_a_closed_account_may_nothing(olga: User):
    User.objects.filter(pk=olga.pk).update(is_active=False)
    assert not User.objects.get(pk=olga.pk).has_perm("training.view_job")


def test_a_superuser_may_everything_and_nobody_nothing():
    root = User.objects.create_superuser("root")
    assert root.has_perm("auth.add_user")
    assert "auth.add_user" in root.get_all_permissions()
    root.is_active = False
    assert not root.has_perm("auth.add_user")
