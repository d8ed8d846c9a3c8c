"""TensorFlow Lite files: detectors of the TF object-detection API, and MobileNet classifiers as backbones."""

from onestage.weights.projects.tflite import backbone, ssd

__all__ = ["backbone", "ssd"]
