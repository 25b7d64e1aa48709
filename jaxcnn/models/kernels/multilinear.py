"""Operations whose derivatives have forms of their own, differentiable in every mode and to every order.

A convolution y = f(x, k) is linear in x and in k. With a cotangent c of y, the number <c, f(x, k)> is linear
in all three, and its gradient in each is computed from the other two: y from x and k, the gradient of x
from k and c, the gradient of k from x and c. The derivatives of these three, forward or reverse, are the same
three again. One JAX primitive that computes the wanted one from the others therefore serves every derivative,
each time in the form that is fast on the platform; `jax.custom_vjp` would forbid all modes but one reverse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

# Those that any operation has forms of its own for.
PLATFORMS = ("cpu", "cuda", "rocm")

Form = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Multilinear:
    """An operation with `terms`, each of which is linear in each of the others, and with constant arrays.

    Attributes:
      terms: the form of each term for every platform, a function of the constants, the other terms in order,
        and `like`, the type of the result. All arrays have as many axes.
      constants: the number of constant arrays, whose derivatives are zero.
      unbatched: the term whose first axis is not a batch, a kernel; -1 where every array has a batch.
      special: platform, one of PLATFORMS -> index of a term -> its form there.
    """

    terms: tuple[Form, ...]
    constants: int = 0
    unbatched: int = -1
    special: Mapping[str, Mapping[int, Form]] = field(default_factory=dict)

    def __call__(self, wanted: int, like: Any, *arrays: Array) -> Array:
        """Term `wanted`, with the shape and dtype of `like`, from the constants and the other terms."""
        constants = [lax.stop_gradient(array) for array in arrays[: self.constants]]
        operands = _equally_varying([*constants, *arrays[self.constants :]])
        params = {"wanted": wanted, "shape": like.shape, "dtype": jnp.dtype(like.dtype)}
        return _primitive.bind(*operands, operation=self, **params)

    def operands(self, wanted: int) -> list[int]:
        """The index of the term that each operand is; -1 for constants."""
        return [-1] * self.constants + [i for i in range(len(self.terms)) if i != wanted]


def bilinear(form: Form, special: Mapping[str, Mapping[int, Form]]) -> Form:
    """`form`(x, kernel), which is linear in both; x and the result have a batch. `special` as for
    `Multilinear`, with the terms of `bilinear_terms`."""
    operation = Multilinear(bilinear_terms(form), unbatched=1, special=special)
    return lambda x, kernel: operation(2, jax.eval_shape(form, x, kernel), x, kernel)


def bilinear_terms(form: Form) -> tuple[Form, Form, Form]:
    """The gradient of x, the gradient of the kernel, and `form`(x, kernel)."""

    def x(kernel: Array, y: Array, like: ShapedArray) -> Array:
        return jax.linear_transpose(lambda x: form(x, kernel), like)(y)[0]

    def kernel(x: Array, y: Array, like: ShapedArray) -> Array:
        return jax.linear_transpose(lambda kernel: form(x, kernel), like)(y)[0]

    return x, kernel, lambda x, kernel, like: form(x, kernel)  # noqa: ARG005


def _compute(
    platform: str, *arrays: Array, operation: Multilinear, wanted: int, **result: Any
) -> Array:
    """The wanted term in the form of a platform."""
    forms = operation.special.get(platform, {})
    like = _type(jax.typeof(arrays[0]), **result)
    return forms.get(wanted, operation.terms[wanted])(*arrays, like=like)


def _type(array: ShapedArray, *_: ShapedArray, shape: Any, dtype: Any, **__: Any) -> ShapedArray:
    """The type of a result, which inside a `jax.shard_map` varies along the same axes as the operands."""
    return array.update(shape=shape, dtype=dtype, weak_type=False)


def _equally_varying(arrays: list[Array]) -> list[Array]:
    """The arrays, which inside a `jax.shard_map` all vary along the axes along which any of them does: the
    gradient of one that is the same on several devices is then a sum over them."""
    varying = [_varying(array) for array in arrays]
    axes = frozenset[str]().union(*varying)
    return [
        lax.pcast(array, tuple(sorted(axes - own)), to="varying") if axes - own else array
        for array, own in zip(arrays, varying, strict=True)
    ]


def _varying(array: Array) -> frozenset[str]:
    kind = jax.typeof(array)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying


def _jvp(primals: Any, tangents: Any, **params: Any) -> tuple[Any, Any]:
    """The term and its tangent: a sum over the operands, without the constants, that have one."""
    bind = partial(_primitive.bind, **params)
    parts = [
        bind(*primals[:i], tangent, *primals[i + 1 :])
        for i, tangent in enumerate(tangents)
        if type(tangent) is not ad.Zero
    ]
    return bind(*primals), reduce(ad.add_tangents, parts)


def _transpose(cotangent: Any, *arrays: Any, operation: Multilinear, wanted: int, **_: Any) -> list:
    """The cotangent of the operand that is an `UndefinedPrimal`."""
    (unknown,) = [i for i, array in enumerate(arrays) if ad.is_undefined_primal(array)]
    found: list[Any] = [None] * len(arrays)
    if type(cotangent) is not ad.Zero:
        indices, like = operation.operands(wanted), arrays[unknown].aval
        terms = {**dict(zip(indices, arrays, strict=True)), wanted: cotangent}
        others = [terms[i] for i in operation.operands(indices[unknown]) if i >= 0]
        operands = (*arrays[: operation.constants], *others)
        found[unknown] = operation(indices[unknown], like, *operands)
    return found


def _batch(
    arrays: Any, axes: Any, *, operation: Multilinear, wanted: int, shape: Any, dtype: Any
) -> tuple[Array, int]:
    """Another batch axis joins the batch, or, where kernels have it, all are computed in the usual form."""
    kernels = [i >= 0 and i == operation.unbatched for i in operation.operands(wanted)]
    if wanted == operation.unbatched or any(
        kernel and axis is not None for kernel, axis in zip(kernels, axes, strict=True)
    ):
        params = {"operation": operation, "wanted": wanted, "shape": shape, "dtype": dtype}
        return jax.vmap(partial(_compute, "", **params), in_axes=tuple(axes))(*arrays), 0
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)

    def joined(array: Array, axis: int | None) -> Array:
        whole = (size, *array.shape)
        array = jnp.broadcast_to(array, whole) if axis is None else jnp.moveaxis(array, axis, 0)
        return array.reshape(-1, *array.shape[2:])

    operands = [
        array if kernel else joined(array, axis)
        for array, axis, kernel in zip(arrays, axes, kernels, strict=True)
    ]
    joint = jax.ShapeDtypeStruct((size * shape[0], *shape[1:]), dtype)
    return operation(wanted, joint, *operands).reshape(size, *shape), 0


_primitive = Primitive("multilinear")
_compiled = jax.jit(_primitive.bind, static_argnames=("operation", "wanted", "shape", "dtype"))


@_primitive.def_impl
def _evaluate(*arrays: Any, **params: Any) -> Array:
    with jax.disable_jit(False):  # otherwise `_compiled` would call this function again
        return _compiled(*arrays, **params)


_primitive.def_abstract_eval(_type)
ad.primitive_jvps[_primitive] = _jvp
ad.primitive_transposes[_primitive] = _transpose
batching.primitive_batchers[_primitive] = _batch
mlir.register_lowering(_primitive, mlir.lower_fun(partial(_compute, ""), multiple_results=False))
for _platform in PLATFORMS:
    _rule = mlir.lower_fun(partial(_compute, _platform), multiple_results=False)
    mlir.register_lowering(_primitive, _rule, platform=_platform)
