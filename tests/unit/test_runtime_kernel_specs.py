"""Where kernel specs are looked for."""

from __future__ import annotations

import json
from pathlib import Path

from sandbox_runtime.kernel_specs import kernel_specs


def test_the_specs_beside_a_python_are_found_by_its_name_alone(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.touch(mode=0o755)
    spec = tmp_path / "share/jupyter/kernels/mine/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["x"], "language": "Mine"}))

    assert kernel_specs("python3", str(python.parent))["mine"].resource_dir == str(spec.parent)
    assert "mine" not in kernel_specs("python3", str(tmp_path))
