"""Looking inside a model: gradient checks, the outputs of its layers, gradients of its input, and pictures.

Above the models; only the command line and programs import it.
"""
