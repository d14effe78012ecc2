#!/usr/bin/env python3
"""Sends a training script to the MLOps API and follows it to its end.

Needs Python 3.9 or newer and nothing else. Exit codes: 0 the job completed, 1 it failed, 2 the
request was refused or the platform does not answer, 130 left with Ctrl-C.
"""

import argparse
import base64
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

POLL_SECONDS = 0.5
REQUEST_SECONDS = 30
UNREACHABLE_PATIENCE_SECONDS = 60
TERMINAL = ("completed", "failed", "cancelled")
COLOURS = {"green": "32", "red": "31", "dim": "2", "bold": "1", "yellow": "33"}


class Refused(Exception):
    """The platform answered with an error, or did not answer; the message is for the user."""


def main():
    arguments = parse_arguments()
    base = arguments.url.rstrip("/")
    try:
        job = upload(base, arguments)
        job_url = f"{base}/mlops/training/jobs/{job['job_id']}"
        say(f"Job {job['job_id']} accepted", "bold")
        say(f"  {job_url}", "dim")
        if arguments.no_wait:
            return 0
        return follow(job_url, base)
    except Refused as refused:
        say(str(refused), "red", stream=sys.stderr)
        return 2


def parse_arguments():
    parser = argparse.ArgumentParser(
        description="Send a Python training script to the MLOps API and follow it.",
        epilog="Example: %(prog)s --script train.py --experiment churn --model churn_predictor "
        "--requirements scikit-learn pandas --env N_ESTIMATORS=200 --timeout 600",
    )
    parser.add_argument("--script", required=True, type=Path, help="the script to run")
    parser.add_argument("--experiment", required=True, help="MLflow experiment of the run")
    parser.add_argument("--model", required=True, help="name to register the model as")
    parser.add_argument(
        "--requirements", nargs="*", default=[], metavar="PACKAGE", help="what to install"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="environment variable"
    )
    parser.add_argument("--tag", action="append", default=[], metavar="NAME=VALUE", help="a tag")
    parser.add_argument("--timeout", type=int, help="seconds the script may run (60-3600)")
    parser.add_argument(
        "--url",
        default=os.environ.get("MLOPS_URL", "http://localhost:8000"),
        help="where the API answers (default: $MLOPS_URL or %(default)s)",
    )
    parser.add_argument("--no-wait", action="store_true", help="do not follow the job")
    arguments = parser.parse_args()
    if not arguments.script.is_file():
        parser.error(f"there is no file {arguments.script}")
    return arguments


def upload(base, arguments):
    """Sends the script in base64, so that every byte of it arrives as it is."""
    body = {
        "script_name": arguments.script.name,
        "script_content": base64.b64encode(arguments.script.read_bytes()).decode(),
        "script_encoding": "base64",
        "experiment_name": arguments.experiment,
        "model_name": arguments.model,
        "requirements": arguments.requirements,
        "environment_vars": pairs(arguments.env, "--env"),
        "tags": pairs(arguments.tag, "--tag"),
    }
    if arguments.timeout is not None:
        body["timeout"] = arguments.timeout
    return request(f"{base}/mlops/training/upload", body)


def pairs(items, option):
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise Refused(f"{option} wants NAME=VALUE, not {item!r}")
        found[name] = value
    return found


def follow(job_url, base):
    """Prints the log as it grows and says how the job ended."""
    try:
        if not follow_live(job_url):
            follow_by_asking(job_url)
        return report(poll(job_url), base)
    except KeyboardInterrupt:
        return leave(job_url)


def follow_live(job_url):
    """Takes the log as a stream, which costs each byte once. False when the server has none.

    A stream that breaks off, with the network or with the platform, goes on where it stopped.
    """
    screen, away_since = Screen(), None
    while not screen.ended:
        try:
            with open_stream(job_url, screen.last_id) as answer:
                if answer.headers.get_content_type() != "text/event-stream":
                    return False
                away_since = None
                for event in events_of(answer):
                    screen.show(*event)
        except urllib.error.HTTPError as error:
            if error.code in (404, 405, 406, 501):
                return False
            if error.code not in (502, 503, 504):
                raise Refused(words_of(error)) from None
            away_since = still_patient(away_since, words_of(error))
        except (OSError, http.client.HTTPException) as error:
            away_since = still_patient(away_since, f"No answer from {job_url}: {error}.")
        if not screen.ended:
            time.sleep(POLL_SECONDS)
    return True


def still_patient(away_since, words):
    """Since when nothing answers. Raises Unreachable when that is too long."""
    now = time.monotonic()
    if away_since is None:
        return now
    if now - away_since > UNREACHABLE_PATIENCE_SECONDS:
        raise Unreachable(words)
    return away_since


