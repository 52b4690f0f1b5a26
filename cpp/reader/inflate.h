// Raw streams of deflate (RFC 1951), read within bounds: what is damaged is refused.
#pragma once

#include <cstdint>
#include <span>

namespace lowbit::reader {

// Fills `out`. Returns what is wrong with the stream, or null: it must end with its last byte, and give no byte more or
// less.
const char* inflate(std::span<const uint8_t> stream, std::span<uint8_t> out);

}  // namespace lowbit::reader
