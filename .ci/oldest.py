"""Print the oldest versions that pyproject.toml allows of what the package needs, as constraints for pip."""

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def oldest(requirement: str) -> str:
    """numpy>=1.26 -> numpy==1.26."""
    name, version = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement).groups()
    return f"{name}=={version}"


if __name__ == "__main__":
    extras = [wanted for name, wanted in PROJECT["optional-dependencies"].items() if name != "dev"]
    wanted = [*PROJECT["dependencies"], *(requirement for extra in extras for requirement in extra)]
    print(*(oldest(requirement) for requirement in wanted if not requirement.startswith("onestage[")), sep="\n")
