"""The benchmark of StyleID, 20 photos by 40 paintings: ArtFID, its two factors, and metrics that need no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from stylezoo.metrics import (
    AST_LAYERS,
    FID,
    LPIPS,
    MICROAST_CONTENT_LAYERS,
    MICROAST_STYLE_LAYERS,
    AlexNet,
    ArtInception,
    art_fid,
    cfsd_distance,
    content_loss,
    histogan_distance,
    identify,
    ssim,
    style_loss,
)
from stylezoo.studies.base import StudyResult, new_figure, published, study
from stylezoo.studies.material import device
from stylezoo.studies.pairs import IDENTITY, STYLE_COPY, ImagePairs, measured_with, outputs, present, product_pairs
from stylezoo.studies.setups import PairSetup
from stylezoo.studies.verdicts import Row, order_of, same_order
from stylezoo.vgg import VGG

# StyleID (Chung et al. 2024), table of baselines, from memory; all rows satisfy ArtFID = (1 + LPIPS) (1 + FID).
PUBLISHED = {  # system: ArtFID, FID, LPIPS
    "adain": (30.933, 18.242, 0.6076),
    "adaconv": (31.856, 19.022, 0.5910),
    "artflow": (34.630, 21.252, 0.5562),
    "adaattn": (30.350, 18.658, 0.5439),
    "mast": (31.282, 18.199, 0.6293),
    "efdm": (34.605, 20.062, 0.6430),
    "stytr2": (30.720, 18.890, 0.5445),
    "cast": (34.685, 20.395, 0.6212),
    "aespa_net": (31.420, 19.760, 0.5135),
    "styleid": (28.801, 18.131, 0.5055),
}
PAPER = {name: published(name, "from memory") for name in ("ArtFID", "FID", "LPIPS")}
CONTENTS, STYLES, SIZE = 20, 40, 512  # jiwoogit/StyleID@d4ea655 data/cnt and data/sty
MEASURES = ("content", "style", "balanced", "SSIM", "HistoGAN", "CFSD")
CFSD_LAYER = "relu3_1"


@study(
    "styleid",
    source="StyleID (Chung et al. 2024); ArtFID (Wright & Ommer 2022)",
    paper="https://arxiv.org/abs/2312.09008",
    claim="Methods have this order of ArtFID.",
    judge=same_order("ArtFID", "paper: ArtFID (from memory)", by=["system"]),
)
def styleid(
    *,
    setup: PairSetup = PairSetup(),
    cfsd_pairs: int = 20,
) -> StudyResult:
    """ArtFID, FID and LPIPS of StyleID's 800 pairs, and six metrics that need no file of their own.

    Every photo is stylized with every painting: 20 by 40 images of 512 x 512 pixels in the protocol; if there are fewer
    pairs (images), the seed draws a part. ArtFID is (1 + LPIPS) (1 + FID) (Wright & Ommer 2022, arXiv:2207.12280), with
    plain FID between the outputs and as many copies of the paintings. It needs the files of two networks (`python -m
    stylezoo download art_inception`, `alexnet_torchvision`) and stays empty without them. Content and style loss are those
    of MicroAST's metrics, the balanced loss is that of `balanced_loss`.

    Args:
        setup: The models and pairs, see `stylezoo.studies.setups.PairSetup`.
        cfsd_pairs: Number of pairs that CFSD is measured on, which compares every position with every other.
    """
    alexnet, inception = _if_there(AlexNet), _if_there(ArtInception)
    pairs = product_pairs(setup.material, setup.images, setup.size, setup.held_out)
    networks = setup.networks()
    network = setup.measuring(networks)
    tallies = {label: Tally(network, alexnet, inception) for label in (IDENTITY, *networks, STYLE_COPY)}
    with torch.inference_mode():
        for index, (photo, painting) in enumerate(pairs):
            reference = Reference(network, photo.to(device()), painting.to(device()))
            for label, output in outputs(networks, photo, painting).items():
                tallies[label].add(output.to(device()), reference, with_cfsd=index < cfsd_pairs)
    rows: list[Row] = []
    for label, tally in tallies.items():
        system = networks[label].system if label in networks else ""
        rows.append({"model": label, "system": system, **tally.row(), **_paper(system)})
    ours = {row["system"] for row in rows}
    blank: Row = dict.fromkeys(rows[0])
    rows += [{**blank, "model": "", "system": name, **_paper(name)} for name in PUBLISHED if name not in ours]
    notes = [setup.origin, _networks(alexnet, inception), _protocol(pairs)]
    orders = (f"{name}: {order_of(rows, name, PAPER[name], by=['system'])}" for name in PAPER)
    notes.append(f"Order beside that of the published numbers, which are from memory: {'; '.join(orders)}.")
    notes.append(
        f"{measured_with(network, {**MICROAST_STYLE_LAYERS, **AST_LAYERS[network.depth]}, pairs)} CFSD at {CFSD_LAYER} of"
        f" {min(cfsd_pairs, len(pairs))} pairs, with the same network."
    )
    return StudyResult(rows, notes, {"": _figure(rows)})


class Reference:
    """A photo and a painting with their features.

    Args:
        network: The network that extracts the features.
        photo: (1, 3, H, W) in [0, 1].
        painting: (1, 3, H, W) in [0, 1].
    """

    def __init__(self, network: VGG, photo: Tensor, painting: Tensor) -> None:
        self.photo, self.painting = photo, painting
        layers = {*MICROAST_CONTENT_LAYERS, *MICROAST_STYLE_LAYERS, *AST_LAYERS[network.depth], CFSD_LAYER}
        self.layers = present(network, layers)
        self.photo_features, self.painting_features = (network(image, self.layers) for image in (photo, painting))


class Tally:
    """The measurements of one model's outputs.

    Args:
        network: The network of the losses and CFSD.
        alexnet: The network of LPIPS; None leaves LPIPS out.
        inception: The network of FID; None leaves FID out.
    """

    def __init__(self, network: VGG, alexnet: AlexNet | None, inception: ArtInception | None) -> None:
        self.network = network
        self.content, self.style, self.balanced = (
            {layer: weight for layer, weight in layers.items() if layer in network.channels}
            for layers in (MICROAST_CONTENT_LAYERS, MICROAST_STYLE_LAYERS, AST_LAYERS[network.depth])
        )
        self.lpips = None if alexnet is None else LPIPS(alexnet).to(device())
        self.fid = None if inception is None else FID(inception).to(device())
        self.values: dict[str, list[Tensor]] = {}

    def add(self, output: Tensor, reference: Reference, with_cfsd: bool) -> None:
        """Measures one output (1, 3, H, W) in [0, 1] of a pair, with or without CFSD."""
        features = self.network(output, reference.layers)
        values = {
            "style": style_loss(features, reference.painting_features, self.style),
            "balanced": style_loss(features, reference.painting_features, self.balanced, "balanced"),
            "SSIM": ssim(output, reference.photo),
            "HistoGAN": histogan_distance(output, reference.painting),
        }
        if self.content:
            values["content"] = content_loss(features, reference.photo_features, self.content)
        if with_cfsd and CFSD_LAYER in features:
            values["CFSD"] = cfsd_distance(features[CFSD_LAYER], reference.photo_features[CFSD_LAYER])
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.double().cpu())
        if self.lpips is not None:
            self.lpips.update(output, reference.photo)
        if self.fid is not None:
            self.fid.update(output, reference.painting)

    def row(self) -> Row:
        """Returns the means over the outputs; FID is that of all outputs and needs at least two."""
        lpips = None if self.lpips is None else self.lpips.result().value
        fid = None if self.fid is None or self.fid.n < 2 else self.fid.result().value
        product = None if lpips is None or fid is None else art_fid(lpips, fid).item()
        means = {name: torch.cat(self.values[name]).mean().item() if name in self.values else None for name in MEASURES}
        return {"ArtFID": product, "FID": fid, "LPIPS": lpips, **means}


Network = TypeVar("Network", AlexNet, ArtInception)


def _if_there(network: type[Network]) -> Network | None:
    """Returns the network, or None if its weights are not on this machine."""
    try:
        return network().to(device())
    except FileNotFoundError:
        return None


def _networks(alexnet: AlexNet | None, inception: ArtInception | None) -> str:
    sentences = []
    for metric, network, file in (("LPIPS", alexnet, "alexnet_torchvision"), ("FID", inception, "art_inception")):
        if network is None:
            get = f"python -m stylezoo download {file}"
            sentences.append(f"Without {metric} and ArtFID: the weights of {file} are not on this machine (`{get}`).")
        else:
            name, sha256 = identify(network)
            sentences.append(f"{metric} uses {name} (sha256 {sha256[:12]}).")
    return " ".join(sentences)


def _paper(system: str) -> Row:
    return dict(zip(PAPER.values(), PUBLISHED.get(system, (None,) * 3), strict=True))


def _protocol(pairs: ImagePairs) -> str:
    contents, styles = (len(set(side)) for side in zip(*pairs.files, strict=True))
    done = f"{len(pairs)} pairs of {contents} photos and {styles} paintings at {pairs.size} x {pairs.size} pixels"
    if (len(pairs), contents, styles, pairs.size) == (CONTENTS * STYLES, CONTENTS, STYLES, SIZE):
        return f"{done}, as in StyleID's protocol, if they are its images."
    return (
        f"{done}: not StyleID's protocol, which stylizes {CONTENTS} photos in {STYLES} styles each at {SIZE} x {SIZE}."
        " FID of fewer images is larger for every model."
    )


def _figure(rows: Sequence[Row]) -> Any:
    measured = [row for row in rows if row["model"]]
    columns = [name for name in ("ArtFID", "FID", "LPIPS", *MEASURES) if any(row[name] is not None for row in measured)]
    figure = new_figure(2.2 * len(columns), 1.4 + 0.3 * len(measured))
    axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    labels = [str(row["model"]) for row in measured]
    for axis, name in zip(axes, columns, strict=True):
        axis.barh(labels, [float(row[name] or 0.0) for row in measured])
        axis.set_title(f"{name} ({'higher' if name == 'SSIM' else 'lower'} is better)", fontsize=8)
    axes[0].invert_yaxis()
    return figure
