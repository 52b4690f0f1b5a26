// Linear layers that read the same values as one product: q, k and v of attention, a gate and what goes through it.
#pragma once

#include "graph/graph.h"

namespace lowbit::graph {

// before: x -> linear(q) -> a, x -> linear(k) -> b
// after:  x -> linear(q | k) -> slice -> a, slice -> b
//
// and, where a goes through a function f of elements and then meets b in a product alone,
// after:  x -> linear(q | k) -> mul(gate = f)
//
// Of layers whose weights, attributes and other inputs are alike, where all who read a and b can read parts: slices
// cost nothing then. The layers' numbers lie one behind the other, so no bit changes. Takes any graph.
void merge_products(Graph& graph);

// The attribute of such a mul, which no file may have: the function of its first operand.
constexpr std::string_view kGate = "gate";

}  // namespace lowbit::graph
