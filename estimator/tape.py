"""A small autograd that keeps account of storages instead of values.

Operations are written down as PyTorch records them: what they return, what they keep for
backward, what they need while they run. A storage lives exactly as long as Python refers to it,
as in PyTorch, so the account follows from the way the step is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from estimator.byte_account import Account, Shape, Size, Storage
from estimator.estimate import Component


class Node:
    """One operation in backward: whom its gradients go to, what it kept, what it needs.

    ``targets`` are the nodes of its inputs, each with the size of the gradient and its component.
    ``passes`` says that the gradient is handed on as it is, as an addition does, and
    ``gives_views`` that each input gets a part of it. ``checkpoint``
    is there where what it kept has to be computed again first.
    """

    __slots__ = ("checkpoint", "extra", "gives_views", "grad", "passes", "saved", "targets")

    def __init__(
        self,
        inputs: Iterable[Value],
        saved: list[Storage],
        extra: tuple[Size, ...] = (),
        passes: bool = False,
    ) -> None:
        self.targets: list[tuple[Node, Size, Component]] = [
            (one.node, one.size, one.kind) for one in inputs if one.node is not None
        ]
        self.saved = saved
        self.checkpoint: _Checkpoint | None = None
        self.extra = extra
        self.passes = passes
        self.gives_views = False
        self.grad: Storage | None = None

    def receive(self, grad: Storage) -> None:
        """Take a gradient; a later one is added to the first in place."""
        if self.grad is None:
            self.grad = grad

    def run(self, tape: Tape) -> None:
        """Turn the gradient that arrived into those of the inputs."""
        grad, self.grad = self.grad, None
        if grad is None:
            return
        if self.checkpoint:
            self.checkpoint.run_again(tape)
        if self.passes:
            for node, size, kind in self.targets:
                same = self.gives_views or size == grad.size
                node.receive(grad if same else Storage(tape.account, size, kind))
            return
        scratch = [Storage(tape.account, size) for size in self.extra]
        made = [(node, Storage(tape.account, size, kind)) for node, size, kind in self.targets]
        self.saved.clear()
        del scratch, grad
        while made:
            node, storage = made.pop(0)
            node.receive(storage)
            del storage


class _Split(Node):
    """Where one tensor is cut into several: their gradients are put together in a new one."""

    __slots__ = ("parts",)

    def __init__(self, value: Value) -> None:
        super().__init__((value,), [])
        self.parts: list[Storage] = []

    def receive(self, grad: Storage) -> None:
        """Take one part's gradient; it stays alive until all are there."""
        self.parts.append(grad)
        self.grad = grad

    def run(self, tape: Tape) -> None:
        """Make the whole gradient of the parts'."""
        parts, self.parts = self.parts, []
        super().run(tape)
        del parts


class Leaf(Node):
    """Where gradients end: a trained weight, or an input that requires gradients.

    Args:
        uses: How many gradients will arrive (two for tied embeddings).
        keeps: Whether their sum stays alive; not where it is added to one already there.
        adds_in_place: Whether the sum takes the first one's place.
    """

    __slots__ = ("adds_in_place", "keeps", "uses")

    def __init__(self, *, uses: int = 1, keeps: bool = False, adds_in_place: bool = True) -> None:
        super().__init__((), [])
        self.uses = uses
        self.keeps = keeps
        self.adds_in_place = adds_in_place

    def receive(self, grad: Storage) -> None:
        """Take one of the gradients that are to arrive."""
        if self.grad is not None and not self.adds_in_place:
            self.grad = Storage(grad.account, grad.size, grad.component)
        super().receive(grad)
        self.uses -= 1
        if self.uses == 0 and not self.keeps:
            self.grad = None


class _Checkpoint:
    """A stretch that kept only its input: the first node that wants more runs it again."""

    __slots__ = ("function", "nodes", "value")

    def __init__(self, function: Callable[[Value], Value], value: Value) -> None:
        self.function = function
        self.value = value
        self.nodes: list[Node] = []

    def run_again(self, tape: Tape) -> None:
        """Give the stretch's nodes what they would have kept, once."""
        if not self.nodes:
            return
        value = Value(self.value.shape, self.value.itemsize, self.value.storage, self.value.node)
        nodes, tape.nodes = tape.nodes, []
        num_held = len(tape.held)
        self.function(value)
        again, tape.nodes = tape.nodes, nodes
        del tape.held[num_held:]
        tape.account.forget_since(tape.last_save)  # it stops once the last saved tensor is there
        for node, same in zip(self.nodes, again, strict=True):
            node.saved = same.saved
        self.nodes = []


class Value:
    """A tensor in the forward pass; one without a node does not require gradients.

    ``storage`` is None for what is counted elsewhere: weights, and constants.
    """

    __slots__ = ("itemsize", "kind", "node", "shape", "storage")

    def __init__(
        self, shape: Shape, itemsize: int, storage: Storage | None, node: Node | None
    ) -> None:
        self.shape = shape
        self.itemsize = itemsize
        self.storage = storage
        self.node = node
        self.kind: Component = "temporaries"  # what its gradient counts as
        if isinstance(node, Leaf) and node.keeps and storage is None:
            self.kind = "gradients"
        elif storage is not None and storage.component == "logits":
            self.kind = "logits"

    @property
    def size(self) -> Size:
        """Its bytes."""
        return self.shape, self.itemsize


