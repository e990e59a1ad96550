"""Networks of metrics: from files, checked against their sha256, never downloaded unasked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from every_metric import alexnet

from stylezoo import weights
from stylezoo.download import DataError
from stylezoo.metrics import FID, AlexNet, ArtInception, identify


def test_alexnet_is_torchvisions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.alexnet(weights=None).eval()
    torch.save(reference.state_dict(), tmp_path / "alexnet.pth")
    network = AlexNet(str(tmp_path / "alexnet.pth"))
    image = torch.rand(2, 3, 70, 90)
    x = torchvision.transforms.functional.normalize(image, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    relus = {}
    for index, layer in enumerate(reference.features):
        x = layer(x)
        if index in (1, 4, 7, 9, 11):
            relus[f"relu{len(relus) + 1}"] = x.clone()
    features = network(image, network.layers)
    assert list(features) == list(relus)
    for name, expected in relus.items():
        torch.testing.assert_close(features[name], expected, rtol=1e-4, atol=1e-5)
    assert list(network(image, ["relu2"])) == ["relu2"]
    assert not any(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="AlexNet has no layer relu6: choose from relu1"):
        network(image, ["relu6"])


def test_inception_is_torchvisions_without_resize_and_normalization(tmp_path: Path) -> None:
    """With the file's own classifiers left out, and refused if anything else is missing (the reference ignores it)."""
    torch.manual_seed(0)
    reference = torchvision.models.Inception3(aux_logits=False, init_weights=False).eval()
    tensors = {key: value for key, value in reference.state_dict().items() if not key.startswith("fc")}
    classifiers = {"fc1.weight": torch.ones(3, 2048), "fc2.bias": torch.ones(5), "AuxLogits1.fc.bias": torch.ones(3)}
    torch.save({**tensors, **classifiers}, tmp_path / "art.pth")
    network = ArtInception(str(tmp_path / "art.pth")).train(False)
    image = torch.rand(2, 3, 96, 80)
    pooled = []
    reference.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    reference(image)
    torch.testing.assert_close(network(image), pooled[0], rtol=1e-4, atol=1e-5)
    assert network(image).shape == (2, 2048)
    with pytest.raises(ValueError, match="Inception needs 75 pixels or more, not 64 x 80"):
        network(torch.rand(1, 3, 80, 64))
    metric = FID(network)
    assert (metric.key.backbone, metric.key.sha256) == ("art_inception", network.sha256)
    del tensors["Mixed_7c.branch1x1.conv.weight"]
    torch.save(tensors, tmp_path / "art.pth")
    with pytest.raises(ValueError, match="These are no weights of Inception3: .*Mixed_7c.branch1x1.conv.weight"):
        ArtInception(str(tmp_path / "art.pth"))


@pytest.mark.parametrize(("network", "name"), [(AlexNet, "alexnet_torchvision"), (ArtInception, "art_inception")])
def test_missing_files_say_how_to_get_them(network: type[AlexNet | ArtInception], name: str) -> None:
    file = weights.table().metrics[name]
    words = f"python -m stylezoo download {name}.*without a network put the file from {file.url} there.*weights=PATH"
    with pytest.raises(FileNotFoundError, match=words):
        network()
    assert not weights.folder().exists() or file.path.name not in {f.name for f in weights.folder().iterdir()}


@pytest.mark.parametrize(("network", "name"), [(AlexNet, "alexnet_torchvision"), (ArtInception, "art_inception")])
def test_their_own_files_are_checked(network: type[AlexNet | ArtInception], name: str) -> None:
    path = weights.table().metrics[name].path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"something else")
    try:
        with pytest.raises(DataError, match="sha256"):
            network()
    finally:
        path.unlink()


def test_download_is_explicit_and_clear_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = weights.WeightFile(url="http://127.0.0.1:9/art_inception.pth", sha256="5bc1c203")
    monkeypatch.setitem(weights.table().metrics, "art_inception", nowhere)
    with pytest.raises(DataError, match="Cannot download http.*put the file from http.*art_inception.pth by hand"):
        weights.download("art_inception")
    with pytest.raises(ValueError, match="did you mean .art_inception."):
        weights.download("inception")


def test_networks_without_a_name_get_their_class_and_a_sha256_of_their_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, second = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 4, 1)
    assert identify(first)[0] == "Conv2d" and len(identify(first)[1]) == 64
    assert identify(first)[1] != identify(second)[1]
    second.load_state_dict(first.state_dict())
    assert identify(first) == identify(second)
    assert identify(None) == ("none", "")
    network = alexnet(tmp_path)
    assert identify(network) == ("alexnet", weights.digest(network.state_dict()))
