import dataclasses
import math
import pickle
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dni_fx.exporters import EXPORTERS
from dni_fx.frontends import FRONTENDS
from dni_fx.interface import INTERFACES
from dni_fx.policies import POLICIES
from dni_fx.runtimes import RUNTIMES
from dni_fx.synthesizers import SYNTHESIZERS
from passes import PASSES, Named, Registry, SpecError, UnknownNameError, parse


@dataclasses.dataclass(frozen=True)
class Sample(Named):
    name = "sample"
    count: int = 0
    rate: float = 0.5
    on: bool = False
    text: str = "no"
    at: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    rates: tuple[float, ...] = ()
    flags: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class Bare(Named):
    name = "bare"


@dataclasses.dataclass(frozen=True)
class Required(Named):
    name = "required"
    count: int
    items: tuple[str, ...] = dataclasses.field(default_factory=tuple)


SAMPLES: Registry[type[Named]] = Registry("sample", {"sample": Sample, "bare": Bare, "required": Required})
REGISTRIES = [EXPORTERS, FRONTENDS, INTERFACES, PASSES, POLICIES, RUNTIMES, SYNTHESIZERS]

numbers = st.floats(allow_nan=False)
# The marks of the text form and what JSON escapes, mixed with everything else.
texts = st.text(st.sampled_from(":=,+\"\\ \n\t'{}x0é\u2028\x1c\x00") | st.characters(), max_size=6)


@given(
    st.builds(
        Sample,
        count=st.integers(),
        rate=numbers,
        on=st.booleans(),
        text=texts,
        at=st.lists(texts, max_size=3).map(tuple),
        sizes=st.lists(st.integers(), max_size=3).map(tuple),
        rates=st.lists(numbers, max_size=3).map(tuple),
        flags=st.lists(st.booleans(), max_size=3).map(tuple),
    )
)
@example(Sample(rate=math.inf, rates=(-math.inf, 1e20, -1e-20)))
@example(Sample(count=-3, sizes=(-1,)))
@example(Sample(text=""))
@example(Sample(text='"', at=('"', "\\", '\\"')))
@example(Sample(text="a,count=1", at=("a+b", ",", "=")))
@example(Sample(at=("",)))
@example(Sample(at=("", "")))
@example(Sample(sizes=()))
def test_parse_undoes_str(sample):
    assert parse(str(sample), SAMPLES) == sample


@given(st.text(st.sampled_from('sample:,=+"\\ t1.-') | st.characters(), max_size=12))
@example("sample:text=" + '"\\"')
@example("sample:at=+")
def test_any_text_is_read_or_refused_by_name_or_by_form(end):
    for text in (end, "sample" + end, "sample:text=" + end, "sample:rates=" + end):
        try:
            choice = parse(text, SAMPLES)
        except (SpecError, UnknownNameError):
            continue
        assert parse(str(choice), SAMPLES) == choice


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        (Bare(), "bare"),
        (Sample(), "sample"),
        (Sample(count=-3, on=True), "sample:count=-3,on=true"),
        (Sample(rate=1e20), "sample:rate=1e20"),
        (Sample(rate=math.inf), "sample:rate=inf"),
        (Sample(text="a b"), 'sample:text="a b"'),
        (Sample(text='say "hi"'), r'sample:text="say \"hi\""'),
        (Sample(text=""), 'sample:text=""'),
        (Sample(text="1:2"), "sample:text=1:2"),
        (Sample(at=("a", "b")), "sample:at=a+b"),
        (Sample(at=("a+b", "c,d")), 'sample:at="a+b"+"c,d"'),
        (Sample(at=("",)), 'sample:at=""'),
        (Sample(sizes=()), "sample:sizes="),
        (Sample(rates=(1e20, 0.5)), "sample:rates=1e20+0.5"),
        (Sample(flags=(True, False)), "sample:flags=true+false"),
        (Required(3), "required:count=3,items="),
    ],
)
def test_the_text_form_shows_what_is_not_as_usual(choice, text):
    assert str(choice) == text
    assert parse(text, SAMPLES) == choice


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_entry_is_registered_under_its_own_name(registry):
    names = list(registry)
    assert names
    assert [registry.get(name).name for name in names] == names


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_every_entry_is_a_frozen_dataclass_that_text_can_name_whole(registry):
    for name in registry:
        choice = parse(name, registry)
        assert type(choice) is registry.get(name)
        assert str(choice) == name
        assert choice == type(choice)()
        assert hash(choice) == hash(type(choice)())
        assert pickle.loads(pickle.dumps(choice)) == choice
        for field in dataclasses.fields(choice):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(choice, field.name, None)


FORM = "The form is name:option=value,option=value; the items of a list are joined by +."


def caret(text, at):
    return f"cannot read a sample here:\n  {text}\n  {' ' * at}^\n{FORM}"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (
            "sampel",
            UnknownNameError,
            "no sample named 'sampel'. Did you mean 'sample'? Known: bare, required, sample.",
        ),
        ("zebra", UnknownNameError, "no sample named 'zebra'. Known: bare, required, sample."),
        (
            "sample:size=1",
            SpecError,
            "sample has no option 'size'. It takes: count, rate, on, text, at, sizes, rates, flags.",
        ),
        ("bare:size=1", SpecError, "bare has no option 'size'. It takes: none."),
        ("sample:on=true,on=true", SpecError, "sample is given the option 'on' twice."),
        ("sample:count=two", SpecError, "sample.count is int, and 'two' cannot be read as one."),
        ("sample:count=", SpecError, "sample.count is int, and '' cannot be read as one."),
        ("sample:count=1+2", SpecError, "sample.count takes one int, and got 2: 1, 2."),
        ("sample:on=yes", SpecError, "sample.on is bool, and 'yes' cannot be read as one."),
        ("sample:sizes=1+x", SpecError, "sample.sizes is int, and 'x' cannot be read as one."),
        (r'sample:text="\x"', SpecError, "sample.text is str, and '\"\\\\x\"' cannot be read as one."),
        ("", SpecError, caret("", 0)),
        (":count=1", SpecError, caret(":count=1", 0)),
        ("Sample", SpecError, caret("Sample", 0)),
        ("sample,!", SpecError, caret("sample,!", 6)),
        ("sample:", SpecError, caret("sample:", 6)),
        ("sample:count", SpecError, caret("sample:count", 6)),
        ("sample:count=1,", SpecError, caret("sample:count=1,", 14)),
        ("sample:count=1:on=true", SpecError, caret("sample:count=1:on=true", 17)),
        ("sample:text=a b", SpecError, caret("sample:text=a b", 13)),
        ('sample:text="a', SpecError, caret('sample:text="a', 12)),
        ('sample:text="a"b', SpecError, caret('sample:text="a"b', 15)),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(text, error, says):
    with pytest.raises(error, match=f"^{re.escape(says)}$"):
        parse(text, SAMPLES)
