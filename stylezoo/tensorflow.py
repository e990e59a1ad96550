"""Public weights of TensorFlow implementations, under the names and in the layouts of the zoo's networks.

Magenta's image_stylization (CIN) and arbitrary_image_stylization (magenta/magenta@526d3eb), and lengstrom/fast-style-transfer
(Johnson). Kernels of TensorFlow are (height, width, in, out).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stylezoo.errors import StylezooError
from stylezoo.layers import RESIDUAL_BLOCKS, oihw
from stylezoo.weights import Tensors, read_tensors


def read_fast_style_transfer(tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
    """Renames the variables of lengstrom/fast-style-transfer src/transform.py.

    They are called Variable (kernel), Variable_1 (shift), Variable_2 (scale), and so on in network order. The convolutions
    have no bias, which a normalization would remove again.

    Raises:
        StylezooError: If a variable is missing.
    """
    layers = [f"contract.{i}" for i in range(3)]
    layers += [f"residual.{block}.{i}" for block in range(RESIDUAL_BLOCKS) for i in range(2)]
    layers += ["expand.0", "expand.1", "last"]
    renamed: Tensors = {}
    for index, name in enumerate(layers):
        kernel, shift, scale = (
            tensors.get("Variable" + (f"_{n}" if n else "")) for n in range(3 * index, 3 * index + 3)
        )
        if kernel is None or shift is None or scale is None:
            raise StylezooError(f"These are not the 48 tensors of a fast-style-transfer network: {name} is missing.")
        renamed[f"{name}.conv.weight"] = oihw(kernel)
        renamed[f"{name}.conv.bias"] = torch.zeros_like(shift)
        renamed[f"{name}.norm.weight"], renamed[f"{name}.norm.bias"] = scale, shift
    settings = {
        "width": len(renamed["contract.0.conv.weight"]) / 32,
        "upsample": "transposed",
        "padding": "same",
        "tail": "tanh150_gray",
        "pixels": "rgb255",
        "norm_last": True,
        "norm_eps": 1e-3,  # transform.py _instance_norm
    }
    return renamed, settings


def read_image_stylization(tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
    """Renames the variables of magenta's image_stylization and of the 26 styles of TensorFlow's Android demo.

    The shapes follow from the tensors; files know no names, so that styles are called style0, style1 ...

    Raises:
        StylezooError: If a variable is missing.
    """
    if "transformer/contract/conv1/weights" not in tensors:
        return tensors, {}
    blocks = sum(1 for key in tensors if re.fullmatch(r"transformer/residual/residual\d+/conv1/weights", key))
    layers = {f"contract.{i}": f"contract/conv{i + 1}" for i in range(3)}
    layers |= {f"residual.{i}": f"residual/residual{i // 2 + 1}/conv{i % 2 + 1}" for i in range(2 * blocks)}
    layers |= {f"expand.{i}": f"expand/conv{i + 1}/conv" for i in range(3)}
    norms = [f"transformer/{theirs}/InstanceNorm" for theirs in layers.values()]
    wanted = [f"transformer/{theirs}/weights" for theirs in layers.values()]
    missing = [key for key in [*wanted, *(f"{n}/{k}" for n in norms for k in ("gamma", "beta"))] if key not in tensors]
    if missing:
        raise StylezooError(f"This checkpoint of image_stylization lacks {missing[0]}.")
    renamed = {f"{ours}.weight": oihw(tensors[key]) for ours, key in zip(layers, wanted, strict=True)}
    renamed["scale"] = torch.cat([tensors[f"{norm}/gamma"] for norm in norms], 1)
    renamed["shift"] = torch.cat([tensors[f"{norm}/beta"] for norm in norms], 1)
    names = ("contract.0", "contract.1", "contract.2", "expand.0", "expand.1")
    return renamed, {
        "channels": [len(renamed[f"{name}.weight"]) for name in names],
        "blocks": blocks,
        "style_names": [f"style{i}" for i in range(len(renamed["scale"]))],
    }


def read_arbitrary_image_stylization(tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
    """Renames the variables of magenta's arbitrary_image_stylization, of a whole checkpoint or of one half.

    Names are those of magenta's ``model.ckpt``, of the checkpoints of the separable network for browsers, or of the TFLite
    files ``style_predict_quantized_256`` and ``style_transfer_f16_384``.

    Args:
        tensors: As the file has them.

    Returns:
        See `stylezoo.module.StyleModel.read_public`.

    Raises:
        StylezooError: If a variable is missing.
    """
    tensors = _from_tflite(tensors) if any("|" in key for key in tensors) else tensors
    networks = {"InceptionV3/Conv2d_1a_3x3/weights": "inception_v3", "MobilenetV2/Conv/weights": "mobilenet_v2"}
    network = next((name for key, name in networks.items() if key in tensors), None)
    parts: dict[str, Tensors] = {}
    settings: dict[str, Any] = {}
    try:
        if network is not None:
            parts["predictor"] = _read_predictor(tensors, network)
            settings["predictor"] = network
        if "transformer/contract/conv1/weights" in tensors:
            parts["transformer"], found = _read_transformer(tensors)
            settings |= found
    except KeyError as error:
        raise StylezooError(f"This checkpoint of arbitrary_image_stylization lacks {error.args[0]}.") from error
    if len(parts) == 2:
        return {f"{part}.{key}": t for part, named in parts.items() for key, t in named.items()}, settings
    return next(iter(parts.values()), tensors), settings


# InceptionV3 by torchvision's and by slim's names (google-research/tf-slim@a028606 tf_slim/nets/inception_v3.py).
_STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
_BLOCK_A = {
    "branch1x1": "Branch_0/Conv2d_0a_1x1",
    "branch5x5_1": "Branch_1/Conv2d_0a_1x1",
    "branch5x5_2": "Branch_1/Conv2d_0b_5x5",
    "branch3x3dbl_1": "Branch_2/Conv2d_0a_1x1",
    "branch3x3dbl_2": "Branch_2/Conv2d_0b_3x3",
    "branch3x3dbl_3": "Branch_2/Conv2d_0c_3x3",
    "branch_pool": "Branch_3/Conv2d_0b_1x1",
}
_BLOCK_B = {
    "branch3x3": "Branch_0/Conv2d_1a_1x1",  # 3x3 whatever it is called, as the other 1a_1x1
    "branch3x3dbl_1": "Branch_1/Conv2d_0a_1x1",
    "branch3x3dbl_2": "Branch_1/Conv2d_0b_3x3",
    "branch3x3dbl_3": "Branch_1/Conv2d_1a_1x1",
}
_BLOCK_C = {
    "branch1x1": "Branch_0/Conv2d_0a_1x1",
    "branch7x7_1": "Branch_1/Conv2d_0a_1x1",
    "branch7x7_2": "Branch_1/Conv2d_0b_1x7",
    "branch7x7_3": "Branch_1/Conv2d_0c_7x1",
    "branch7x7dbl_1": "Branch_2/Conv2d_0a_1x1",
    "branch7x7dbl_2": "Branch_2/Conv2d_0b_7x1",
    "branch7x7dbl_3": "Branch_2/Conv2d_0c_1x7",
    "branch7x7dbl_4": "Branch_2/Conv2d_0d_7x1",
    "branch7x7dbl_5": "Branch_2/Conv2d_0e_1x7",
    "branch_pool": "Branch_3/Conv2d_0b_1x1",
}
_MIXED = {
    "Mixed_5b": _BLOCK_A,
    "Mixed_5c": _BLOCK_A | {"branch5x5_1": "Branch_1/Conv2d_0b_1x1", "branch5x5_2": "Branch_1/Conv_1_0c_5x5"},
    "Mixed_5d": _BLOCK_A,
    "Mixed_6a": _BLOCK_B,
    **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), _BLOCK_C),
}
_MOBILE_BLOCKS = 17


def _feature_layers(network: str) -> Iterator[tuple[str, str, str]]:
    """(our convolution, our norm, TensorFlow's kernel) of all layers of a predictor."""
    if network == "inception_v3":
        for name in _STEM:
            yield f"{name}.conv", f"{name}.bn", f"InceptionV3/{name}/weights"
        for block, branches in _MIXED.items():
            for ours, theirs in branches.items():
                yield f"{block}.{ours}.conv", f"{block}.{ours}.bn", f"InceptionV3/{block}/{theirs}/weights"
        return
    yield "0.0", "0.1", "MobilenetV2/Conv/weights"
    for i in range(_MOBILE_BLOCKS):
        scope = f"MobilenetV2/expanded_conv_{i}" if i else "MobilenetV2/expanded_conv"
        layer = 0
        if i:  # the first block does not expand
            yield f"{i + 1}.conv.0.0", f"{i + 1}.conv.0.1", f"{scope}/expand/weights"
            layer = 1
        yield f"{i + 1}.conv.{layer}.0", f"{i + 1}.conv.{layer}.1", f"{scope}/depthwise/depthwise_weights"
        yield f"{i + 1}.conv.{layer + 1}", f"{i + 1}.conv.{layer + 2}", f"{scope}/project/weights"
    yield f"{_MOBILE_BLOCKS + 1}.0", f"{_MOBILE_BLOCKS + 1}.1", "MobilenetV2/Conv_1/weights"


def _read_norm(tensors: Tensors, ours: str, kernel: str) -> Tensors:
    scope = f"{kernel.rpartition('/')[0]}/BatchNorm"
    norm = {
        f"{ours}.bias": tensors[f"{scope}/beta"],
        f"{ours}.running_mean": tensors[f"{scope}/moving_mean"],
        f"{ours}.running_var": tensors[f"{scope}/moving_variance"],
        f"{ours}.num_batches_tracked": torch.tensor(0),
    }
    return norm | ({f"{ours}.weight": tensors[f"{scope}/gamma"]} if scope.startswith("MobilenetV2") else {})


def _kernel(tensors: Tensors, key: str) -> Tensor:
    """A kernel (height, width, in, out); depthwise ones are (height, width, channels, 1)."""
    kernel = tensors[key]
    return kernel.permute(2, 3, 0, 1).contiguous() if key.endswith("depthwise_weights") else oihw(kernel)


def _read_features(tensors: Tensors, network: str) -> Tensors:
    features: Tensors = {}
    for conv, norm, kernel in _feature_layers(network):
        features[f"{conv}.weight"] = _kernel(tensors, kernel)
        features |= _read_norm(tensors, norm, kernel)
    return features


def _read_predictor(tensors: Tensors, network: str) -> Tensors:
    renamed = {f"features.{key}": tensor for key, tensor in _read_features(tensors, network).items()}
    scope = "Conv" if network == "inception_v3" else "mobilenet_conv/Conv"
    renamed["bottleneck.weight"] = oihw(tensors[f"{scope}/weights"]).flatten(1)
    renamed["bottleneck.bias"] = tensors[f"{scope}/biases"]
    return renamed


def _read_transformer(tensors: Tensors) -> tuple[Tensors, dict[str, Any]]:
    separable = "transformer/residual/residual1/dilate_conv1/depthwise_weights" in tensors
    renamed: Tensors = {}
    for i in range(3):
        kernel = f"transformer/contract/conv{i + 1}/weights"
        renamed[f"contract.{i}.weight"] = oihw(tensors[kernel])
        renamed |= _read_norm(tensors, f"norms.{i}", kernel)
    residual = [f"residual/residual{i // 2 + 1}/{{}}conv{i % 2 + 1}" for i in range(2 * RESIDUAL_BLOCKS)]
    expand = [f"expand/conv{i + 1}/{{}}conv" for i in range(3)]
    names = [f"residual.{i}" for i in range(2 * RESIDUAL_BLOCKS)] + [f"expand.{i}" for i in range(3)]
    for ours, theirs in zip(names, [*residual, *expand], strict=True):
        if separable:
            scope = f"transformer/{theirs.format('dilate_')}"
            renamed[f"{ours}.0.weight"] = _kernel(tensors, f"{scope}/depthwise_weights")
            renamed[f"{ours}.1.weight"] = _kernel(tensors, f"{scope}/pointwise_weights")
        else:
            renamed[f"{ours}.weight"] = _kernel(tensors, f"transformer/{theirs.format('')}/weights")
    for ours, theirs in (("shift", "Conv"), ("scale", "Conv_1")):
        scopes = [f"style_params/transformer/{name.format('')}/StyleNorm/{theirs}" for name in [*residual, *expand]]
        renamed[f"{ours}.weight"] = torch.cat([oihw(tensors[f"{scope}/weights"]).flatten(1) for scope in scopes])
        renamed[f"{ours}.bias"] = torch.cat([tensors[f"{scope}/biases"] for scope in scopes])
    settings: dict[str, Any] = {"width": len(renamed["contract.0.weight"]) / 32}
    if separable:  # reiinakano/arbitrary-image-stylization-tfjs@9df4c5b: its graph pads zeros
        settings |= {"separable": True, "padding": "zeros"}
    return renamed, settings


def read_classifier(path: str, network: str, names: list[str]) -> Tensors:
    """Reads the weights of an ImageNet classifier for a style predictor.

    Args:
        path: A file with slim's or torchvision's names.
        network: ``inception_v3`` or ``mobilenet_v2``.
        names: Of the predictor's tensors.

    Raises:
        StylezooError: If they are not the weights of this network.
    """
    tensors = read_tensors(path)
    if next(iter(_feature_layers(network)))[2] in tensors:
        return _read_features(tensors, network)
    found = {key: tensors.get(key, tensors.get(f"features.{key}")) for key in names}
    missing = [key for key, tensor in found.items() if tensor is None]
    if missing:
        raise StylezooError(f"{path} holds no {network} as TensorFlow or torchvision name it: {missing[0]} is missing.")
    for key in names:  # the norms of this Inception have shifts only
        scale = tensors.get(f"{key.removesuffix('.bias')}.weight") if network == "inception_v3" else None
        if key.endswith(".bn.bias") and scale is not None and not (scale == 1).all():
            raise StylezooError(
                f"{path} scales behind its norms ({key}), which magenta's Inception-v3 cannot: slim's fits."
            )
    return {key: tensor for key, tensor in found.items() if tensor is not None}


# What each block of the quantized MobileNet-V2 gets ranges over this much, from expanded_conv_1 to 16 and Conv_1: means of
# four sets of 100 paintings, which agree to about 6 %; see `_bias_unit`.
_RANGES = (70.2, 48.4, 75.0, 46.9, 53.0, 69.5, 50.7, 51.0, 54.8, 56.6, 43.3, 45.9, 49.7, 62.5, 88.2, 126.3, 154.8)


def _from_tflite(tensors: Tensors) -> Tensors:
    """Tensors of a TFLite file under the names, and in the layouts, of the checkpoint that they were converted from.

    Kernels are (out, height, width, in), depthwise ones (1, height, width, channels). Batch norms were folded into the
    kernels: what is left of them is a shift.
    """
    renamed: Tensors = {}
    for key, tensor in tensors.items():
        scope, _, kind = key.replace("|", "/").rpartition("/")
        if kind in ("weights", "depthwise_weights"):
            renamed[f"{scope}/{kind}"] = tensor.float().permute(1, 2, 3, 0)
        elif kind in ("Conv2D_bias", "depthwise_bias") and ("StyleNorm" in scope or scope.startswith("mobilenet_conv")):
            renamed[f"{scope}/biases"] = tensor.float()
        elif kind in ("Conv2D_bias", "depthwise_bias"):
            shift = tensor.float()
            if not tensor.is_floating_point():
                shift = shift * _bias_unit(tensors, key)
            ones = torch.ones_like(shift)
            norm = {"beta": shift, "gamma": ones, "moving_mean": 0 * ones, "moving_variance": ones - 1e-3}
            renamed |= {f"{scope}/BatchNorm/{name}": t for name, t in norm.items()}
    return renamed


def _bias_unit(tensors: Tensors, key: str) -> Tensor:
    """What 1 means in the int32 biases of a quantized layer: the step of its input times that of its kernel, (C,).

    Kernels have 127 steps to their largest weight, per output channel. The steps of the activations are not in the file:
    they are 1/255 of the range that an activation had on 100 style images (arbitrary_image_stylization_convert_tflite.py). That is
    1 for the image and 6 behind a ReLU6; the ranges of the blocks without one were found by repeating that on paintings.
    """
    scope, _, kind = key.rpartition("|")
    if kind == "depthwise_bias":
        kernel = tensors[f"{scope}|depthwise_weights"].flatten(0, 2).T
    else:
        kernel = tensors[f"{scope}|weights"].flatten(1)
    name = scope.removeprefix("MobilenetV2|")
    if name == "Conv":
        extent = 1.0
    elif match := re.fullmatch(r"expanded_conv_(\d+)\|expand|Conv_(1)", name):
        extent = _RANGES[int(match[1]) - 1 if match[1] else _MOBILE_BLOCKS - 1]
    else:
        extent = 6.0
    return kernel.abs().amax(1) / 127 * extent / 255
