// The builder, validation, choice of kernels and packing: a graph is refused with an Error, or there is a session.
#include "decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lowbit;
  for (const Isa isa : {default_isa(), Isa::scalar}) {
    try {
      fuzz::Decoder decoded(data, size);
      const graph::Session session(decoded.builder.finish(), isa, 1);
    } catch (const Error&) {
    }
  }
  return 0;
}
