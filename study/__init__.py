"""The machinery of the companion: data sets, training, run records and figures. It imports `lqs`, never the reverse."""
