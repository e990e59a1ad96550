"""How each system can be initialized by least squares, and which of its convolutions can be preconditioned.

One function per system that needs its own: what is regressed on what, what is set before, and in which units. A system
without one has a plain `Plan`: its convolutions can be preconditioned, but it has no regression targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylezoo.layers import StyleAttention, imagenet_normalized
from stylezoo.losses import mean_std, normalize
from stylezoo.models.adaattn import AdaAttN, AttentionNormalization
from stylezoo.models.adain import AdaIN
from stylezoo.models.cin import CIN
from stylezoo.models.efdm import EFDM
from stylezoo.models.linear_transfer import SIZE, LinearTransfer, Transformation
from stylezoo.models.magenta import Magenta
from stylezoo.models.microast import MicroAST
from stylezoo.models.msgnet import MSGNet, normalized_gram, to_bgr
from stylezoo.models.multi_level_adain import MultiLevelAdaIN
from stylezoo.models.multi_level_attention import MultiLevelAttention
from stylezoo.models.sanet import SANet
from stylezoo.models.sct import SCT
from stylezoo.models.sct import Transformation as CovarianceTransformation
from stylezoo.models.stytr2 import PATCH, DecoderLayer, EncoderLayer, Stack, StyTr2
from stylezoo.module import StyleModel
from stylezoo.training.identity_transformer import RESIDUAL_SCALE, color_parameters, initialize_identity, linear_fit
from stylezoo.vgg import VGG


class RegressionTarget(NamedTuple):
    """What the output of a convolution is regressed on, for an image that is stylized with itself.

    Attributes:
        conv: The convolution.
        features: ``image``; ``conv3_1`` and the like, the input of that convolution of the plan's ``mirror``; ``relu4_1``,
            the encoder's features.
        relu: Whether a ReLU follows.
    """

    conv: nn.Conv2d
    features: str
    relu: bool = True


@dataclass
class Plan:
    """What initialization and preconditioning need of a model.

    Attributes:
        model: The model.
        targets: What is fitted, in the order in which it runs; nothing if the weights are to stay random.
        prepare: Sets what no regression can find, such as an attention, before the fits; called with images (B, 3, H, W).
        to_pixels: RGB in [0, 1] in the units of the last convolution.
        convolutions: Those that are trained, by name.
        fan_in: Number of inputs that a parameter outside of these convolutions sums up: the columns of a matrix.
    """

    model: StyleModel
    targets: list[RegressionTarget] = field(default_factory=list)
    prepare: Callable[[Tensor], None] = lambda images: None
    to_pixels: Callable[[Tensor], Tensor] = lambda image: image
    fan_in: Callable[[nn.Parameter], int] = lambda p: p[0].numel() if p.ndim > 1 else len(p)
    convolutions: dict[str, nn.Conv2d] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.convolutions = self.convolutions or trained_convolutions(self.model)

    def restore(self, image: Tensor) -> Tensor:
        """Stylizes images with themselves, or in the trained styles in turn, (B, 3, H, W) -> (B, 3, H, W)."""
        if self.model.kind != "arbitrary":
            return self.model(image)  # type: ignore[no-any-return]
        return self.model.decode(image, self.model.encode_style(image))

    def mirror(self) -> VGG:
        """Returns the network whose convolutions the targets name: one of the decoder's widths."""
        encoder = self.model._modules.get("encoder")
        return encoder if isinstance(encoder, VGG) and encoder.flavor == "thin" else self.model.loss_encoder


def trained_convolutions(model: StyleModel) -> dict[str, nn.Conv2d]:
    """Returns the convolutions of a model that are trained, by name."""
    outside = ("additional.", *(f"{name}." for name, _ in model.encoders()))
    named = ((name, module) for name, module in model.named_modules() if not name.startswith(outside))
    return {n: m for n, m in named if isinstance(m, nn.Conv2d) and m.weight.requires_grad}


