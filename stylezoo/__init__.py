"""stylezoo: neural style transfer, one paper one file, trained from a YAML.

import stylezoo
stylezoo.list_models()                                      # ['adain', 'sanet', ...]
image = stylezoo.stylize("cat.jpg", "waves.jpg", model="adain.safetensors", alpha=0.8)
model = stylezoo.load_model("sanet.ckpt")                   # a LightningModule in eval mode
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
