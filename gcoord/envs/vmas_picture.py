"""Pictures of a VMAS world by its own renderer, without a window and without a word where OpenGL is missing."""

from __future__ import annotations

import ctypes
import importlib
import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Extent = tuple[float, float, float, float]


class Camera:
    """Takes pictures of the first team of a scenario's world: off-screen, through EGL, or not at all."""

    def __init__(self, scenario: Any) -> None:
        self._scenario = scenario
        self._renderer: Any = None
        self._works = True

    def take(self) -> tuple[NDArray[np.uint8], Extent] | tuple[None, None]:
        """The image [H, W, 3] and what it shows in the world's units (left, right, bottom, top), or twice None."""
        if not self._works:
            return None, None
        # OpenGL fails in as many ways as there are drivers; none of them may end an evaluation.
        try:
            if self._renderer is None:
                self._renderer = self._start()
            image = self._renderer.render(mode="rgb_array", env_index=0)
            left, right, bottom, top = self._renderer.viewer.bounds.tolist()
            return np.ascontiguousarray(image, dtype=np.uint8), (left, right, bottom, top)
        except Exception as error:
            log.debug("vmas draws no pictures here: %s", error)
            self._works = False
            return None, None

    def _start(self) -> Any:
        """The simulator's Environment, of which only the renderer is used; raises where there is no EGL device."""
        pyglet = importlib.import_module("pyglet")
        pyglet.options["headless"] = True
        pyglet.lib.load_library("EGL")
        count = importlib.import_module("pyglet.libs.egl.egl").EGLint()
        importlib.import_module("pyglet.libs.egl.eglext").eglQueryDevicesEXT(0, None, ctypes.byref(count))
        if not count.value:
            raise OSError("EGL has no device")
        environment = importlib.import_module("vmas.simulator.environment").Environment
        renderer = environment.__new__(environment)
        world = self._scenario.world
        known = {
            "scenario": self._scenario,
            "_batch_dim": world.batch_dim,
            "_device": world.device,
            "num_envs": world.batch_dim,
            "world": world,
            "agents": world.policy_agents,
            "n_agents": len(world.policy_agents),
            "viewer": None,
            "headless": None,
            "visible_display": None,
            "text_lines": None,
        }
        for name, value in known.items():
            setattr(renderer, name, value)
        return renderer