def mirrored_targets(decoder: Iterable[nn.Module]) -> list[RegressionTarget]:
    """Regresses each convolution of a `MirroredDecoder` on the input of the convolution of VGG-19 that it mirrors."""
    convs = [module for module in decoder if isinstance(module, nn.Conv2d)]
    names = ["conv4_1", "conv3_4", "conv3_3", "conv3_2", "conv3_1", "conv2_2", "conv2_1", "conv1_2"][-len(convs) + 1 :]
    inner = [RegressionTarget(conv, name) for conv, name in zip(convs, names, strict=False)]
    return [*inner, RegressionTarget(convs[-1], "image", relu=False)]


def adain(model: AdaIN | EFDM) -> Plan:
    """The decoder inverts the encoder."""
    return Plan(model, mirrored_targets(model.decoder))


def sanet(model: SANet) -> Plan:
    """The merging convolution restores relu4_1, which the decoder inverts."""
    transform = model.transform
    merge = RegressionTarget(transform.merge_conv, "relu4_1", relu=False)

    def prepare(images: Tensor) -> None:
        for attention in (transform.sanet4_1, transform.sanet5_1):
            initialize_attention(attention)

    return Plan(model, [merge, *mirrored_targets(model.decoder)], prepare)


def adaattn(model: AdaAttN) -> Plan:
    """The merging convolution restores relu4_1, which both parts of the decoder invert."""
    decoder = model.decoder
    merge = RegressionTarget(model.transformer.merge_conv, "relu4_1", relu=False)

    def prepare(images: Tensor) -> None:
        for attention in model.attentions.values():
            initialize_attention(attention)

    return Plan(model, [merge, *mirrored_targets([*decoder.decoder_layer_1, *decoder.decoder_layer_2])], prepare)


def multi_level_adain(model: MultiLevelAdaIN) -> Plan:
    """The decoder inverts VGG; where a level joins it, the same thing is restored again."""
    d = model.decoder
    full = d.concatenate == "full"
    convs = [d.rc1, d.rc2, d.rc3, d.rc4, d.rc5, d.rc6, d.rc7, d.rc8]
    names = ["conv4_1", "conv3_4" if full else "conv4_1", "conv3_3", "conv3_1"]
    names += ["conv2_2" if full else "conv3_1", "conv2_2", "conv2_1", "conv1_2"]
    inner = [RegressionTarget(block.conv, name) for block, name in zip(convs, names, strict=True)]
    last = RegressionTarget(d.rc9.conv, "image", relu=False)
    return Plan(model, [*inner, last], to_pixels=imagenet_normalized)


def multi_level_attention(model: MultiLevelAttention) -> Plan:
    """The merging convolution restores relu4_1, which the decoder inverts."""
    network, d = model.network, model.network.decoder
    convs = [d.rc0, d.rc1, d.rc2, d.rc3, d.rc4, d.rc5, d.rc6, d.rc7, d.rc8]
    names = ["relu4_1", "conv4_1", "conv3_4", "conv3_3", "conv3_2", "conv3_1", "conv2_2", "conv2_1", "conv1_2"]
    inner = [RegressionTarget(block.conv, name) for block, name in zip(convs, names, strict=True)]
    last = RegressionTarget(d.rc9.conv, "image", relu=False)

    def prepare(images: Tensor) -> None:
        for attention in (network.att1, network.att2):
            initialize_attention(attention)

    return Plan(model, [*inner, last], prepare, to_pixels=imagenet_normalized)


def linear_transfer(model: LinearTransfer) -> Plan:
    """A decoder that no file brought inverts the encoder; the linear maps start as the identity on principal components."""

    def prepare(images: Tensor) -> None:
        for layer in model.levels:
            parts = torch.split(images, 16)
            features = torch.cat([model.encoder(part, [layer])[layer] for part in parts])
            initialize_transformation(model.matrix(layer), features)
        model.decoder_is_trained = True  # when the fits that follow are done

    return Plan(model, [] if model.decoder_is_trained else mirrored_targets(model.decoder), prepare)


def sct(model: SCT) -> Plan:
    """The decoder inverts the encoder, from what principal components leave of its features.

    The expansion of covariances times components is the least-squares fit to the features of images stylized with themselves.
    """

    def prepare(images: Tensor) -> None:
        features = torch.cat([model.features(part) for part in torch.split(images, 16)])
        initialize_covariance(model.transformation, features)

    return Plan(model, mirrored_targets(model.decoder), prepare)


