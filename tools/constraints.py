"""Print the exact versions that `.[all,dev]` stands on here, for constraints.txt.

Run as `.venv/bin/python tools/constraints.py > constraints.txt` once the tests pass.
"""

import re
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(root: str, extras: set[str]) -> dict[str, str]:
    """Distribution name -> public version of all that `root` with `extras` needs on this system."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # a requirement of some extra that this system does not use
        found[name] = re.sub(r"\+.*", "", package.version)  # 2.13.0+cpu is one build of 2.13.0
        for text in package.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                waiting += [(needed, wanted) for wanted in ("", *requirement.extras)]
    del found[root]
    return found


if __name__ == "__main__":
    print("# Versions that the tests passed with; written by tools/constraints.py.")
    for name, version in sorted(closure("dmedge", {"all", "dev"}).items()):
        print(f"{name}=={version}")
