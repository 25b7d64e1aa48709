"""BVLC's AlexNet, CaffeNet and GoogLeNet and Oxford's VGG as Caffe nets, as their prototxts have them."""

from tests.weights.caffe_writer import Chain, Layer

# A module's branches: Caffe's name after the module's, and jaxcnn's.
BRANCHES = {
    "1x1": "conv1x1", "3x3_reduce": "conv3x3_reduce", "3x3": "conv3x3", "5x5_reduce": "conv5x5_reduce",
    "5x5": "conv5x5", "pool_proj": "pool_proj",
}  # fmt: skip
HEADS = {"conv": "conv", "fc": "fc1", "classifier": "fc2"}
MODULES = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
GOOGLENET = {
    "conv1/7x7_s2": "conv1", "conv2/3x3_reduce": "conv2_reduce", "conv2/3x3": "conv2",
    **{f"inception_{m}/{a}": f"inception_{m}/{b}" for m in MODULES for a, b in BRANCHES.items()},
    **{f"loss{i}/{a}": f"aux_{m}/{b}" for i, m in ((1, "4a"), (2, "4d")) for a, b in HEADS.items()},
    "loss3/classifier": "fc",
}  # fmt: skip
POOL_BEFORE_NORM = ("pool", "norm")


def alexnet(blobs, order=("norm", "pool")):
    """BVLC AlexNet; with POOL_BEFORE_NORM, CaffeNet."""
    net = Chain(blobs)
    net.conv("conv1", stride=4)
    _norm_and_pool(net, "1", order)
    net.conv("conv2", pad=2, group=2)
    _norm_and_pool(net, "2", order)
    net.conv("conv3", pad=1)
    net.conv("conv4", pad=1, group=2)
    net.conv("conv5", pad=1, group=2)
    net.pool("pool5", 3, 2)
    return _classifier(net)


def vgg(blobs):
    """Oxford's net of the convolutions among `blobs`."""
    net = Chain(blobs)
    names = [name for name in blobs if name.startswith("conv")]
    for block in "12345":
        for name in names:
            if name.startswith(f"conv{block}"):
                net.conv(name, pad=blobs[name][0].shape[-1] // 2)
        net.pool(f"pool{block}", 2, 2)
    return _classifier(net)


def googlenet(blobs, modules=MODULES):
    net = Chain(blobs)
    net.conv("conv1/7x7_s2", stride=2, pad=3)
    net.pool("pool1/3x3_s2", 3, 2)
    net.lrn("pool1/norm1")
    net.conv("conv2/3x3_reduce")
    net.conv("conv2/3x3", pad=1)
    net.lrn("conv2/norm2")
    net.pool("pool2/3x3_s2", 3, 2)
    for module, following in zip(modules, (*modules[1:], "5"), strict=True):
        _inception(net, f"inception_{module}")
        if following[0] != module[0]:
            net.pool(f"pool{module[0]}/3x3_s2", 3, 2)
    net.pool("pool5/7x7_s1", 7, 1, how="AVE")
    net.full("loss3/classifier", last=True)
    return net.layers


def heads(blobs):
    """The auxiliary classifiers, which a published file has and its net for tests does not."""
    return [
        Layer(name, "Convolution" if name.endswith("conv") else "InnerProduct", blobs=blobs[name])
        for name in GOOGLENET
        if name.startswith(("loss1", "loss2"))
    ]


def _inception(net, name):
    bottom = (net.last,)
    net.conv(f"{name}/1x1", bottom=bottom)
    ends = [net.last]
    for side, pad in (("3x3", 1), ("5x5", 2)):
        net.conv(f"{name}/{side}_reduce", bottom=bottom)
        net.conv(f"{name}/{side}", pad=pad)
        ends.append(net.last)
    net.pool(f"{name}/pool", 3, 1, pad=1, bottom=bottom)
    net.conv(f"{name}/pool_proj")
    net.add(f"{name}/output", "Concat", bottom=(*ends, net.last))


def _norm_and_pool(net, number, order):
    for step in order:
        if step == "norm":
            net.lrn(f"norm{number}")
        else:
            net.pool(f"pool{number}", 3, 2)


def _classifier(net):
    net.full("fc6")
    net.full("fc7")
    net.full("fc8", last=True)
    return net.layers
