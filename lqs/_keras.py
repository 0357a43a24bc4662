"""Every name of Keras that lqs needs and Keras has not published: nothing else in lqs imports `keras.src`.

Keras may move them without notice. `tests/lqs/test_keras.py` holds each of them to what lqs needs of it.
"""

from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import AutocastScope
from keras.src.export.export_utils import get_input_signature
from keras.src.models.functional import Functional

__all__ = ["AutocastScope", "Functional", "get_input_signature", "get_stateless_scope", "global_state"]
