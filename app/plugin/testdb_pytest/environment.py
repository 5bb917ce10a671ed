"""Where a session runs, as tags: Python, platform, continuous integration, commit."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from pathlib import Path

import pytest

# The variable by which a service is known, its name, and its variables of job, commit, branch and actor.
_SERVICES = """
GITHUB_ACTIONS   github    GITHUB_JOB       GITHUB_SHA          GITHUB_HEAD_REF,GITHUB_REF_NAME GITHUB_ACTOR
GITLAB_CI        gitlab    CI_JOB_NAME      CI_COMMIT_SHA       CI_COMMIT_REF_NAME              GITLAB_USER_LOGIN
JENKINS_URL      jenkins   JOB_NAME         GIT_COMMIT          CHANGE_BRANCH,GIT_BRANCH        CHANGE_AUTHOR
BUILDKITE        buildkite BUILDKITE_LABEL  BUILDKITE_COMMIT    BUILDKITE_BRANCH                BUILDKITE_BUILD_AUTHOR
CIRCLECI         circleci  CIRCLE_JOB       CIRCLE_SHA1         CIRCLE_BRANCH                   CIRCLE_USERNAME
TF_BUILD         azure     SYSTEM_JOBNAME   BUILD_SOURCEVERSION BUILD_SOURCEBRANCHNAME          BUILD_REQUESTEDFOR
TRAVIS           travis    TRAVIS_JOB_NAME  TRAVIS_COMMIT       TRAVIS_BRANCH                   -
"""  # noqa: E501 - a table
SERVER = "testdb"
"""What servers call themselves as creators of runs, and refuse from others."""
URLS = "CI_JOB_URL,BUILD_URL,BUILDKITE_BUILD_URL,CIRCLE_BUILD_URL,TRAVIS_JOB_WEB_URL"


def environment(root: Path) -> tuple[dict[str, str], str | None]:
    """The tags, and who started the session, if that is known."""
    tags = {
        "python": platform.python_version(),
        "pytest": pytest.__version__,
        "platform": f"{platform.system()}-{platform.machine()}",
        "hostname": socket.gethostname(),
    }
    creator = os.environ.get("USER") or os.environ.get("LOGNAME")
    commit = branch = ""
    services = (line.split() for line in _SERVICES.split("\n") if line)
    service = next((found for found in services if os.environ.get(found[0])), None)
    if service is not None:
        job, commit, branch, actor = map(_first, service[2:])
        tags |= {"ci": service[1], "ci.job": job, "ci.url": _first(URLS) or _github_url()}
        creator = actor or creator
    if not commit or not branch:
        known = _git(root)
        commit, branch = commit or known[0], branch or known[1]
    tags |= {"git.commit": commit, "git.branch": branch}
    if creator == SERVER:
        creator = None
    return {name: value for name, value in tags.items() if value}, creator


def _first(names: str) -> str:
    return next((value for name in names.split(",") if (value := os.environ.get(name, ""))), "")


def _github_url() -> str:
    parts = [os.environ.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
    return f"{parts[0]}/{parts[1]}/actions/runs/{parts[2]}" if all(parts) else ""


def _git(root: Path) -> tuple[str, str]:
    try:
        told = subprocess.run(
            ["git", "rev-parse", "HEAD", "--abbrev-ref", "HEAD"],
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return "", ""
    lines = told.stdout.split()
    if told.returncode or len(lines) != 2:
        return "", ""
    return lines[0], "" if lines[1] == "HEAD" else lines[1]
