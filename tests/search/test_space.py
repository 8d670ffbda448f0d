import pytest

from alan.errors import ParameterError
from alan.search.settings import SearchData, SearchSettings, StudySettings
from alan.search.space import Point, SearchSpace, point_key, why_not
from alan.supervised.settings import TrainingSettings

AXES = {"encoders": ("resnet18",), "decoders": ("unet",), "lrs": (1e-3,), "batch_sizes": (4,)}


def test_points_are_the_product_of_the_choices():
    space = SearchSpace(("a", "b"), ("c", "d", "e"), (1e-3, 1e-4), (4, 8), (3, 4, 5))
    points = space.points()
    assert len(points) == len(set(points)) == space.size == 2 * 3 * 2 * 2 * 3


def test_names_of_a_space_can_be_built():
    space = SearchSpace(("timm-regnety_120", "resnet18"), ("UNet++", "DeepLabV3+"), (1e-3,), (4,)).resolve_names()
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
        ({"lrs": (0.0,)}, r"lrs\[0\] is 0.0: give a number above 0"),
        ({"batch_sizes": (0,)}, r"batch_sizes\[0\] is 0"),
        ({"depths": (0,)}, r"depths\[0\] is 0"),
        ({"weights": {"resnet34": "w.pth"}}, "weights is given for resnet34, which is not among encoders"),
    ],
)
def test_invalid_spaces_are_refused(change, message):
    with pytest.raises(ParameterError, match=message):
        SearchSpace(**{**AXES, **change}).resolve_names()


def test_buildable_pairs_are_found():
    assert why_not("unet", "resnet18", 3, in_channels=3, classes=4) is None
    assert "no depth works" in why_not("deeplabv3", "densenet121", 5)
    assert "depth 4 would work" in why_not("dpt", "tu-vit_tiny_patch16_224", 5)


def test_every_pair_is_tried_before_the_first_trial():
    space = SearchSpace(**{**AXES, "encoders": ("resnet18", "vgg11"), "decoders": ("unet", "pan")})
    tried = []

    def builds(decoder, encoder, depth):
        tried.append((decoder, encoder, depth))
        return None if decoder == "unet" else f"pan over {encoder}: no depth works"

    message = r"pan over resnet18: no depth works \(1 more pairs.*\); or set space\.skip_impossible to true"
    with pytest.raises(ParameterError, match=message):
        space.check_pairs(builds, progress=False)
    assert tried == space.pairs()
    space.check_pairs(lambda *pair: None, progress=False)


def test_each_encoder_starts_from_its_own_weights():
    space = SearchSpace(
        **{**AXES, "encoders": ("resnet18", "timm-regnety_002"), "weights": {"timm-regnety_002": "w.pth"}}
    )
    data, study = SearchData(("a.h5",), ("lv",)), StudySettings(1)
    settings = SearchSettings(space.resolve_names(), data, TrainingSettings(), study)
    points = settings.space.points()
    weights = [settings.training_of(point).network.encoder_weights for point in points]
    assert [(point.encoder, value) for point, value in zip(points, weights, strict=True)] == [
        ("resnet18", None),
        ("tu-regnety_002", "w.pth"),
    ]


def test_different_points_have_different_keys():
    point = Point("resnet18", "unet", 5, 1e-3, 4)
    assert point_key(dict(reversed(point.to_dict().items()))) == point_key(point.to_dict())
    assert str(point) == "unet over resnet18, depth 5, lr 0.001, batch size 4"
