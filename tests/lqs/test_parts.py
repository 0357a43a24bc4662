"""Parts: built once, for one parameter; what they say of levels and scales."""

import keras
import pytest

import lqs
from lqs.parts import Levels, Part
from lqs.rounding import NamedRounding
from lqs.rules import FunctionRule, Measured

PARTS = [
    lqs.GradientRatio,
    lqs.StraightThrough,
    lqs.Frozen,
    Measured,
    lambda: FunctionRule(lambda *arguments: None),
    lambda: lqs.MaxBinPenalty(0.1),
    lambda: lqs.CodeLengthPenalty(0.1),
    lambda: NamedRounding("floor"),
]


@pytest.mark.parametrize("make", PARTS)
def test_takes_note_of_its_parameter(make):
    part = make()
    assert (part.shape, part.axes, part.levels) == (None, None, None)
    part.build([4, 3], [1], Levels(-2, 1))
    assert (part.shape, part.axes, part.levels) == ((4, 3), (1,), (-2, 1))
    part.build((4, 3), (1,), Levels(-2, 1))  # the same again is no harm
    assert part.get_build_config() is None


@pytest.mark.parametrize("other", [((4, 2), (1,), None), ((4, 3), (0,), None), ((4, 3), (1,), Levels(-2, 1))])
@pytest.mark.parametrize("make", [lqs.GradientRatio, lambda: lqs.InversePenalty(0.1), lambda: NamedRounding("floor")])
def test_belongs_to_one_parameter(make, other):
    part = make()
    part.build((4, 3), (1,), None)
    message = rf"^Each `lqs.NestedQuantization` needs a `{type(part).__name__}` of its own. Received: one for "
    with pytest.raises(ValueError, match=message + rf"parameters of the shapes \(4, 3\) and \({other[0][0]}, "):
        part.build(*other)
    assert (part.shape, part.axes, part.levels) == ((4, 3), (1,), None)


def test_shared_by_two_layers_is_refused_and_by_two_prototypes_is_not():
    rule = lqs.StraightThrough()
    prototypes = [lqs.NestedQuantization(rule=rule, bits=bits) for bits in (2, 3)]
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    levels = [q.levels.highest for _, q in lqs.inspection.quantized_parameters(lqs.quantize(model, *prototypes))]
    assert levels == [1, 3] and rule.shape is None
    prototypes[0].build((4, 3))
    with pytest.raises(ValueError, match="needs a `StraightThrough` of its own"):
        prototypes[1].build((4, 3))


@pytest.mark.parametrize("make", PARTS)
def test_scale_is_measured_by_some(make):
    part = make()
    assert part.measures_scale == isinstance(part, Measured)
    assert part.measures_scale or part.measured_scale(None) is None
    assert part.validate_levels(Levels(-2, 1)) is None


def test_subclass_that_measures_says_so():
    class Mine(Part):
        def measured_scale(self, parameter):
            return parameter

    assert Mine().measures_scale and not Part().measures_scale


@pytest.mark.parametrize("levels", [None, Levels(-2, 1)])
def test_levels_are_free_by_default(levels):
    assert Part().validate_levels(levels) is None
