"""What intrinsics are written with: the LLVM instructions that several of them need, and how a kernel gets to use them.

An *intrinsic* writes the few LLVM instructions that it stands for into the kernel that calls it. Each is defined twice,
under one name. The first definition is its NumPy *twin*: a Python function of a line or two that says, in arrays, what
is computed. The second, below it, writes the instructions::

    def vector_load(array, offset):  # the twin: what it means
        return array.reshape(-1)[offset : offset + LANES]

    @in_registers(vector_load)  # how it is done: in compiled code the name means this
    def _(typing_context, array, offset): ...

Called from Python, ``vector_load`` is the twin; called in a kernel, it is the instructions. So a kernel that is run as
plain Python, ``kernel.py_func(...)``, computes the same, and that is how the tests compare the two.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import infer, infer_global, make_intrinsic_template

from tinyconv.kernels.cpu.registers.host import LANES

INT32 = ir.IntType(32)
FLOAT_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_MASKED = {"float": ("f32", 4), "i32": ("i32", 4), "i8": ("i8", 1)}  # how masked accesses call a type, and align it


def in_registers(twin):
    """A decorator of an intrinsic's definition (see Numba's ``intrinsic``): what ``twin`` is in compiled code."""

    def register(definition):
        template = make_intrinsic_template(twin, definition, twin.__name__, prefer_literal=True)
        infer(template)
        infer_global(twin, types.Function(template))
        return twin

    return register


def pointer(context, builder, array_type, array, offset, llvm_type=None):
    """The address of element ``offset``; as the address of a whole ``llvm_type`` if one is given."""
    data = context.make_array(array_type)(context, builder, array).data
    place = builder.gep(data, [offset])
    return builder.bitcast(place, llvm_type.as_pointer()) if llvm_type else place


def fill(builder, value):
    """A vector with ``value`` in every lane."""
    vector = builder.insert_element(ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined), value, INT32(0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(INT32, LANES), [0] * LANES))


def constant(vector_type, value):
    """A vector with a number that is known now in every lane."""
    return ir.Constant(vector_type, [value] * LANES)


def lanes_below(builder, count):
    """A boolean vector: lane < count."""
    lanes = ir.Constant(ir.VectorType(count.type, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lanes, fill(builder, count))


def multiply_add(builder, a, b, c):
    """a * b + c in one instruction, rounded once, where the processor has one (llvm.fmuladd)."""
    kind = ir.FunctionType(FLOAT_VECTOR, [FLOAT_VECTOR] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(function, [a, b, c])


def load_masked(builder, pointer, mask, vector=FLOAT_VECTOR):
    """The numbers for which ``mask`` is true, and zeros for the others, whose memory is not touched."""
    kind, (name, align) = (
        ir.FunctionType(vector, [pointer.type, INT32, mask.type, vector]),
        _MASKED[str(vector.element)],
    )
    load = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}{name}.p0")
    return builder.call(load, [pointer, INT32(align), mask, ir.Constant(vector, None)])


def store_first(builder, stores, count):
    """Store the first ``count`` lanes of each vector to its address; ``stores`` has (vector, address) pairs. The memory
    behind them is not touched.

    AVX-512 has masks. Elsewhere a masked store takes ten times as long as a plain one, if there is one: so half of the
    lanes are stored if the count's binary digits say so, then a quarter, and so on.
    """

    def number(value):
        return ir.Constant(count.type, value)

    whole = builder.icmp_signed(">=", count, number(LANES))
    with builder.if_else(whole, likely=True) as (all_lanes, some_lanes):
        with all_lanes:
            for vector, place in stores:
                builder.store(vector, place, align=_align(vector))
        with some_lanes:
            if LANES == 16:
                for vector, place in stores:
                    _store_masked(builder, vector, place, lanes_below(builder, count))
                return
            left = builder.select(builder.icmp_signed(">", count, number(0)), count, number(0))
            size = LANES // 2
            while size:
                wanted = builder.icmp_signed("!=", builder.and_(left, number(size)), number(0))
                lanes = ir.Constant(ir.VectorType(INT32, size), list(range(size)))
                with builder.if_then(wanted):
                    for vector, place in stores:
                        part = builder.shuffle_vector(vector, vector, lanes)
                        place = builder.bitcast(place, part.type.as_pointer())
                        builder.store(part, place, align=_align(vector))
                step = builder.select(wanted, number(size), number(0))
                stores = [_behind(builder, vector, place, wanted, size, step) for vector, place in stores]
                size //= 2


def _behind(builder, vector, place, stored, size, step):
    """What is left to be stored of a vector, and where, if ``size`` lanes of it have been."""
    rest = ir.Constant(ir.VectorType(INT32, LANES), [min(i + size, LANES - 1) for i in range(LANES)])
    moved = builder.shuffle_vector(vector, vector, rest)
    first = builder.bitcast(place, vector.type.element.as_pointer())
    return builder.select(stored, moved, vector), builder.gep(first, [step])


def _align(vector):
    """The bytes of an element."""
    return _MASKED[str(vector.type.element)][1]


def _store_masked(builder, value, pointer, mask):
    """Store the lanes of ``value`` for which ``mask`` is true."""
    name, align = _MASKED[str(value.type.element)]
    kind = ir.FunctionType(ir.VoidType(), [value.type, pointer.type, INT32, mask.type])
    store = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}{name}.p0")
    builder.call(store, [value, pointer, INT32(align), mask])


def prefetch_line(builder, pointer, writing):
    """Ask for a cache line to be brought to the L2 cache, or, to be written soon, to the L1 cache."""
    place = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [place.type, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [place, INT32(int(writing)), INT32(3 if writing else 2), INT32(1)])
