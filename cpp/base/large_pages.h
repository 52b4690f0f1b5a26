// Memory for many buffers that live as long as each other, such as the packed weights of a model: cut one after the
// other from stretches of large pages. Layers of some hundred kilobytes would else lie in small pages, at each of which
// a CPU's prefetching begins anew and a translation is missed: products of one row, which read each weight once,
// take 1.3 to 2.5 times as long there.
#pragma once

#include <cstddef>

#include "base/shared.h"

namespace lowbit {

class LargePages {
 public:
  struct Stretch;
  struct Piece {
    void* data = nullptr;  // null: there is none
    Stretch* stretch = nullptr;
  };

  // From its construction to its end, the buffers that this thread makes are such pieces, if so many bytes are expected
  // that it pays.
  explicit LargePages(size_t expected);
  ~LargePages();
  LargePages(const LargePages&) = delete;
  LargePages& operator=(const LargePages&) = delete;

  static Piece take(size_t bytes);  // zeros
  static void give(Stretch* stretch) noexcept;

 private:
  Piece cut(size_t bytes);

  size_t expected_, used_ = 0;  // of all stretches; of this one
  Stretch* stretch_ = nullptr;
  LargePages* before_;
};

}  // namespace lowbit