class Tape:
    """Records operations forward, and runs them backward."""

    def __init__(self) -> None:
        self.account = Account()
        self.nodes: list[Node] = []
        self.held: list[Storage] = []  # what operations keep until backward is done
        self.last_save = 0  # moments noted when backward's last wish was met
        self._checkpoint: _Checkpoint | None = None

    def op(
        self,
        inputs: tuple[Value, ...],
        shape: Shape,
        itemsize: int,
        *,
        saves: tuple[Value, ...] = (),
        holds: tuple[Value, ...] = (),
        owns: tuple[Value, ...] = (),
        saves_result: bool = False,
        keeps: tuple[Size, ...] = (),
        component: Component = "temporaries",
        needs: tuple[Size, ...] = (),
        backward_needs: tuple[Size, ...] = (),
        passes: bool = False,
    ) -> Value:
        """Record an operation that makes a new tensor, and return it.

        Args:
            inputs: What it takes; those with a history get a gradient of their own size.
            shape: The result's.
            itemsize: Bytes of one of its elements.
            saves: Values that backward wants: from here on they are activations.
            holds: The same, but they stay what they are (16-bit copies of weights).
            owns: Values that the operation's own context keeps: checkpointing does not know of
                them, and they stay until the whole backward pass is done.
            saves_result: Whether backward wants the result.
            keeps: Further results that only backward wants (a mask, row sums).
            component: What the result is.
            needs: What it takes and gives back while it runs.
            backward_needs: The same, in backward.
            passes: Whether backward hands the gradient on as it is.
        """
        if saves or holds:
            self.last_save = self.account.remember()
        scratch = [Storage(self.account, size) for size in needs]
        second = [Storage(self.account, size, "activations") for size in keeps]
        result = Value(shape, itemsize, Storage(self.account, (shape, itemsize), component), None)
        del scratch
        node = Node(inputs, [], backward_needs, passes)
        if not node.targets:
            return result
        result.node = node
        self.nodes.append(node)
        for storage in filter(None, (value.storage for value in owns)):
            self.held.append(storage)
            self._relabel(storage)
        wants = bool(saves or holds or saves_result or keeps)
        if self._checkpoint is not None:
            self._checkpoint.nodes.append(node)
            node.checkpoint = self._checkpoint if wants else None
        elif wants:
            for value in (*saves, result) if saves_result else saves:
                self._keep(node, value.storage)
            node.saved += [value.storage for value in holds if value.storage]
            node.saved += second
        if saves_result:
            self.last_save = self.account.remember()
        return result

    def _keep(self, node: Node, storage: Storage | None) -> None:
        if storage is None:
            return
        node.saved.append(storage)
        self._relabel(storage)

    def _relabel(self, storage: Storage) -> None:
        if storage.component == "temporaries":
            self.account.relabel("temporaries", "activations", storage.size)
            storage.component = "activations"

    def cast(self, value: Value, itemsize: int) -> Value:
        """Record a change of dtype, where there is one."""
        if value.itemsize == itemsize:
            return value
        component = value.storage.component if value.storage else "temporaries"
        kind = component if component == "logits" else "temporaries"
        return self.op((value,), value.shape, itemsize, component=kind)

    def slice(self, value: Value, shape: Shape) -> Value:
        """Record a view of a part; its gradient is a new tensor as large as the whole."""
        return self._view(value, shape, Node((value,), []))

    def split(self, value: Value, shapes: list[Shape]) -> list[Value]:
        """Record views that make up the whole."""
        node = _Split(value)
        return [self._view(value, shape, node) for shape in shapes]

    def _view(self, value: Value, shape: Shape, node: Node) -> Value:
        if not node.targets:
            return Value(shape, value.itemsize, value.storage, None)
        if node not in self.nodes[-1:]:
            self.nodes.append(node)
            if self._checkpoint is not None:
                self._checkpoint.nodes.append(node)
        return Value(shape, value.itemsize, value.storage, node)

    def join(self, parts: tuple[Value, ...], shape: Shape, itemsize: int) -> Value:
        """Record a concatenation; the parts' gradients are views of the whole one."""
        result = self.op(parts, shape, itemsize, passes=True)
        if result.node:
            result.node.gives_views = True
        return result

    def add(self, left: Value, right: Value) -> Value:
        """Record an addition."""
        itemsize = max(left.itemsize, right.itemsize)
        return self.op((left, right), left.shape, itemsize, passes=True)

    def checkpoint(self, function: Callable[[Value], Value], value: Value) -> Value:
        """Run ``function`` and keep only its input; backward will run it again."""
        checkpoint = self._checkpoint = _Checkpoint(function, value)
        result = function(value)
        self._checkpoint = None
        if checkpoint.nodes and value.storage:
            self._relabel(value.storage)
        return result

    def backward(self, down_to: int = 0) -> None:
        """Run what was recorded backward, the last first, until ``down_to`` nodes are left."""
        while len(self.nodes) > down_to:
            self.nodes.pop().run(self)
