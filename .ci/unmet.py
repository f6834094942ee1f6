"""Print what of the project's requirements, extra ``dev`` included, this Python does not meet. One a line."""

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


for requirement in expanded([*project["dependencies"], *project["optional-dependencies"]["dev"]]):
    if not met(requirement):
        print(requirement)
