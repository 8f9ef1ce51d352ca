from pathlib import Path

import pytest

from stepwise.data.classes import class_table, find_class
from stepwise.foundation.errors import UserError

CLASSES = [{"name": "ship", "number": 3}, {"name": "Night Sky", "number": 7}, {"name": "flower", "number": 12}]


def paths(*names):
    return [Path("folder") / name for name in names]


def test_numbers_come_from_the_file_names():
    found, positions = class_table(
        paths("0012_0001.png", "0003_0001.png", "0012_0002.png", "0007_0004.jpg"), ["flower", "ship", "flower", "sky"]
    )
    assert found == [{"name": "ship", "number": 3}, {"name": "sky", "number": 7}, {"name": "flower", "number": 12}]
    assert positions == [2, 0, 2, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "b.png", "c.png"),
        ("0001_0001.png", "b.png", "0002_0001.png"),  # one of the files has no number
        ("0001_0001.png", "0002_0001.png", "0003_0001.png"),  # two numbers for zebra
    ],
)
def test_otherwise_the_number_is_the_place_in_the_alphabet(names):
    found, positions = class_table(paths(*names), ["zebra", "ant", "zebra"])
    assert found == [{"name": "ant", "number": 1}, {"name": "zebra", "number": 2}]
    assert positions == [1, 0, 1]


def test_the_table_does_not_depend_on_the_order_of_files():
    names, labels = ["0002_1.png", "0001_1.png", "0002_2.png"], ["b", "a", "b"]
    forwards, _ = class_table(paths(*names), labels)
    backwards, positions = class_table(paths(*reversed(names)), labels[::-1])
    assert forwards == backwards and positions == [1, 0, 1]


def test_every_number_names_one_class():
    """Two classes that share a number in their file names could not be told apart by --class NUMBER."""
    found, _ = class_table(paths("0001_0001.png", "0001_0002.png"), ["ship", "flower"])
    assert len({entry["number"] for entry in found}) == 2


@pytest.mark.parametrize(
    ("wanted", "position"),
    [("ship", 0), ("SHIP", 0), ("night sky", 1), ("3", 0), ("0003", 0), ("7", 1), ("12", 2), ("0012", 2)],
)
def test_find_class(wanted, position):
    assert find_class(CLASSES, wanted) == position


def test_a_name_comes_before_a_number():
    digits = [{"name": str(i), "number": i + 1} for i in range(10)]
    assert [find_class(digits, str(i)) for i in range(10)] == list(range(10))
    assert find_class(digits, "10") == 9


def error(wanted):
    with pytest.raises(UserError) as caught:
        find_class(CLASSES, wanted)
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def test_an_unknown_class_is_answered_with_all_there_are():
    text = error("horse")
    assert "Unknown class 'horse'." in text and "Did you mean" not in text
    assert "3 ship, 7 Night Sky, 12 flower" in text and "--class all" in text.splitlines()[-1]


def test_a_misspelt_class_gets_a_hint():
    assert "Did you mean flower?" in error("flowers")
    assert "Did you mean night sky?" in error("nightsky")


@pytest.mark.parametrize("wanted", ["0", "1", "-3", "3.0", "²", ""])
def test_numbers_that_no_class_has(wanted):
    assert f"Unknown class '{wanted}'" in error(wanted)


def test_the_exact_name_comes_before_one_that_differs_in_case_only():
    both = [{"name": "Rose", "number": 1}, {"name": "rose", "number": 2}]
    assert [find_class(both, name) for name in ("Rose", "rose", "ROSE")] == [0, 1, 0]


def test_unicode_has_several_ways_to_write_a_name():
    composed, decomposed = "B\u00e4ume", "Ba\u0308ume"
    assert find_class([{"name": decomposed, "number": 4}], composed) == 0
