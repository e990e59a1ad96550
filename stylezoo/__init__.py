"""Neural style transfer: one paper is one file, trained from a YAML recipe.

import stylezoo
stylezoo.list_models()                                      # ['adain', 'cin', ...]
image = stylezoo.stylize("cat.jpg", "waves.jpg", model="adain", alpha=0.8)
model = stylezoo.load_model("sanet.ckpt")                   # a LightningModule in eval mode
model = stylezoo.create_model("adain", pretrained=True)     # without pretrained: random weights, for training
output = model(content, style)                              # (B, 3, H, W) in, (B, 3, H, W) out, RGB in [0, 1]
"""

from stylezoo.checkpoints import create_model, import_checkpoint, load_model, save_model
from stylezoo.errors import StylezooError
from stylezoo.inference import stylize
from stylezoo.module import StyleModel
from stylezoo.registry import list_models

__version__ = "0.1.0"

__all__ = [
    "StyleModel",
    "StylezooError",
    "create_model",
    "import_checkpoint",
    "list_models",
    "load_model",
    "save_model",
    "stylize",
]