def msgnet(model: MSGNet) -> Plan:
    """The last convolution restores the image from the output of the untrained others.

    CoMatch keeps features of the mean Gram matrix as they are, so that other styles change them from the start.
    """
    last = model.generator.last.conv
    assert isinstance(last, nn.Conv2d)

    def prepare(images: Tensor) -> None:
        features = torch.cat([model.generator.encode(to_bgr(part)) for part in torch.split(images, 16)])
        mean = normalized_gram(features).mean(0)
        mean.diagonal().add_(0.1 * mean.diagonal().mean())  # damps the inverse
        model.generator.comatch.weight.copy_(torch.linalg.inv(mean)[None])

    return Plan(model, [RegressionTarget(last, "image", relu=False)], prepare, to_pixels=to_bgr)


def microast(model: MicroAST) -> Plan:
    """The last convolution restores the image from features that random weights keep alive.

    Depthwise convolutions average, residual blocks add little, filters are hardly modulated, and both encoders start
    alike. Depthwise convolutions are not preconditioned.
    """
    last = model.decoder.dec3[-1]
    assert isinstance(last, nn.Conv2d)

    def prepare(images: Tensor) -> None:
        for part in (model.content_encoder, model.modulator, model.decoder):
            for name, module in part.named_modules():
                if isinstance(module, nn.Conv2d):
                    initialize_random(module)
                    module.weight *= 0.1 if name.endswith("conv2") or part is model.modulator else 1.0
        for name in ("weight1", "weight2"):
            model.modulator.get_parameter(f"{name}.0.bias").fill_(1.0)
        model.style_encoder.load_state_dict(model.content_encoder.state_dict())

    convs = {name: conv for name, conv in trained_convolutions(model).items() if conv.groups == 1}
    return Plan(model, [RegressionTarget(last, "image", relu=False)], prepare, convolutions=convs)


class StyTr2Plan(Plan):
    """The decoder may be of half VGG's widths."""

    def mirror(self) -> VGG:
        decoder, loss_encoder = self.model.decoder, self.model.loss_encoder
        fits = loss_encoder.channels["relu3_1"] == decoder[1].out_channels  # type: ignore[index, union-attr]
        return loss_encoder if fits else VGG("vgg19_slim", last="relu4_1")


def stytr2(model: StyTr2) -> Plan:
    """Tokens are decorrelated patches; attention exchanges the mean token of the content for that of the style.

    A quarter of the channels or more is constant: beside them the norms of patches differ little, so that the layer norms
    let them pass. All else that the transformer adds starts at a tenth. The decoder inverts the encoder that is as wide.
    For matrices the fan-in is squared: tokens have much in common, so that the changes of a row add up.
    """
    return StyTr2Plan(
        model,
        mirrored_targets(model.decoder),
        lambda images: initialize_tokens(model, images),
        fan_in=lambda p: p[0].numel() ** 2 if p.ndim > 1 else len(p),
    )


def cin(model: CIN) -> Plan:
    """Nothing is fitted. A scale or shift changes one number."""
    return Plan(model, fan_in=lambda parameter: 1)


def magenta(model: Magenta, teacher: Magenta | None = None) -> Plan:
    """The transformer starts as the identity in the colors of the style, which linear maps read off the bottlenecks.

    The bottlenecks are those of the teacher if there is one. A separable network stays random. The convolutions of the
    transformer are preconditioned, but for depthwise ones.
    """

    def prepare(images: Tensor) -> None:
        transformer = model.transformer
        if model.hparams["separable"]:
            return
        scale, shift = initialize_identity(transformer, images)
        colors = color_parameters(images)
        predictor = (model if teacher is None else teacher.to(images.device)).predictor
        bottlenecks = torch.cat([predictor(part) for part in torch.split(images, 16)])
        for linear, first, last in zip((transformer.scale, transformer.shift), (scale, shift), colors, strict=True):
            linear.weight *= RESIDUAL_SCALE
            linear.bias.copy_(first)
            linear.weight[-3:], linear.bias[-3:] = linear_fit(bottlenecks, last, ridge=1e-2)

    convs = trained_convolutions(model).items()
    inner = {name: conv for name, conv in convs if name.startswith("transformer.") and conv.groups == 1}
    return Plan(model, prepare=prepare, convolutions=inner)


