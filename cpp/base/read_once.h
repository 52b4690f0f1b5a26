// Memory of the caller's may change while a call reads it. What is checked and then used is read once, into a value
// that the compiler may not read again.
#pragma once

namespace lowbit {

template <class T>
T read_once(const T* x) {
  return *static_cast<const volatile T*>(x);
}

}  // namespace lowbit
