"""Print what of the project's requirements this Python does not meet. One a line.

The extra ``dev`` is among them, and ``interfaces`` where DOLFINx is new enough for it.
"""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version

try:
    from packaging.requirements import Requirement
except ImportError:
    from pip._vendor.packaging.requirements import Requirement

with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]


def expanded(lines):
    for requirement in map(Requirement, lines):
        if requirement.name == project["name"]:
            for extra in sorted(requirement.extras):
                yield from expanded(project["optional-dependencies"][extra])
        else:
            yield requirement


def met(requirement):
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def has_dolfinx(*least):
    try:
        return tuple(map(int, version("fenics-dolfinx").split(".")[:2])) >= least
    except PackageNotFoundError:
        return False


extras = project["optional-dependencies"]
interfaces = extras["interfaces"] if has_dolfinx(0, 10) else []
for requirement in expanded([*project["dependencies"], *extras["dev"], *interfaces]):
    if not met(requirement):
        print(requirement)
