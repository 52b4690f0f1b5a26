#include "base/buffer.h"

#include <cstdint>
#include <cstring>
#include <new>

namespace lowbit {

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  if (bytes > SIZE_MAX - kSlack) throw std::bad_alloc();
  data_ = ::operator new(bytes + kSlack, std::align_val_t{kAlignment});
  std::memset(data_, 0, bytes + kSlack);
}

Buffer::~Buffer() { ::operator delete(data_, std::align_val_t{kAlignment}); }

}  // namespace lowbit
