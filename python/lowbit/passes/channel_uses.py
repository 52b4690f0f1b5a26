"""Which channels of a graph's values are read, and so must be computed; the others may leave."""

from __future__ import annotations

import numpy as np

from ..graph.ir import Array, Node
from .channels import Channels, inputs_read


class Uses:
    """Of each value that has channels: those that are read.

    anchors: constant channels that are computed all the same, as convolutions that pad cannot take constants in their
    bias; other such constants are multiples of them.
    """

    def __init__(self, channels: Channels) -> None:
        self._c = channels
        self.used, self.anchors = (
            {name: np.zeros(lane.fills.shape, bool) for name, lane in channels.lanes.items()} for _ in range(2)
        )
        for name in channels.graph.outputs:
            self._use(name, True)
        for node in reversed(channels.graph.nodes):
            self._ask(node)

    def needed(self, name: str) -> Array:
        """Which channels must be computed."""
        return self.used[name] & (np.isnan(self._c.lanes[name].fills) | self.anchors[name])

    def _use(self, name: str, which: Array | bool) -> None:
        if name in self.used:
            self.used[name] |= which

    def _ask(self, node: Node) -> None:
        out = node.outputs[0]
        if node.name in self._c.layers:
            self._ask_layer(node)
        elif node.name in self._c.links:
            link, needed = self._c.links[node.name], self.needed(out)
            first = 0
            for place in link.places:
                name = node.inputs[place]
                size = len(self._c.input_fills(node, place, link)) * link.repeat
                part = needed[first : first + size] if node.op == "concat" else needed
                first += size
                self._use(name, np.asarray(part.reshape(-1, link.repeat).any(axis=1)))
                if len(link.places) == 1 and link.repeat == 1 and name in self.anchors:
                    self.anchors[name] |= self.anchors[out]
            for place, name in enumerate(node.inputs):
                if place not in link.places:
                    self._use(name, True)
        else:
            for name in node.inputs:
                self._use(name, True)

    def _ask_layer(self, node: Node) -> None:
        weight, _, groups = self._c.parts(node)
        needed = self.needed(node.outputs[0])
        if self._c.lane_of_input(node) is None:
            self._use(node.inputs[0], True)
        elif groups == 1:
            rows = weight[needed]
            self._use(node.inputs[0], np.asarray(inputs_read(rows).any(axis=0)))
            self._ask_anchor(node, rows)
        else:
            alive = needed.reshape(groups, -1).any(axis=1)
            self._use(node.inputs[0], np.repeat(alive, weight.shape[1]))

    def _ask_anchor(self, node: Node, rows: Array) -> None:
        """Constants that a padded convolution cannot take in its bias become one channel, which is computed."""
        lane = self._c.lane_of_input(node)
        assert lane is not None
        beyond = np.nan_to_num(lane.fills) * ~self._c.takes_constants(node, lane.fills) * inputs_read(rows).any(axis=0)
        if beyond.any():
            self.anchors[node.inputs[0]][np.abs(beyond).argmax()] = True
