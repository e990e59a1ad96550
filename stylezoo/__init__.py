"""Neural style transfer: one paper is one file, trained from a YAML recipe.

import stylezoo
stylezoo.list_models()                                      # ['adain', 'cin', ...]
image = stylezoo.stylize("cat.jpg", "waves.jpg", model="adain", alpha=0.8)
model = stylezoo.load_model("sanet.ckpt")                   # a LightningModule in eval mode
model = stylezoo.create_model("adain", pretrained=True)     # without pretrained: random weights, for training
output = model(content, style)                              # (B, 3, H, W), RGB: [0, 1] in, out not clamped

PyTorch and Lightning, which take seconds to import, are imported when the first of these names is used.
"""

from typing import TYPE_CHECKING

from stylezoo.lazy import lazy_names
from stylezoo.version import __version__

if TYPE_CHECKING:
    from stylezoo.checkpoints import create_model, import_checkpoint, load_model, save_model
    from stylezoo.errors import StylezooError
    from stylezoo.exporters import export
    from stylezoo.inference import stylize
    from stylezoo.module import StyleModel
    from stylezoo.registry import list_models

__all__ = [
    "StyleModel",
    "StylezooError",
    "__version__",
    "create_model",
    "export",
    "import_checkpoint",
    "list_models",
    "load_model",
    "save_model",
    "stylize",
]

if not TYPE_CHECKING:  # type checkers know the names above, and no others
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "StyleModel": ".module",
            "StylezooError": ".errors",
            "create_model": ".checkpoints",
            "export": ".exporters",
            "import_checkpoint": ".checkpoints",
            "list_models": ".registry",
            "load_model": ".checkpoints",
            "save_model": ".checkpoints",
            "stylize": ".inference",
        },
    )
