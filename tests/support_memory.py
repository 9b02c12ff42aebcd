"""Peak memory by counting tensors, which no allocator's habits blur."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside it held at one time."""

    def __init__(self):
        super().__init__()
        self.made = []
        self.held = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.is_view:
            return out
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if is_tensor(tensor)
        }
        for tensor in filter(is_tensor, tree_leaves(out)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given:
                self.made.append((StorageWeakRef(storage), storage.nbytes()))
                self.held += storage.nbytes()
        # Only a new height is worth the look at what is gone by now.
        if self.held > self.peak:
            self.made = [entry for entry in self.made if not entry[0].expired()]
            self.held = sum(size for _, size in self.made)
            self.peak = max(self.peak, self.held)
        return out


def is_tensor(value):
    return isinstance(value, torch.Tensor)