PLANS: dict[str, Callable[..., Plan]] = {
    "adaattn": adaattn,
    "adain": adain,
    "cin": cin,
    "efdm": adain,
    "linear_transfer": linear_transfer,
    "magenta": magenta,
    "microast": microast,
    "msgnet": msgnet,
    "multi_level_adain": multi_level_adain,
    "multi_level_attention": multi_level_attention,
    "sanet": sanet,
    "sct": sct,
    "stytr2": stytr2,
}
"""The plans of the systems that have their own, by name."""


def plan_of(model: StyleModel, **context: Any) -> Plan:
    """Returns the plan of a model.

    Args:
        model: Any system.
        **context: Further arguments of the system's plan, such as ``teacher`` of magenta.
    """
    return PLANS[model.system](model, **context) if model.system in PLANS else Plan(model)


# What is set before the fits


def initialize_attention(attention: StyleAttention | AttentionNormalization) -> None:
    """Sets identity maps: positions attend to those whose features are alike, and get these."""
    convs = [(attention.f, 1.0), (attention.g, len(attention.g.weight) ** -0.5), (attention.h, 1.0)]
    if isinstance(attention, StyleAttention):
        convs.append((attention.out_conv, 1.0))
    for conv, gain in convs:
        conv.weight.copy_(gain * torch.eye(len(conv.weight))[..., None, None])
        assert conv.bias is not None
        conv.bias.zero_()


def initialize_transformation(transformation: Transformation, features: Tensor) -> None:
    """Sets the principal components of features (B, C, H, W), each of variance 1, and the identity for both matrices."""
    axes, deviations = principal_axes(features, SIZE)
    transformation.compress.weight.copy_((axes / deviations).T[..., None, None])
    transformation.unzip.weight.copy_((axes * deviations)[..., None, None])
    for net in (transformation.snet, transformation.cnet):
        net.fc.weight.mul_(0.1)
        net.fc.bias.copy_(torch.eye(SIZE).flatten())
    for conv in (transformation.compress, transformation.unzip):
        assert conv.bias is not None
        conv.bias.zero_()


