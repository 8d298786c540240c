"""Find barriers that not every thread of a block reaches, in the source of kernels: on a GPU they hang or do worse.

Numba's simulator lets the threads that are left go on, so that no result shows it. Here a value *varies* if it may
differ between the threads of one block: ``cuda.threadIdx``, ``cuda.grid`` and whatever follows from them, directly or
because it was assigned where only some threads come by, or in a loop that some leave early. A fault is

* a ``cuda.syncthreads()`` inside an ``if``, a loop or an expression whose condition or range varies;
* a ``return`` where only some threads come by, if a barrier follows or is in a loop around it;
* a ``break`` or ``continue`` where only some threads come by, out of a loop with a barrier.

An element of an array varies with its index: what two threads read at the same place is the same, which is what
:mod:`races` proves of shared memory. Private arrays (``cuda.local.array``) vary as what is stored in them.
"""

import ast

SAME = ("cuda.blockIdx", "cuda.blockDim", "cuda.gridDim", "cuda.shared")  # for a whole block; all else of cuda varies
LOOPS = (ast.While, ast.For)


def kernels_of(source):
    """The functions under a ``cuda.jit`` decorator in a file's source, nested ones included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any("cuda.jit" in ast.unparse(d) for d in node.decorator_list):
            yield node


def divergent(kernel):
    """What is wrong with a kernel's barriers: a line for each fault."""
    parents = {inner: outer for outer in ast.walk(kernel) for inner in ast.iter_child_nodes(outer)}
    varying = _varying_names(kernel, parents)
    barriers = [node for node in ast.walk(kernel) if _is_barrier(node)]
    for node in ast.walk(kernel):
        if isinstance(node, ast.Attribute) and node.attr.startswith("sync") and node.attr != "syncthreads":
            yield f"line {node.lineno}: {ast.unparse(node)} is not understood here"
        elif isinstance(node, ast.Attribute) and node.attr == "syncthreads":
            if not _is_barrier(parents[node]):
                yield f"line {node.lineno}: a barrier under another name is not understood here"
            elif why := _why_some(node, parents, varying):
                yield f"line {node.lineno}: a barrier that only some threads reach: {why}"
        elif isinstance(node, ast.Return | ast.Break | ast.Continue) and barriers:
            why = _why_some(node, parents, varying)
            if why and any(_skipped(barrier, node, parents) for barrier in barriers):
                word = type(node).__name__.lower()
                yield f"line {node.lineno}: a {word} that only some threads take, before a barrier: {why}"


def _is_barrier(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "syncthreads"


def _ancestors(node, parents):
    """(child, parent) from a node up to the function."""
    while node in parents:
        yield node, parents[node]
        node = parents[node]


def _why_some(node, parents, varying):
    """The condition above a node that varies; empty where every thread comes by, or none."""
    for child, parent in _ancestors(node, parents):
        own = child is getattr(parent, "test", None) and not isinstance(parent, ast.While)  # evaluated by all, once
        if isinstance(parent, ast.While | ast.If | ast.IfExp) and not own:
            condition = parent.test
        elif isinstance(parent, ast.For) and child is not parent.iter:
            condition = parent.iter
        elif isinstance(parent, ast.BoolOp) and child is not parent.values[0]:
            condition = ast.BoolOp(parent.op, parent.values[: parent.values.index(child)])
        else:
            continue
        if _varies(condition, varying):
            return ast.unparse(condition)
    return ""


def _skipped(barrier, leaving, parents):
    """Whether a thread that leaves there would have met this barrier."""
    loops = [parent for _, parent in _ancestors(leaving, parents) if isinstance(parent, LOOPS)]
    if not isinstance(leaving, ast.Return):
        loops = loops[:1]
    inside = any(barrier in ast.walk(loop) for loop in loops)
    return inside or (isinstance(leaving, ast.Return) and barrier.lineno > leaving.lineno)


def _varies(expression, varying):
    for node in ast.walk(expression):
        if isinstance(node, ast.Name) and node.id in varying:
            return True
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if name.startswith("cuda.") and name.count(".") == 1 and name not in SAME:
            return True
    return False


def _varying_names(kernel, parents):
    """The names whose values may differ between the threads of a block: repeated until no more are found."""
    varying, before = set(), None
    while before != varying:
        before = set(varying)
        for node in ast.walk(kernel):
            if isinstance(node, ast.Assign):
                targets, value = node.targets, node.value
            elif isinstance(node, ast.AugAssign | ast.AnnAssign | ast.NamedExpr):
                targets, value = [node.target], node.value
            elif isinstance(node, ast.For):
                targets, value = [node.target], node.iter
            else:
                continue
            some = _why_some(node, parents, varying) or _in_a_loop_left_early(node, parents, varying)
            if some or (value is not None and _varies(value, varying)):
                varying.update(name for target in targets for name in _stored(target, varying))
    return varying


def _in_a_loop_left_early(node, parents, varying):
    loops = [node, *(parent for _, parent in _ancestors(node, parents))]
    inner = [inner for loop in loops if isinstance(loop, LOOPS) for inner in ast.walk(loop)]
    return any(isinstance(i, ast.Break | ast.Continue) and _why_some(i, parents, varying) for i in inner)


def _stored(target, varying):
    """The names that an assignment to a target makes vary. Elements of arrays do not, but for private arrays'."""
    if isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _stored(element, varying)
    elif isinstance(target, ast.Starred):
        yield from _stored(target.value, varying)
