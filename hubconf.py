"""Entry points of `torch.hub`: every model that ships, and `model` for whatever `stylezoo.load_model` takes.

model = torch.hub.load("PATH/OF/THIS/REPOSITORY", "adain_slim", source="local")
model = torch.hub.load("PATH/OF/THIS/REPOSITORY", "model", "sanet.safetensors", source="local")
model = torch.hub.load("PATH/OF/THIS/REPOSITORY", "model", "sanet", pretrained=False, source="local", style_weight=5.0)
output = model(content, style)  # (B, 3, H, W), RGB: [0, 1] in, out not clamped

`torch.hub.list` names the entry points: tags with an underscore in place of the point, and systems, which load their default.
"""

from collections.abc import Callable as _Callable
from typing import Any as _Any

from stylezoo import catalog as _catalog
from stylezoo import create_model as _create_model
from stylezoo.module import StyleModel as _StyleModel

dependencies = ["torch", "torchvision", "lightning", "jsonargparse", "safetensors", "rich", "yaml"]
"""What `torch.hub` looks for before it calls an entry point."""


def model(name: str, pretrained: bool = True, **settings: _Any) -> _StyleModel:
    """Returns a model of any system, see `stylezoo.create_model`.

    Args:
        name: A tag such as adain.slim, the name of a system, a file, a folder, or hf-hub:OWNER/NAME.
        pretrained: Whether to load weights, in eval mode; else they are random.
        **settings: Constructor arguments that replace the saved ones.
    """
    return _create_model(name, pretrained=pretrained, **settings)


def _entry(name: str) -> _Callable[..., _StyleModel]:
    def load(pretrained: bool = True, **settings: _Any) -> _StyleModel:
        if not pretrained:
            return _create_model(name.partition(".")[0], **settings)
        return _create_model(name, pretrained=True, **settings)

    load.__name__ = load.__qualname__ = name.replace(".", "_")
    load.__doc__ = f"""Returns {name}, as `stylezoo.load_model` does.

    Args:
        pretrained: Whether to load the weights, in eval mode; else they are random.
        **settings: Constructor arguments that replace the saved ones.
    """
    return load


for _name in [*_catalog.systems(), *_catalog.model_tags()]:
    globals()[_name.replace(".", "_")] = _entry(_name)
