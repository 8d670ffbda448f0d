"""Suggestions for misspelt names."""

import pytest

from alan.errors import nearest


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("stors", ["stores", "size"], "did you mean 'stores'? choose one of: size, stores"),
        ("x", ["stores", "size"], "choose one of: size, stores"),
        (
            "vit_05",
            [f"vit_{n:02}" for n in range(90)],
            r"did you mean 'vit_05'? choose one of 90, such as: vit_05",
        ),
        ("zzz", [f"vit_{n:02}" for n in range(90)], "choose one of 90, such as: vit_00, vit_01"),
    ],
)
def test_the_nearest_of_few_or_many_names_is_suggested(name, choices, message):
    found = nearest(name, choices)
    assert found.startswith(message)
    assert len(found) < 200
