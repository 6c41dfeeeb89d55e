"""What a dashboard's page shows, read off its widgets, and a challenger for it."""

import ipywidgets as w

from mlworkbench.core.settings import Settings
from mlworkbench.models.registry import model_names
from mlworkbench.pipeline.tracking import mlflow_client


def texts(widget: w.Widget) -> str:
    "All text of the page."
    own = [widget.value] if isinstance(widget, w.HTML) else []
    return " ".join(own + [texts(child) for child in getattr(widget, "children", ())])


def find(widget: w.Widget, kind: type, **traits) -> list:
    "Widgets of the kind that have these traits."
    fits = isinstance(widget, kind) and all(getattr(widget, k) == v for k, v in traits.items())
    below = [f for child in getattr(widget, "children", ()) for f in find(child, kind, **traits)]
    return [widget] * fits + below


def challenge(settings: Settings, metric: str = "0.75") -> None:
    "A challenger of the model `m`, which has metrics and nothing to load."
    client = mlflow_client(settings)
    if not model_names(settings):
        client.create_registered_model("m")
    tags = {"metric.auc": metric, "mlw.run": "<b>r1</b>"}
    version = client.create_model_version("m", f"{settings.root}/model", tags=tags).version
    client.set_registered_model_alias("m", "challenger", version)