class Screen:
    """What was shown of a job: its output, its phase, and where to go on."""

    def __init__(self):
        self.last_id, self.phase, self.ended = "", "", False

    def show(self, kind, event_id, document):
        self.last_id = event_id or self.last_id
        if kind == "log":
            cut = document.get("dropped")
            sys.stdout.write(f"\n[... {cut} bytes cut ...]\n" if cut else "")
            sys.stdout.write(document["text"])
            sys.stdout.flush()
        elif kind == "state" and document["status"] not in TERMINAL:
            self.phase = say_phase(document["phase"], self.phase)
        self.ended = self.ended or kind == "end"


def say_phase(phase, before):
    if phase != before:
        say(f"[{phase.replace('_', ' ')}]", "dim")
    return phase


def open_stream(job_url, last_id):
    headers = {"Accept": "text/event-stream"}
    if last_id:
        headers["Last-Event-ID"] = last_id
    call = urllib.request.Request(f"{job_url}/logs", headers=headers)
    # Longer than the silence between two signs of life.
    return urllib.request.urlopen(call, timeout=REQUEST_SECONDS)


def events_of(answer):
    """(kind, id, document) of each complete event; one that breaks off is sent again."""
    fields = {}
    for raw in answer:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if "data" in fields:
                yield fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"])
            fields = {}
            continue
        name, _, value = line.partition(":")
        fields[name] = value.removeprefix(" ")


def follow_by_asking(job_url):
    """For a server without streams: the whole job again and again."""
    printed, phase = 0, ""
    while True:
        job = poll(job_url)
        if job["status"] not in TERMINAL:
            phase = say_phase(job.get("phase", ""), phase)
        printed = print_log(job["logs"], printed)
        if job["status"] in TERMINAL:
            return
        time.sleep(POLL_SECONDS)


def print_log(text, printed):
    """Prints what is new. A text that became shorter was cut in its middle: go on at its end."""
    if len(text) > printed:
        sys.stdout.write(text[printed:])
        sys.stdout.flush()
    return len(text)


def poll(job_url):
    """A platform that restarts under a job is waited for, since the job is still there."""
    give_up = time.monotonic() + UNREACHABLE_PATIENCE_SECONDS
    while True:
        try:
            return request(job_url)
        except Unreachable:
            if time.monotonic() > give_up:
                raise
            time.sleep(POLL_SECONDS * 4)


def report(job, base):
    seconds = job.get("duration_seconds")
    took = f" in {seconds:.1f} s" if seconds is not None else ""
    if job["status"] == "completed":
        say(f"Completed{took}: {job['model_name']} version {job['model_version']}", "green")
        say(f"  MLflow run {job['run_id']}", "dim")
        say(f"  {base}/mlops/models/{job['model_name']}", "dim")
        return 0
    say(f"{job['status'].capitalize()}{took}: {job['error']}", "red", stream=sys.stderr)
    if job.get("hint"):
        say(f"  {job['hint']}", "yellow", stream=sys.stderr)
    return 1


def leave(job_url):
    """This program ends; the job goes on, unless somebody at a terminal says otherwise."""
    if wants_to_cancel():
        answer = request(f"{job_url}/cancel", {})
        say(answer.get("detail", "The job is being cancelled."), "yellow")
        return 130
    say("\nStopped following. The job goes on; look at it with", "yellow")
    say(f"  curl {job_url}", "yellow")
    return 130


def wants_to_cancel():
    """Asks only where somebody can answer; Ctrl-C again, or nothing, leaves the job alone."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return input("\nCancel the job too? [y/N] ").strip().lower() in ("y", "yes")
    except (KeyboardInterrupt, EOFError):
        return False


class Unreachable(Refused):
    """Nothing answered."""


def request(url, body=None):
    """The answer's JSON. Raises Refused with the platform's own words, Unreachable without any."""
    data = None if body is None else json.dumps(body).encode()
    call = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(call, timeout=REQUEST_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise Refused(words_of(error)) from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"No answer from {url}: {reason}. Is the platform running?") from None


def words_of(error):
    try:
        problem = json.load(error)
    except ValueError:
        return f"The platform answered {error.code} {error.reason}."
    lines = [f"{error.code}: {problem.get('detail', error.reason)}"]
    for entry in problem.get("errors", []):
        lines.append(f"  {entry['field']}: {entry['detail']} {entry.get('hint', '')}".rstrip())
    if problem.get("hint"):
        lines.append(f"  {problem['hint']}")
    return "\n".join(lines)


def say(text, colour, stream=None):
    stream = stream or sys.stdout
    if stream.isatty() and "NO_COLOR" not in os.environ:
        text = f"\033[{COLOURS[colour]}m{text}\033[0m"
    print(text, file=stream, flush=True)


if __name__ == "__main__":
    sys.exit(main())
