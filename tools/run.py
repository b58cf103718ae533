"""The commands of the Makefile: `python3 tools/run.py test` is `make test`.

This file picks the Python to work with, so any Python must be able to parse it: no syntax newer than 2.7.
"""

import os
import subprocess
import sys

OLDEST, NEWEST = (3, 10), (3, 13)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NAMES = ["python3.12", "python3.11", "python3.13", "python3.10", "python3", "python"]

PROBE = """
import sys
v = sys.version_info
lacks = []
for name in ("venv", "ensurepip"):
    try:
        __import__(name)
    except ImportError:
        lacks.append(name)
print("%d.%d.%d %s" % (v[0], v[1], v[2], " ".join(lacks)))
"""


def probe(command):
    """Return (version, modules it lacks) of an interpreter, or None when it does not start."""
    try:
        child = subprocess.Popen([command, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        words = child.communicate()[0].decode().split()
    except (OSError, ValueError):
        return None
    if child.returncode or not words:
        return None
    version = tuple(int(part) for part in words[0].split("."))
    return version, words[1:]


def objection(version, lacks):
    """Say why an interpreter will not do, or return None when it will."""
    if not OLDEST <= version[:2] <= NEWEST:
        return "needs 3.{0} to 3.{1}".format(OLDEST[1], NEWEST[1])
    if lacks:
        return "lacks {0} (on Debian and Ubuntu: install python{1}.{2}-venv)".format(
            " and ".join(lacks), version[0], version[1]
        )
    return None


def choose(asked):
    """Return the path of a Python that will do, or exit with what was found and why it will not."""
    seen = []
    for name in [asked] if asked else [sys.executable or "python3"] + NAMES:
        found = probe(name)
        why = objection(*found) if found else "does not start"
        if not why:
            return name
        if found or asked:
            version = ".".join(map(str, found[0])) if found else "?"
            seen.append("  {0} ({1}): {2}".format(name, version, why))
    sys.stderr.write(
        "No Python that will do. Found:\n{0}\nSet PYTHON to another one, for example: make test PYTHON=python3.12\n".format(
            "\n".join(sorted(set(seen), key=seen.index)) or "  none"
        )
    )
    sys.exit(2)


def main():
    """Choose a Python, continue in it, and hand over to `tools.commands`."""
    python = choose(os.environ.get("PYTHON"))
    if os.environ.pop("ASTRONOMER_TOOLS_REEXEC", None) is None and python != sys.executable:
        os.environ["ASTRONOMER_TOOLS_REEXEC"] = "1"
        os.execvp(python, [python] + sys.argv)
    sys.path[0] = ROOT
    os.chdir(ROOT)
    from tools import commands

    return commands.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
