"""What BinaryConnect and XNOR-Net have in common: integers that are signs."""

from keras import ops

from lqs.rounding import Rounding, levels_of_signs


class Signs(Rounding):
    """Base of the roundings to the sign, 1 for zero."""

    clips = False

    def levels_of(self, bits):
        return levels_of_signs(self, bits)

    def integers(self, parameter, scale):
        return 2.0 * ops.cast(parameter >= 0, parameter.dtype) - 1.0
