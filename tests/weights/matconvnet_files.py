"""Files as MatConvNet writes them, made with scipy."""

import numpy as np
import scipy.io


def cells(values):
    """A row of cells."""
    found = np.empty((1, len(values)), object)
    found[0, :] = values
    return found


def simple_nn(arrays, mean, classes, old=False):
    """The variables of a SimpleNN net. `arrays`: name -> (kernel, bias); `old`: before 1.0-beta8."""
    layers = []
    for name, (kernel, bias) in arrays.items():
        held = {"filters": kernel, "biases": bias} if old else {"weights": cells([kernel, bias])}
        layers.append({"name": name, "type": "conv", **held, "stride": np.array([[1.0, 1.0]])})
        layers.append({"name": f"relu_{name}", "type": "relu"})
    normalization = {"imageSize": np.array([[224.0, 224.0, 3.0]]), "averageImage": mean}
    names = {"name": cells(classes), "description": cells([f"a {name}" for name in classes])}
    meta = {"normalization": normalization, "classes": names}
    return {"layers": cells(layers), **(meta if old else {"meta": meta})}


def dag_nn(arrays, mean):
    """The variables of a DagNN net. `arrays`: name -> array."""
    params = np.empty(
        (1, len(arrays)), [("name", object), ("value", object), ("learningRate", object)]
    )
    params[0, :] = [(name, array, 1.0) for name, array in arrays.items()]
    meta = {"normalization": {"averageImage": mean}}
    layer = {"name": "conv1", "type": "dagnn.Conv", "params": cells(list(arrays))}
    return {"layers": layer, "params": params, "meta": meta}


def write(path, variables, compressed=True):
    scipy.io.savemat(path, variables, do_compression=compressed)
