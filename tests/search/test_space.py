import pytest

from alan.errors import ParameterError
from alan.search.space import Point, SearchSpace, point_key, why_not

AXES = {"encoders": ("resnet18",), "decoders": ("unet",), "lrs": (1e-3,), "batch_sizes": (4,)}


def test_points_are_the_product():
    space = SearchSpace(("a", "b"), ("c", "d", "e"), (1e-3, 1e-4), (4, 8), (3, 4, 5))
    points = space.points()
    assert len(points) == len(set(points)) == space.size == 2 * 3 * 2 * 2 * 3
    left = space.points([("c", "a", 5), ("d", "b", 3)])
    assert len(left) == space.size - 2 * 2 * 2
    assert ("c", "a", 5) not in {point.pair for point in left}


def test_names_are_those_that_are_built():
    space = SearchSpace(("timm-regnety_120", "resnet18"), ("UNet++", "DeepLabV3+"), (1e-3,), (4,)).checked()
    assert space.encoders == ("tu-regnety_120", "resnet18")
    assert space.decoders == ("unetplusplus", "deeplabv3plus")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoders": ("resnet81",)}, "unknown encoder 'resnet81': did you mean resnet18"),
        ({"decoders": ("unett",)}, "unknown decoder 'unett': did you mean 'unet'"),
        ({"decoders": ("unet_acdc",)}, "has no encoder to choose"),
        ({"encoders": ()}, "encoders is empty: the search space has no point"),
        ({"lrs": ()}, "lrs is empty"),
        ({"depths": ()}, "depths is empty"),
        ({"lrs": (1e-3, 1e-3)}, "lrs holds 0.001 twice"),
        ({"decoders": ("unet++", "unetplusplus")}, "decoders holds unetplusplus twice"),
        ({"lrs": (0.0,)}, "lrs holds 0.0: a learning rate must be above 0"),
        ({"batch_sizes": (0,)}, "batch_sizes holds 0: give at least 1"),
        ({"depths": (0,)}, "depths holds 0: give at least 1"),
    ],
)
def test_spaces_that_are_refused(change, message):
    with pytest.raises(ParameterError, match=message):
        SearchSpace(**{**AXES, **change}).checked()


def test_what_can_be_built():
    assert why_not("unet", "resnet18", 3, in_channels=3, classes=4) is None
    assert "no depth works" in why_not("deeplabv3", "densenet121", 5)
    assert "depth 4 would work" in why_not("dpt", "tu-vit_tiny_patch16_224", 5)


def test_impossible_pairs():
    space = SearchSpace(**{**AXES, "encoders": ("resnet18", "vgg11"), "decoders": ("unet", "pan")})

    def builds(decoder, encoder, depth):
        return "pan over vgg11: no depth works" if (decoder, encoder) == ("pan", "vgg11") else None

    with pytest.raises(ParameterError, match=r"no depth works; or set space\.skip_impossible"):
        space.impossible_pairs(builds, progress=False)
    lenient = SearchSpace(
        **{**AXES, **{k: getattr(space, k) for k in ("encoders", "decoders")}}, skip_impossible=True
    )
    assert lenient.impossible_pairs(builds, progress=False) == {
        ("pan", "vgg11", 5): "pan over vgg11: no depth works"
    }
    with pytest.raises(ParameterError, match=r"nothing \(3 more pairs"):
        lenient.impossible_pairs(lambda *pair: "nothing", progress=False)


def test_keys_tell_points_apart():
    point = Point("resnet18", "unet", 5, 1e-3, 4)
    assert point_key(dict(reversed(point.to_dict().items()))) == point_key(point.to_dict())
    assert str(point) == "unet over resnet18, depth 5, lr 0.001, batch size 4"
