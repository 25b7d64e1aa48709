"""The base class of the nets: fields and their check, the plain call and the score map."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxcnn.models import ops
from jaxcnn.models.context import UNSHARDED, Context, ShardContext
from jaxcnn.models.window import Window, map_side, min_input_size


class Net(nn.Module):
    """An abstract net; a concrete one defines `trunk` and `forward`, and adds its own fields.

    Fields. num_classes: outputs. image_size: side in pixels of the images of the plain call; it fixes the
    kernel of the first fully connected layer or of the average pool. width: multiplies every channel count
    except num_classes. dtype: of the computation; parameters, logits and the sums of LRN are float32.
    dropout: the probability of zeroing. dropout_convention: 'inverted', or 'paper' (Krizhevsky et al. 2012,
    section 4.2). remat: recompute each block in the backward pass.
    """

    num_classes: int = 1000
    image_size: int = 224
    width: float = 1.0
    dtype: str = "float32"
    dropout: float = 0.5
    dropout_convention: str = "inverted"
    remat: bool = False

    # Fields with a closed list of values, and fields that are probabilities.
    choices: ClassVar[dict[str, tuple[Any, ...]]] = {}
    rates: ClassVar[tuple[str, ...]] = ("dropout",)

    def __post_init__(self):
        super().__post_init__()
        problems = self.problems()
        if problems:
            raise ValueError(f"{type(self).__name__}: " + "; ".join(problems))

    def problems(self) -> list[str]:
        """Errors in the values of the fields, one sentence each."""
        choices = {
            "dtype": ("float32", "bfloat16"),
            "dropout_convention": ("inverted", "paper"),
            **self.choices,
        }
        found = [
            f"{field}={getattr(self, field)!r} is not one of {', '.join(map(repr, allowed))}"
            for field, allowed in choices.items()
            if getattr(self, field) not in allowed
        ]
        if not found:  # the trunk depends on fields with choices
            smallest = min_input_size(self.trunk(), 1)
            if self.image_size < smallest:
                found.append(f"image_size={self.image_size} is too small: give {smallest} or more")
        found += [
            f"{field}={getattr(self, field)!r} is not a probability: give 0 <= {field} < 1"
            for field in self.rates
            if not 0 <= getattr(self, field) < 1
        ]
        if self.num_classes < 1:
            found.append(f"num_classes={self.num_classes} must be at least 1")
        if self.width <= 0:
            found.append(f"width={self.width} must be above 0; 1.0 is the paper's net")
        return found

    def trunk(self) -> tuple[Window, ...]:
        """The windows, in order, from the image to the feature map that the classifier reads."""
        raise NotImplementedError

    def forward(self, images: Array, context: Context) -> tuple[Array, tuple[Array, ...], Context]:
        """(scores, auxiliary logits, the context after the last layer); no sizes means the plain call."""
        raise NotImplementedError

    def fully_connected(self, size: int) -> frozenset[str]:
        """Names of the fully connected layers whose outputs a group of `size` devices can share evenly."""
        del size
        return frozenset()

    def towers_problem(self) -> str:
        """Why two devices cannot hold a tower each; '' where they can."""
        return f"{type(self).__name__} has no towers"

    def tower_layers(self) -> frozenset[str]:
        """Names of the layers whose outputs two towers share, where there is no `towers_problem`."""
        return frozenset()

    def classifier_side(self) -> int:
        """Side of the feature map that the classifier reads at image_size: 7 for VGG at 224."""
        return map_side(self.trunk(), self.image_size)

    def min_image_size(self) -> int:
        """The smallest image side for which `score_map` has a cell."""
        return min_input_size(self.trunk(), self.classifier_side())

    def supports_dense(self) -> bool:
        """Whether `score_map` takes images of any size."""
        return True

    def __call__(
        self, images: Float[Array, "b h w 3"], train: bool = False, shard: ShardContext = UNSHARDED
    ) -> tuple[Float[Array, "b k"], tuple[Float[Array, "b k"], ...]]:
        """Class scores before the softmax.

        Args:
          images: RGB of 0..255 minus the mean, image_size square.
          train: True drops values at random (rngs={'dropout': key}) and adds the auxiliary heads.
          shard: which layers this device shares with others, inside a `jax.shard_map`; parameters of a
            shared layer are this device's shard, along the last axis.

        Returns:
          (logits, auxiliary logits), both float32; the second is () where there are no auxiliary heads.
        """
        check_images(images)
        side = self.image_size
        if images.shape[1:3] != (side, side):
            raise ValueError(
                f"{type(self).__name__} was given {images.shape[1]}x{images.shape[2]} images but its "
                f"image_size is {side}: crop them to {side}x{side}, build the net with another "
                "image_size, or use method='score_map' for images of any size"
            )
        logits, aux, _ = self.forward(images, Context(train=train, shard=shard))
        return logits, aux

    def score_map(
        self, images: Float[Array, "b H W 3"], sizes: Int[Array, "b 2"]
    ) -> tuple[Float[Array, "b h w k"], Bool[Array, "b h w"]]:
        """Class scores at every position of images of any size, from the same parameters.

        The fully connected layers become convolutions (Simonyan and Zisserman 2014, section 3.2).
        An image of image_size has one cell, the plain call's logits; an image smaller than
        `min_image_size()` has none.

        Args:
          images: as for the plain call, padded on the right and at the bottom with anything.
          sizes: the true (height, width) of each image; results equal those of the image alone.

        Returns:
          (scores float32, zero where not valid; valid, the cells that each image has).
        """
        check_images(images)
        if not all(isinstance(side, int) for side in images.shape[1:3]):
            raise ValueError(
                f"score_map was given {images.shape[1]}x{images.shape[2]} images: fix the height and width, "
                "which decide the shapes of all maps; only the batch may be symbolic"
            )
        smallest = self.min_image_size()
        if min(images.shape[1:3]) < smallest:
            raise ValueError(
                f"score_map was given {images.shape[1]}x{images.shape[2]} images, too small for "
                f"{type(self).__name__} with image_size={self.image_size}: the smallest side is {smallest}"
            )
        scores, _, context = self.forward(ops.mask_outside(images, sizes), Context(sizes))
        assert context.sizes is not None
        return scores, ops.inside(context.sizes, scores.shape[1], scores.shape[2])


def check_images(images: Array) -> None:
    """ValueError unless images are [B,H,W,3] of a floating dtype."""
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images have shape {images.shape}; expected [B, H, W, 3]")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images are {images.dtype}; expected floats, RGB of 0..255 minus the mean: "
            "see jaxcnn.preprocessing"
        )


def channels(full: int, width: float, multiple: int = 1) -> int:
    """A channel count at a width, rounded to a multiple (the towers), at least one of each."""
    return multiple * max(1, int(full / multiple * width + 0.5))
