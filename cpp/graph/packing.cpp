#include "graph/packing.h"

#include <algorithm>

namespace lowbit::graph {
namespace {

size_t room(const Storage& storage) {
  const size_t bytes = storage.bytes + Buffer::kSlack;
  return (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
}

}  // namespace

// Greedy by size: each storage goes into the tightest gap between those that live at the same time.
size_t pack(std::vector<Storage>& storages) {
  std::vector<Storage*> order, placed;
  for (Storage& storage : storages)
    if (storage.kind == Storage::Kind::arena && storage.last >= 0) order.push_back(&storage);
  std::stable_sort(order.begin(), order.end(), [](const Storage* a, const Storage* b) { return a->bytes > b->bytes; });
  size_t arena = 0;
  for (Storage* s : order) {
    const size_t size = room(*s);
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (const Storage* other : placed) {  // ascending offsets
      if (other->last < s->first || other->first > s->last) continue;
      if (other->offset >= end + size && other->offset - end < best_gap) best = end, best_gap = other->offset - end;
      end = std::max(end, other->offset + room(*other));
    }
    s->offset = best != SIZE_MAX ? best : end;
    arena = std::max(arena, s->offset + size);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), s,
                                   [](const Storage* a, const Storage* b) { return a->offset < b->offset; }),
                  s);
  }
  return arena;
}

}  // namespace lowbit::graph
