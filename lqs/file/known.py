"""What the configuration of a model may name: what lqs knows of Keras, and what is registered in this process.

Whatever else Keras would find by its name, now or in a later version, is refused until it stands here: a class may have
its arguments be a program, or the path or address of one.
"""

import keras

# Their configurations hold code, or the path of a file to be loaded.
UNSAFE_CLASSES = ("__lambda__", "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
# Layers that read a file where this part of their configuration is a text.
READS_FILES = dict.fromkeys(("IntegerLookup", "StringLookup", "TextVectorization"), ("vocabulary", "idf_weights"))
NAMES = """
Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AdditiveAttention AlphaDropout Attention AugMix
AutoContrast Average AveragePooling1D AveragePooling2D AveragePooling3D BatchNormalization Bidirectional
CategoryEncoding CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization Conv1D Conv1DTranspose Conv2D
Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D Cropping3D CutMix
Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding Equalization Flatten GRU
GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention HashedCrossing
Hashing Identity InputLayer IntegerLookup LSTM LSTMCell LayerNormalization LeakyReLU Masking MaxNumBoundingBoxes
MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp MultiHeadAttention Multiply
Normalization PReLU Permute Pipeline RMSNormalization RNN RandAugment RandomBrightness RandomColorDegeneration
RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation
RandomSharpness RandomShear RandomTranslation RandomZoom ReLU RepeatVector Rescaling Reshape Resizing
ReversibleEmbedding STFTSpectrogram SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax Solarization
SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells StringLookup Subtract
TextVectorization TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D Wrapper ZeroPadding1D
ZeroPadding2D ZeroPadding3D
"""
LAYERS = frozenset(NAMES.split())
# The same of the applications, by the modules where they stand.
LAYERS_OF_APPLICATIONS = {
    "keras.src.applications.convnext": {"LayerScale", "StochasticDepth"},
    "keras.src.applications.inception_resnet_v2": {"CustomScaleLayer"},
}
MODELS = {
    "keras": {"DTypePolicy", "Model", "Sequential"},
    "keras.models": {"Model", "Sequential"},
    "keras.src.models.functional": {"Functional"},
}
# What layers and compiled models are made with: nothing in them reads, writes or runs anything.
PARTS = (
    "keras.activations",
    "keras.constraints",
    "keras.dtype_policies",
    "keras.initializers",
    "keras.losses",
    "keras.metrics",
    "keras.ops",
    "keras.optimizers",
    "keras.optimizers.schedules",
    "keras.random",
    "keras.regularizers",
)
OPERATIONS = "keras.src.ops."  # of functional models, such as a sum
OPTIMIZERS_OF_TORCH = "keras.src.backend.torch.optimizers."  # where those of a model that is compiled on torch stand
HELPERS = ("deserialize", "get", "serialize")  # in the modules of `PARTS`, too
VALUES = ("__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__")


def check_known(configuration, error):
    """Raise the exception class `error` if a part of a configuration has code in it, reads a file, or is not known."""
    parts = [configuration]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                _check_part(part, error)
            parts.extend(part.values())
        elif isinstance(part, list | tuple):
            parts.extend(part)


def _check_part(part, error):
    name, config = part["class_name"], part.get("config")
    if name in UNSAFE_CLASSES:
        raise error(f"The configuration of a model must not have code in it. Received: {name}")
    if not (_is_registered(part) or _is_known(part)):
        raise error(
            "The configuration of a model must name what lqs knows of Keras, or classes and functions that are "
            "registered by `keras.saving.register_keras_serializable` and imported here. "
            f"Received: {(config if name == 'function' else name)!r} of module {part.get('module')!r}"
        )
    for key in READS_FILES.get(name, ()):
        if isinstance(config, dict) and isinstance(config.get(key), str):
            raise error(f"The configuration of a model must not name files to be read. Received: {name}, {key!r}")


def _is_registered(part):
    """Return whether Keras finds a part by its registered name, where it looks first."""
    name = part["config"] if part["class_name"] == "function" else part.get("registered_name", part["class_name"])
    return isinstance(name, str) and keras.saving.get_registered_object(name) is not None


def _is_known(part):
    name, module = part["class_name"], part.get("module")
    if name in VALUES:
        return True
    if name == "function":
        return _is_known_function(part["config"], module)
    if not isinstance(name, str) or not isinstance(module, str) or name in HELPERS:
        return False
    if module == "keras.layers":
        return name in LAYERS
    named = {**LAYERS_OF_APPLICATIONS, **MODELS}.get(module, ())
    return name in named or module in PARTS or module.startswith((OPERATIONS, OPTIMIZERS_OF_TORCH))


def _is_known_function(name, module):
    if not isinstance(name, str) or name in HELPERS:
        return False
    found = (keras.activations, keras.losses, keras.metrics)
    return any(hasattr(part, name) for part in found) if module == "builtins" else module in PARTS
