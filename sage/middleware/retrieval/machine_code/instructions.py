"""What a processor can do and Python has no word for, as functions that numba compiles to one instruction."""

from __future__ import annotations

from typing import Any

from sage.middleware.retrieval.machine_code.compilation import load_numba

CACHE_LINE = 64
"""Bytes that come from memory at once."""


def compiled_bit_count() -> Any:
    """How many bits of a number of 64 bits are set."""
    numba = load_numba()

    def typed(context: Any, number: Any) -> Any:
        def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ctpop(arguments[0])

        return numba.types.uint64(numba.types.uint64), generated

    return numba.extending.intrinsic(typed)


def compiled_prefetch() -> Any:
    """``(array, byte)``: has the processor bring the cache line with this byte of an array, while it goes on. It is for
    places that no processor can guess, and changes no result."""
    numba = load_numba()
    ir = numba.core.cgutils.ir

    def typed(context: Any, array: Any, byte: Any) -> Any:
        def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bytes_, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.gep(builder.bitcast(data, bytes_), [arguments[1]])
            kind = ir.FunctionType(ir.VoidType(), [bytes_, number, number, number])
            function = numba.core.cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            builder.call(function, [address, number(0), number(3), number(1)])  # to read, into all caches, data
            return context.get_dummy_value()

        return numba.types.void(array, numba.types.int64), generated

    return numba.extending.intrinsic(typed)
