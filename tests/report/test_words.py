import pytest

from alan.report.words import interval, listed, method_label, percent, plural, signed


def test_numbers_are_rounded_and_undefined_ones_dashed():
    assert (percent(0.72149), percent(None), percent(1.0, 0)) == ("72.1", "–", "100")
    assert (signed(-0.0312), signed(0.004), signed(None)) == ("−3.1", "+0.4", "–")


def test_intervals():
    value = {"mean": 0.5, "low": 0.4, "high": 0.6}
    assert interval(value) == {"mean": "50.0", "range": "40.0 to 60.0"}
    assert interval({"mean": 4.25, "low": 4.0, "high": 5.0}, "number")["range"] == "4.0 to 5.0"
    assert interval({**value, "low": None, "high": None}) == {"mean": "50.0", "range": ""}
    assert interval({"mean": None, "low": None, "high": None}) == interval(None) == {"mean": "–", "range": ""}


@pytest.mark.parametrize(
    ("parts", "text"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists(parts, text):
    assert listed(parts) == text


def test_counts_and_labels():
    assert (plural(1, "patient"), plural(1041, "image")) == ("1 patient", "1,041 images")
    assert (method_label("RAPTOR", "paper"), method_label("atlas", "")) == ("RAPTOR · paper’s rule", "atlas")
