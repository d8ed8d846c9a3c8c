"""TensorFlow Lite: the SSDs and classifiers of TensorFlow's object-detection API."""
