"""Says on which machine, and in what mood of it, a run was made."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime


def describe_machine() -> str:
    load, _, _ = os.getloadavg()
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{now} · {os.cpu_count()} CPUs · Linux {platform.release()} · "
        f"Python {platform.python_version()} · load {load:.1f} at the start"
    )
