"""Stylizes an image with a model that `python -m stylezoo export` wrote, with onnxruntime, numpy and Pillow alone.

python -m stylezoo export --model adain --output adain.onnx
python docs/onnx_python/stylize.py adain.onnx photo.jpg painting.jpg output.png --alpha 0.8
"""

import argparse

import numpy as np
import onnxruntime
from PIL import Image

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("images", nargs="+", help="the content, the style image if the model takes one, and the output")
parser.add_argument("--alpha", type=float, default=1.0, help="strength of the style, where the model takes it")
arguments = parser.parse_args()


def read(path: str) -> np.ndarray:
    """Returns an image as (1, 3, H, W), RGB in [0, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32) / 255
    return pixels.transpose(2, 0, 1)[None]


session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
taken = [port.name for port in session.get_inputs()]
*sources, target = arguments.images
wanted = [name for name in ("content", "style") if name in taken]
if len(sources) != len(wanted):
    parser.error(f"this model takes {' and '.join(wanted)}, and then the output")
inputs = dict(zip(wanted, map(read, sources), strict=True))
if "alpha" in taken:
    inputs["alpha"] = np.array(arguments.alpha, dtype=np.float32)
(output,) = session.run(None, inputs)
Image.fromarray((output[0].clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)).save(target)
