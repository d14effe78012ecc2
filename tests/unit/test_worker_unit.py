"""When a queue's cluster counts as dead: what the kernel shows, and what its tasks say."""

from mlops_site.processes import ProcessInfo
from mlops_site.worker_unit import (
    SILENT_SECONDS,
    START_SECONDS,
    SUSPECT_SECONDS,
    Judge,
    Look,
    look_at,
)

IDLE = "qcluster Process-a idle"
BUSY = "qcluster Process-a processing the-task 'training.tasks.launch'"


def whole(workers: dict[int, str] | None = None, **changed) -> Look:
    parts = {"main": True, "guard": 2, "monitor": 3, "pusher": 4, **changed}
    return Look(**parts, workers=workers or {10: IDLE, 11: IDLE})


def started() -> Judge:
    """A judge of a cluster that was whole and has beaten once, at 1 s."""
    judge = Judge(now=0.0)
    assert judge.fault(whole(), beat=None, now=0.5) == ""
    assert judge.fault(whole(), beat="first", now=1.0) == ""
    return judge


def test_the_members_of_a_group_are_told_apart():
    def process(pid: int, parent: int, title: str) -> ProcessInfo:
        return ProcessInfo(pid=pid, parent=parent, group=1, session=1, title=title)

    main = "qcluster MainProcess name"
    members = [
        process(1, 99, main),
        process(2, 1, main),
        process(3, 2, "qcluster Process-b monitor"),
        process(4, 2, "qcluster Process-c pusher"),
        process(10, 2, IDLE),
        process(11, 2, BUSY),
        process(12, 2, main),  # forked a moment ago: not named yet
        process(13, 1000, IDLE),  # somebody else's child
    ]
    look = look_at(1, members)
    assert look == whole({10: IDLE, 11: BUSY})
    assert look.complete
    assert not look.busy
    assert look_at(1, []) == Look()


def test_a_cluster_that_beats_is_alive():
    judge = started()
    for second in range(1, 200):
        assert judge.fault(whole(), beat=second, now=1.0 + second) == ""


def test_a_lost_part_that_takes_a_lock_with_it_is_the_end():
    assert "main process" in started().fault(Look(), beat="first", now=2.0)
    assert "guard" in started().fault(whole(guard=None), beat="first", now=2.0)
    assert "monitor" in started().fault(whole(monitor=None), beat="first", now=2.0)
    # Made anew by the guard: it waits for a lock that a dead process holds.
    assert "monitor" in started().fault(whole(monitor=33), beat="first", now=2.0)


def test_silence_with_a_free_worker_is_the_end():
    judge = started()
    assert judge.fault(whole(), beat="first", now=SILENT_SECONDS) == ""
    assert "no task was run" in judge.fault(whole(), beat="first", now=SILENT_SECONDS + 2)


def test_a_cluster_whose_workers_all_build_is_alive_and_judged_again_afterwards():
    judge = started()
    busy = whole({10: BUSY, 11: BUSY})
    for second in range(2, 900, 10):
        assert judge.fault(busy, beat="first", now=float(second)) == ""
    free = whole({10: BUSY, 11: IDLE})
    assert judge.fault(free, beat="first", now=900.0) == ""
    assert "no task" in judge.fault(free, beat="first", now=900.0 + SILENT_SECONDS + 1)


def test_workers_that_go_from_task_to_task_are_alive_however_late_the_beat():
    judge = started()
    for second in range(2, 300):
        workers = {10: IDLE, 11: f"qcluster Process-a processing task-{second} 'x'"}
        assert judge.fault(whole(workers), beat="first", now=float(second)) == ""


def test_after_a_lost_worker_a_beat_is_wanted_soon():
    judge = started()
    changed = whole({10: IDLE, 12: IDLE})
    assert judge.fault(changed, beat="first", now=2.0) == ""
    assert judge.suspects
    assert "no task" in judge.fault(changed, beat="first", now=2.0 + SUSPECT_SECONDS + 1)


def test_after_a_lost_pusher_a_beat_ends_the_suspicion():
    judge = started()
    changed = whole(pusher=44)
    assert judge.fault(changed, beat="first", now=2.0) == ""
    assert judge.suspects
    assert judge.fault(changed, beat="second", now=4.0) == ""
    assert not judge.suspects
    assert judge.fault(changed, beat="second", now=4.0 + SUSPECT_SECONDS + 1) == ""


def test_a_start_may_take_its_time_but_not_for_ever():
    judge = Judge(now=0.0)
    assert judge.fault(Look(main=True), beat="of the last one", now=START_SECONDS - 1) == ""
    assert "of its start" in judge.fault(Look(main=True), beat="of the last one", now=62.0)


def test_the_beat_of_an_earlier_cluster_proves_nothing():
    judge = Judge(now=0.0)
    assert judge.fault(whole(), beat="old", now=1.0) == ""
    assert "of its start" in judge.fault(whole(), beat="old", now=1.0 + START_SECONDS + 1)


def test_silence_while_the_database_is_away_is_forgiven():
    judge = started()
    for second in range(2, 100):
        judge.forgive_silence(now=float(second))
        assert judge.fault(whole(), beat=None, now=float(second)) == ""
