"""fc6, fc7 and fc8: the classifier of AlexNet and VGG."""

from dataclasses import replace

from jaxtyping import Array, Float

from jaxcnn.models.context import Context, Layout
from jaxcnn.models.initializers import Initializer
from jaxcnn.models.layers import Dropout, FullyConnected
from jaxcnn.models.net import Net, channels
from jaxcnn.models.window import Window

FULLY_CONNECTED = ("fc6", "fc7", "fc8")
HIDDEN = 4096


class ClassifierNet(Net):
    """An abstract net that ends in fc6, fc7 and fc8, with dropout after fc6 and fc7; a concrete one also
    defines `classifier_init`."""

    def classifier_init(self, name: str, inputs: int) -> Initializer:
        """The kernel initializer of a fully connected layer with this many input channels."""
        raise NotImplementedError

    def hidden_features(self) -> int:
        """Outputs of fc6, and of fc7."""
        return channels(HIDDEN, self.width)

    def output_features(self, name: str) -> int:
        """Outputs of a fully connected layer."""
        return self.num_classes if name == "fc8" else self.hidden_features()

    def fully_connected(self, size: int) -> frozenset[str]:
        return frozenset(name for name in FULLY_CONNECTED if self.output_features(name) % size == 0)

    def classify(
        self,
        x: Float[Array, "b h w c"],
        context: Context,
        bias: float = 0.0,
        activation: str = "relu",
    ) -> tuple[Array, Context]:
        """The class scores from the last pool's output `x`, and the context after fc8.

        `bias` is the initial bias of fc6 and fc7, and `activation` follows them.
        """
        for name in FULLY_CONNECTED:
            last, shards = name == "fc8", context.shard.shard_count(name)
            if shards == 1:
                x = context.shard.to_batch_sharded(x, context.layout)
                context = replace(context, layout=Layout.BATCH_SHARDED)
            else:
                x = context.shard.replicate(x, context.layout)
                context = replace(context, layout=Layout.FEATURE_SHARDED)
            layer = FullyConnected(
                self.output_features(name) // shards,
                Window(self.classifier_side() if name == "fc6" else 1),
                self.classifier_init(name, x.shape[-1]),
                bias=0.0 if last else bias,
                activation="none" if last else activation,
                dtype=self.dtype,
                output_dtype="float32" if last else "",
                name=name,
            )
            x, context = layer(x, context), context.after(layer.window)
            if not last:
                dropout = Dropout(self.dropout, self.dropout_convention, name=f"drop{name[-1]}")
                x = dropout(x, context)
        return context.shard.to_batch_sharded(x, context.layout), context
