"""A notebook-first MLOps workbench. These are the names that the author of a step notebook needs."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlworkbench.pipeline.step import File, Input, Table, figure, load, metric, path, save

__version__ = "0.1.0"
__all__ = ["File", "Input", "Table", "figure", "load", "metric", "path", "save"]


def __getattr__(name: str):
    # Loaded at first use, so that the command line starts at once and nbdev-export works while a module is broken.
    if name in __all__:
        return getattr(importlib.import_module("mlworkbench.pipeline.step"), name)
    raise AttributeError(f"module 'mlworkbench' has no attribute '{name}'")


def load_ipython_extension(shell) -> None:
    "`%load_ext mlworkbench`: the magics `%mlw` and `%%mlw`."
    from mlworkbench.app.magics import load_ipython_extension as load

    load(shell)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
