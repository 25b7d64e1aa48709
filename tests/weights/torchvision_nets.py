"""torchvision's nets, for tests that compare with them."""

import importlib

import pytest


def import_torchvision():
    """torchvision; a build for another torch lacks its operators, which its nets do not use."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed: pip install -e '.[bench]'")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_torchvision.library = library  # the definition lives as long as this object
    return importlib.import_module("torchvision")


def preprocess(images):
    """What torchvision's pretrained nets take, from uint8[B,H,W,3]."""
    import torch

    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / deviation
