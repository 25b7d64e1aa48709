"""Files as Keras writes them, made with h5py."""

import io
import json
import zipfile

import h5py
import numpy as np

# The layers with parameters of keras.applications.VGG16, and the channels of a narrow one.
CONVS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}
LAYERS = [f"block{b}_conv{i}" for b, count in CONVS.items() for i in range(1, count + 1)]
LAYERS += ["fc1", "fc2", "predictions"]


def vgg16(seed=0):
    """Random arrays of a narrow VGG16 by Keras's names, LAYER/kernel and LAYER/bias."""
    generator, inputs, arrays = np.random.default_rng(seed), 3, {}
    for number, layer in enumerate(LAYERS):
        outputs = number + 4
        shape = (3, 3, inputs, outputs) if "conv" in layer else (inputs, outputs)
        arrays[f"{layer}/kernel"] = generator.normal(size=shape).astype(np.float32)
        arrays[f"{layer}/bias"] = generator.normal(size=outputs).astype(np.float32)
        inputs = outputs
    return arrays


def write_keras2016(path, arrays, order=None, **options):
    """Keras 1's .h5, of fchollet's first releases of VGG16."""
    with h5py.File(path, "w", **options) as file:
        layers = list(dict.fromkeys(name.split("/")[0] for name in arrays))
        file.attrs["layer_names"] = np.array([layer.encode() for layer in layers])
        for name in order or arrays:
            layer, leaf = name.split("/")
            group = file.require_group(layer)
            names = [f"{layer}_W_1:0", f"{layer}_b_1:0"]
            group.attrs["weight_names"] = np.array([text.encode() for text in names])
            group.create_dataset(names[leaf == "bias"], data=arrays[name])


def write_keras3_h5(path, arrays, order=None, **options):
    """Keras 3's .h5 of a whole model, whose attributes are texts of variable length."""
    with h5py.File(path, "w", **options) as file:
        root = file.create_group("model_weights")
        layers = list(dict.fromkeys(name.split("/")[0] for name in arrays))
        root.attrs["layer_names"] = layers
        for name in order or arrays:
            layer, leaf = name.split("/")
            root.create_dataset(f"{layer}/vgg16/{layer}/{leaf}", data=arrays[name])
        file.create_dataset("optimizer_weights/adam/iteration", data=np.int64(7))


def numbered(arrays):
    """LAYER/leaf -> the path in a .weights.h5."""
    counts, paths, groups = {"conv2d": 0, "dense": 0}, {}, {}
    for name in arrays:
        layer, leaf = name.split("/")
        if layer not in groups:
            kind = "conv2d" if "conv" in layer else "dense"
            groups[layer] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
        paths[name] = f"layers/{groups[layer]}/vars/{int(leaf == 'bias')}"
    return paths


def write_weights_h5(file, arrays, order=None, **options):
    """Keras 3's .weights.h5."""
    paths = numbered(arrays)
    with h5py.File(file, "w", **options) as root:
        for name in order or arrays:
            root.create_dataset(paths[name], data=arrays[name])
        root.create_group("vars")


def keras_config(arrays):
    """The parts of config.json that say what the layers are called."""
    layers = [{"class_name": "InputLayer", "config": {"name": "input"}}]
    for layer in dict.fromkeys(name.split("/")[0] for name in arrays):
        kind = "Conv2D" if "conv" in layer else "Dense"
        layers.append({"class_name": kind, "config": {"name": layer}})
    return json.dumps({"class_name": "Functional", "config": {"layers": layers}})


def write_keras(path, arrays, order=None, config=None, compression=zipfile.ZIP_STORED, **options):
    """Keras 3's .keras."""
    weights = io.BytesIO()
    write_weights_h5(weights, arrays, order, **options)
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", keras_config(arrays) if config is None else config)
        file.writestr("model.weights.h5", weights.getvalue())
