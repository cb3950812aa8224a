"""The README's table of everyday use and the tests that hold the project to it belong together."""

import importlib
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECTION = (HERE.parent / "README.md").read_text("utf-8").split("\n## Everyday use\n")[1].split("\n## ")[0]
TABLE = {
    name: (verdict, note)
    for name, verdict, note in re.findall(r"^\| (.*?) \| (.*?) ?\| (.*?) ?\|$", SECTION, re.MULTILINE)[2:]
}
FILES = ("parts", "hooks", "loops", "copies", "language", "wrappers")
ELSEWHERE = {"`torch.compile`": "test_compile.py"}


def marked_by_row():
    """What each marked test says of its row: a verdict, and the message where it is refused."""
    found = {}
    for name in FILES:
        module = importlib.import_module(f"tests.test_everyday_{name}")
        for each in vars(module).values():
            if hasattr(each, "row"):
                row, verdict, message = each.row
                found.setdefault(row, set()).add((verdict, message))
    return found


TESTS = marked_by_row()


def test_every_file_of_tests_is_looked_at():
    assert {path.stem for path in HERE.glob("test_everyday_*.py")} == {f"test_everyday_{n}" for n in FILES}


def test_every_row_has_a_test_and_every_test_a_row():
    assert len(TABLE) > 20
    assert TABLE.keys() == TESTS.keys() | ELSEWHERE.keys()
    assert all((HERE / file).is_file() for file in ELSEWHERE.values())


@pytest.mark.parametrize("name", sorted(TESTS))
def test_the_table_says_what_the_tests_show(name):
    verdict, note = TABLE[name]
    assert {shown for shown, _ in TESTS[name]} == {verdict}
    quotes = re.findall(r'"(.*?)"', note)
    assert bool(quotes) == (verdict == "refused")
    for _, message in TESTS[name]:
        assert verdict != "refused" or any(quote in message for quote in quotes), message
