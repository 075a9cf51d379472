"""Packages from registries, in folders of their own, for tests that drive the programs with the work of others."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys


@contextlib.contextmanager
def locked(folder):
    """Holds what another test of the same folder waits for."""
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with open(folder + ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(folder, packages, *commands):
    """Runs the commands that put the packages into the folder, once; the process ends with 77 where they fail."""
    complete = os.path.join(folder, "complete")
    wanted = "\n".join(packages)
    with locked(folder):
        try:
            with open(complete, encoding="utf-8") as file:
                if file.read() == wanted:
                    return
        except OSError:
            pass
        # Half of one, or one of other packages.
        shutil.rmtree(folder, ignore_errors=True)
        try:
            for command in commands:
                subprocess.run(command, check=True, capture_output=True, timeout=400)
            with open(complete, "w", encoding="utf-8") as file:
                file.write(wanted)
        except (OSError, subprocess.SubprocessError) as error:
            detail = getattr(error, "stderr", b"") or b""
            print(f"skipped: {', '.join(packages)}: cannot be had: {error}\n{detail.decode(errors='replace')[-500:]}")
            sys.exit(77)


def enter(folder, packages, program):
    """Runs the program again, with --inside, in a virtual environment that has the packages."""
    python = os.path.join(folder, "bin", "python")
    make(folder, packages, [sys.executable, "-m", "venv", folder],
         [python, "-m", "pip", "install", "--quiet", *packages])
    os.execv(python, [python, os.path.abspath(program), *sys.argv[1:], "--inside"])
