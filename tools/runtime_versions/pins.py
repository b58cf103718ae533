"""What `runtime/constraints.txt` says of the distributions that `runtime/requirements.txt` names."""

from __future__ import annotations

import json
import re
from pathlib import Path

from astronomer.runtime.versions import Manifest

__all__ = ["differences", "provider_pins", "refreshed"]

PROVIDER = "apache-airflow-providers-"


def provider_pins(folder: Path) -> dict[str, str]:
    """Provider -> version, for the providers that the image holds by name.

    :raises ValueError: one of them has no pin; run `make lock`.
    """
    pins = _pins(folder)
    lines = (folder / "requirements.txt").read_text().splitlines()
    names = [re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0] for line in lines if line.startswith(PROVIDER)]
    if missing := [name for name in names if name not in pins]:
        raise ValueError(f"runtime/constraints.txt has no pin of {', '.join(missing)}; run `make lock`")
    return {name: pins[name] for name in sorted(names)}


def refreshed(folder: Path) -> str:
    """The text of versions.json with the pinned providers in its newest release, if that is still an alpha."""
    text = (folder / "versions.json").read_text()
    newest, data = Manifest.parse(text).newest(), json.loads(text)
    if newest.channel == "alpha":
        form = "runtimeVersionsV3" if newest.tag.of_airflow else "runtimeVersions"
        data[form][str(newest.tag)]["metadata"]["providers"] = provider_pins(folder)
    return json.dumps(data, indent=2) + "\n"


def differences(folder: Path, package: str) -> list[str]:
    """Where the newest release is not what would be built now; an alpha gets the pinned providers by itself.

    :param package: the version of this distribution.
    """
    newest = Manifest.read(folder / "versions.json").newest()
    wanted = {
        "Airflow": (newest.airflow, _pins(folder).get("apache-airflow")),
        "astronomer-providers": (newest.package, package),
    }
    if newest.channel != "alpha":
        pins = provider_pins(folder)
        wanted |= {name: (newest.providers.get(name), pins.get(name)) for name in {*newest.providers, *pins}}
    advice = "correct it" if newest.channel == "alpha" else "it has appeared, so list a new release"
    return [
        f"{newest.tag} lists {name} {listed}, and the image would hold {built}: {advice}"
        for name, (listed, built) in sorted(wanted.items())
        if listed != built
    ]


def _pins(folder: Path) -> dict[str, str]:
    lines = (folder / "constraints.txt").read_text().splitlines()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", "\n".join(lines), re.MULTILINE))
