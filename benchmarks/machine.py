"""What one needs to know to repeat a measurement."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["facts"]


def facts(*packages: str) -> dict[str, Any]:
    """Processor, Python and the versions of what is measured; the load shows whether anything else ran."""
    return {
        "cpus": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_before": [round(one, 2) for one in os.getloadavg()],
        **{name: version(name) for name in ("apache-airflow", *packages, "aiohttp")},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