def initialize_covariance(transformation: CovarianceTransformation, features: Tensor) -> None:
    """Sets principal components of normalized features (B, C, H, W), as many as the networks can compute.

    A ReLU lets a component pass as itself and its opposite, which takes two channels.
    """
    narrowest = min(conv.out_channels for conv in transformation.cnet[:-1] if isinstance(conv, nn.Conv2d))
    count = min(SIZE, narrowest // 2)
    axes, deviations = principal_axes(normalize(features), count)
    scales = mean_std(features)[1].double().square().mean((0, 2, 3)).sqrt()[:, None]  # of a channel, over images
    compute_linearly(transformation.cnet, (axes / deviations).T)
    # Of the style's centered features, the variances of components are their `deviations` on the average.
    compute_linearly(transformation.snet, (axes / scales / deviations.sqrt()).T)
    mixed, wanted = [], []
    for part in torch.split(features, 16):
        code = transformation.encode(part)
        mixed.append(code["covariance"] @ transformation.cnet(normalize(part)).flatten(2))
        wanted.append((part - code["mean"]).flatten(2))
    x, y = (torch.cat(parts).transpose(0, 1).flatten(1).double() for parts in (mixed, wanted))
    damping = 1e-3 * x.square().sum(1).mean() * torch.eye(len(x)).to(x)
    solution = torch.linalg.solve(x @ x.T + damping, x @ y.T)  # (32, C)
    transformation.uncompress.weight.copy_(solution.T[..., None, None])
    assert transformation.uncompress.bias is not None
    transformation.uncompress.bias.zero_()


def principal_axes(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the principal axes of features (B, C, H, W), centered per image, as (C, count), and their standard deviations."""
    centered = (features - features.mean((2, 3), keepdim=True)).transpose(0, 1).flatten(1).double()
    variances, axes = torch.linalg.eigh(centered @ centered.T / centered.shape[1])
    return axes[:, -count:], variances[-count:].clamp_min(1e-12).sqrt()


def compute_linearly(network: nn.Sequential, matrix: Tensor) -> None:
    """Makes convolutions with ReLUs between them compute a matrix (K, C) at each position, as the first K channels.

    Weights that have no part in it stay as they are.
    """
    rows = len(matrix)
    identity = torch.eye(rows).to(matrix)
    opposites = torch.cat([identity, -identity])  # (2 K, K)
    first, *middle, last = (module for module in network if isinstance(module, nn.Conv2d))
    set_center(first, opposites @ matrix)
    for conv in middle:
        set_center(conv, opposites @ opposites.T)
    set_center(last, opposites.T)


def set_center(conv: nn.Conv2d, matrix: Tensor) -> None:
    """Makes the first output channels of a convolution a matrix of the first input channels of the same position."""
    rows, columns = matrix.shape
    middle = conv.kernel_size[0] // 2
    conv.weight[:rows] = 0
    conv.weight[:rows, :columns, middle, middle] = matrix.to(conv.weight)
    assert conv.bias is not None
    conv.bias[:rows] = 0


def initialize_random(conv: nn.Conv2d) -> None:
    """Draws weights that keep the size of what a ReLU lets through; those of a depthwise convolution average."""
    assert conv.bias is not None
    nn.init.kaiming_normal_(conv.weight)
    nn.init.zeros_(conv.bias)
    if conv.groups > 1:
        weights = conv.weight.abs()
        conv.weight.copy_(weights / weights.sum((1, 2, 3), keepdim=True))


CONSTANT = 4.0
"""Value of the channels that are the same in all tokens at first, in standard deviations of the others."""


def initialize_tokens(model: StyTr2, images: Tensor) -> None:
    """Sets patch embedding and attention of StyTr2, see `stytr2`."""
    proj, transformer = model.embedding.proj, model.transformer
    patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2).flatten(0, 1)
    free = min(patches.shape[1], 3 * proj.out_channels // 4)
    variances, axes = torch.linalg.eigh(patches.T.cov().double())  # ascending
    scales = (variances + 0.1 * variances.mean()).rsqrt()
    weight = (axes * scales).T[-free:].to(patches)
    proj.weight.zero_()
    proj.weight[:free] = weight.unflatten(1, proj.weight.shape[1:])
    assert proj.bias is not None
    proj.bias[:free] = -weight @ patches.mean(0)
    proj.bias[free::2], proj.bias[free + 1 :: 2] = CONSTANT, -CONSTANT
    for module in transformer.modules():
        if isinstance(module, (EncoderLayer, DecoderLayer)):
            module.linear2.weight *= 0.1
        elif isinstance(module, nn.MultiheadAttention):
            module.out_proj.weight *= 0.1
    tokens = model.embedding(images)
    add_mean(transformer.encoder_c, tokens.mean((0, 2, 3)), free, -1)
    add_mean(transformer.decoder, transformer.encode_style(tokens).mean((0, 1)), free, 1)


def add_mean(stack: Stack, mean: Tensor, free: int, sign: int) -> None:
    """Makes the first attention of a stack add the mean of the attended tokens, times a sign, to all tokens.

    Args:
        stack: Of an encoder or the decoder.
        mean: Of such tokens, (C,).
        free: Number of channels before those that are the same in all tokens, which stay as they are.
        sign: 1 or -1.
    """
    attention = next(module for module in stack.modules() if isinstance(module, nn.MultiheadAttention))
    queries_and_keys, values = torch.split(attention.in_proj_weight, [2 * len(mean), len(mean)])
    queries_and_keys *= 0.1  # nearly uniform attention
    values.copy_(torch.eye(len(mean)))
    bias = attention.in_proj_bias[2 * len(mean) :]
    bias[:free], bias[free:] = 0, -mean[free:]
    attention.out_proj.weight.copy_(sign * torch.eye(len(mean)))
