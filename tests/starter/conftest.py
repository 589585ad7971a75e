from __future__ import annotations

import pytest

from glasshouse.plugins.starter.world.scene import Scene, render_scene

N_SCENES = 400


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    return [render_scene(3, index) for index in range(N_SCENES)]
