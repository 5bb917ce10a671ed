"""A disk that is full or broken for a process: calls of the C library that fail for some files."""

from __future__ import annotations

import errno
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The file says: which call, which number of the error, and the pattern of the files' paths. */
static int fails(const char *call, int fd) {
    char which[16], pattern[256], link[64], name[4096];
    int number, found;
    FILE *told = fopen(getenv("BROKEN_DISK"), "r");
    if (!told) return 0;
    found = fscanf(told, "%15s %d %255s", which, &number, pattern);
    fclose(told);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (found != 3 || strcmp(which, call) || length < 0) return 0;
    name[length] = 0;
    if (fnmatch(pattern, name, 0)) return 0;
    errno = number;
    return 1;
}
int fsync(int fd) { return fails("sync", fd) ? -1 : syscall(SYS_fsync, fd); }
int fdatasync(int fd) { return fails("sync", fd) ? -1 : syscall(SYS_fdatasync, fd); }
ssize_t write(int fd, const void *data, size_t size) {
    return fails("write", fd) ? -1 : syscall(SYS_write, fd, data, size);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off_t place) {
    return fails("write", fd) ? -1 : syscall(SYS_pwrite64, fd, data, size, place);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t place) { return pwrite64(fd, data, size, place); }
ssize_t sendfile64(int to, int from, off_t *place, size_t size) {
    return fails("write", to) ? -1 : syscall(SYS_sendfile, to, from, place, size);
}
ssize_t sendfile(int to, int from, off_t *place, size_t size) { return sendfile64(to, from, place, size); }
"""

Call = Literal["sync", "write"]
BROKEN, FULL = errno.EIO, errno.ENOSPC


@dataclass(frozen=True)
class Disk:
    """The disk of the processes that have this environment."""

    library: Path
    rule: Path

    @property
    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.library), "BROKEN_DISK": str(self.rule)}

    def fail(self, call: Call, number: int, pattern: str) -> None:
        """From now on, this call fails so for the files of the pattern, where `*` also stands for slashes."""
        self.rule.write_text(f"{call} {number} {pattern}")

    def recover(self) -> None:
        self.rule.unlink(missing_ok=True)


def make_disk(folder: Path) -> Disk:
    """Needs a C compiler."""
    disk = Disk(folder / "disk.so", folder / "broken-disk")
    command = ["cc", "-shared", "-fPIC", "-Wno-nonnull-compare", "-xc", "-", "-o", disk.library]
    subprocess.run(command, input=SOURCE.encode(), check=True)
    return disk
