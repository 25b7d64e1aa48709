"""Nets as programs that run without jaxcnn: uint8 images in; probabilities, a layer or a score map out."""
