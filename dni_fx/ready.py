"""What has to be there before a graph is made: our own `passes`, and the operator that files hold."""

from __future__ import annotations

import passes

if not hasattr(passes, "BoundarySpec"):
    raise ImportError(
        f"dni_fx needs its own package `passes`, and another one comes first on the path: {passes.__file__}. "
        "Rename that one, or run from another folder."
    )

from dni_fx import marker as marker
